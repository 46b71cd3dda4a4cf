//! How the work on a shard is going, as data.

use lease_store::Position;
use tokio::time::Instant;

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
    /// The application has what it acknowledges later, and no more is read before it does.
    Settling,
    /// A step failed and will be done again.
    BackingOff,
    /// The application has failed with a batch as often as the failure policy allows, and the policy is to halt: the batch
    /// is tried again at long intervals, and somebody has to look at it.
    Halted,
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
    /// In a bounded run: all that lies before the bound is acknowledged, and nothing more is read.
    pub has_reached_bound: bool,
    /// Attempts of the application's code that failed, panicked, or took too long.
    pub failed_attempts: u64,
    /// Records that went to the dead-letter sink.
    pub dead_letters: u64,
    /// Records that were passed because the failure policy says so: they are lost to the application.
    pub skipped_records: u64,
    /// How often the work was started anew, because it made no progress or the application let go of records.
    pub restarts: u64,
    /// When there was progress the last time: a read was answered, records were acknowledged, or a step was done.
    pub progressed_at: Option<Instant>,
    /// The newest error that made a step, or the work on a record, be done again; cleared when it succeeds, or when
    /// everything is acknowledged.
    pub last_error: Option<String>,
}
