//! How the work on a shard is going, as data.

use lease_store::Position;

use crate::RetentionAlarm;

/// What a shard worker is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardState {
    /// The processor is being made.
    #[default]
    Initializing,
    /// Waiting for records, or reading them.
    Reading,
    /// The application has a batch.
    Processing,
    /// A step failed and will be done again.
    BackingOff,
    /// Reading is tried again and again, but is not allowed; somebody has to mend credentials or policy.
    Denied,
    /// Reading is tried again and again, but the key that the stream is encrypted with cannot be used; somebody has to
    /// mend the key or its policy.
    KeyUnavailable,
    /// Records that were not read are no longer in the stream, and the policy is not to go on behind them; somebody has to
    /// decide.
    DataLost,
    /// The end of the shard is being recorded.
    Ending,
    /// The worker is stopping.
    Stopping,
    /// The work is over.
    Finished,
}

/// How the work on a shard is going. Counts start when this worker took the shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardProgress {
    /// What the worker is doing.
    pub state: ShardState,
    /// Records that the application has acknowledged, those of an aggregate one by one.
    pub acknowledged_records: u64,
    /// Payload bytes of those records.
    pub acknowledged_bytes: u64,
    /// The newest acknowledged position; `None` before the first.
    pub acknowledged: Option<Position>,
    /// How far the newest read lies behind the tip of the shard, in milliseconds, where the source says so.
    pub millis_behind_latest: Option<u64>,
    /// Aggregated records that were taken apart (the format of the Kinesis Producer Library).
    pub aggregates: u64,
    /// Records in them that were left out because their hash keys belong to another shard.
    pub filtered_records: u64,
    /// Aggregated records that could not be read and were handed over as they are.
    pub malformed_aggregates: u64,
    /// How much of the stream's retention period the lag has used up.
    pub retention_alarm: RetentionAlarm,
    /// Stretches of records that were most likely lost, since the stream no longer keeps them.
    pub lost_spans: u64,
    /// The same where a loss is possible and no more is known.
    pub possibly_lost_spans: u64,
    /// In a bounded run: all that lies before the bound was fetched, and nothing more is.
    pub has_reached_bound: bool,
    /// Attempts of the application's code that failed or panicked.
    pub failed_attempts: u64,
    /// The newest error that made a step be done again; cleared when it succeeds.
    pub last_error: Option<String>,
}
