//! The work of a contender, and the SDK client for it.

use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};

use crate::shape::Shape;

/// Least time between two reads of a shard (AWS: five per second).
pub(crate) const READ_INTERVAL: Duration = Duration::from_millis(200);

/// The work of a contender.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) url: String,
    pub(crate) shape: Shape,
    pub(crate) shards: u64,
    pub(crate) answers: u64,
    /// How long idle or paced shards are measured.
    pub(crate) seconds: u64,
    /// Whether to count allocations, which costs time.
    pub(crate) counts: bool,
}

impl Job {
    pub(super) fn client(&self) -> Client {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("key", "secret", None, None, "local server"))
            .endpoint_url(&self.url);
        Client::from_conf(config.build())
    }

    pub(super) fn expected_records(&self) -> u64 {
        self.shape.records() * self.answers * self.shards
    }

    pub(super) fn is_timed(&self) -> bool {
        self.shape.records() == 0
    }
}
