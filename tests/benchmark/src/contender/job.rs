//! The work of a contender, and the SDK client for it.

use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use kinesis_streaming::prelude::BoxError;

use super::trust;
use crate::shape::Shape;

/// Least time between two reads of a shard (AWS: five per second).
pub(crate) const READ_INTERVAL: Duration = Duration::from_millis(200);

/// The work of a contender.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The URL of the server's own pages.
    pub(crate) url: String,
    /// The URL that the contender calls, with or without TLS.
    pub(crate) endpoint: String,
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    pub(crate) answers: u64,
    /// How long idle or paced shards are measured.
    pub(crate) seconds: u64,
    /// Whether to count allocations, which costs time.
    pub(crate) counts: bool,
}

/// Credentials of any kind: the server accepts all.
pub(super) fn credentials() -> Credentials {
    Credentials::new("key", "secret", None, None, "local server")
}

impl Job {
    pub(super) fn client(&self) -> Result<Client, BoxError> {
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials())
            .endpoint_url(&self.endpoint);
        if self.is_over_tls() {
            config = config.http_client(trust::http_client()?);
        }
        Ok(Client::from_conf(config.build()))
    }

    pub(super) fn is_over_tls(&self) -> bool {
        self.endpoint.starts_with("https://")
    }

    pub(super) fn expected_records(&self) -> u64 {
        self.shape.records() * self.answers * self.shards
    }

    pub(super) fn is_timed(&self) -> bool {
        self.shape.records() == 0
    }
}
