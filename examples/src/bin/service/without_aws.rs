//! A build without AWS: it has the embedded stream only.

use kinesis_streaming::prelude::*;
use toml::Table;

use crate::Backend;

/// Refuses the settings.
pub(crate) async fn connect(_settings: &Table, _application: &str) -> Result<Backend, BoxError> {
    Err("this build has no AWS: build it with the feature kinesis-asl, or remove the table `stream` from the settings".into())
}
