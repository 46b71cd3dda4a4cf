//! A stream of Kinesis and a lease table of DynamoDB.

use axum::Router;
use kinesis_streaming::prelude::*;
use toml::Table;

use crate::Backend;

/// Connects with these settings; `AwsSettings` explains each one.
pub(crate) async fn connect(settings: &Table, application: &str) -> Result<Backend, BoxError> {
    let settings: AwsSettings = settings.clone().try_into()?;
    let aws = KinesisAsl::connect(settings).await?;
    Ok(Backend::new(aws.stream(), aws.lease_store(application)?, Router::new()))
}
