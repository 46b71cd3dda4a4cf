//! What one call reports about a stream, for programs that watch it. Plain data.

use shard_worker::StreamDescription;

/// What the service reports about a stream in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// What a worker needs: identity, clock, retention and distribution.
    pub description: StreamDescription,
    /// The name of the stream.
    pub name: String,
    /// The status in the service's words, such as `ACTIVE`.
    pub status: String,
    /// How many shards take records; `None`: not reported.
    pub open_shards: Option<u32>,
    /// How many fan-out consumers are registered; `None`: not reported.
    pub fan_out_consumers: Option<u32>,
    /// The key that encrypts the records; `None`: they are not encrypted.
    pub encryption_key: Option<String>,
    /// The largest record that the stream accepts, in KiB; `None`: not reported.
    pub max_record_kib: Option<u32>,
}
