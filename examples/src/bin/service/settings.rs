//! The settings of the service: defaults, then a file in TOML, then the environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use kinesis_streaming::prelude::*;
use serde::Deserialize;
use toml::{Table, Value};

/// The variables of the environment that are settings begin with this. `SERVICE__CONSUMER__DRAIN_TIME` is `drain_time` in the
/// table `consumer`.
const PREFIX: &str = "SERVICE__";

/// The application of the example, unless the settings name another one.
const DEFAULT_APPLICATION: &str = "word-service";

/// The settings of the service.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where HTTP is served. In a container: `0.0.0.0:8080`.
    pub(crate) listen: SocketAddr,
    /// Which log lines are written, as in `info,receiver=debug`.
    pub(crate) log: String,
    pub(crate) consumer: ConsumerSettings,
    /// The stream of Kinesis, as `AwsSettings`; without it the stream and the lease table are in memory.
    pub(crate) stream: Option<Table>,
    pub(crate) embedded: Embedded,
}

/// The stream in memory.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Embedded {
    pub(crate) shards: NonZeroUsize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            log: "info".to_owned(),
            consumer: ConsumerSettings::default(),
            stream: None,
            embedded: Embedded::default(),
        }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self { shards: NonZeroUsize::MIN }
    }
}

impl Settings {
    /// Reads the file, if there is one, and then the variables.
    pub(crate) fn load(
        file: Option<&str>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, BoxError> {
        let mut table = match file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?.parse()?
            }
            None => Table::new(),
        };
        let mut variables: Vec<(String, String)> =
            variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        for (name, text) in &variables {
            let path: Vec<String> =
                name.trim_start_matches(PREFIX).split("__").map(str::to_ascii_lowercase).collect();
            set(&mut table, &path, value(text)).map_err(|fault| format!("{name}: {fault}"))?;
        }
        let mut settings: Self = table.try_into()?;
        if settings.consumer.application.is_empty() {
            settings.consumer.application = DEFAULT_APPLICATION.to_owned();
        }
        Ok(settings)
    }
}

/// A value as TOML writes it, such as `17`, `true` or `["a"]`; any other text is a string.
fn value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Sets a value in nested tables.
fn set(table: &mut Table, path: &[String], value: Value) -> Result<(), &'static str> {
    match path {
        [] => Err("names no setting"),
        [name] => {
            table.insert(name.clone(), value);
            Ok(())
        }
        [name, rest @ ..] => {
            let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            set(inner.as_table_mut().ok_or("names a part of a setting that has none")?, rest, value)
        }
    }
}
