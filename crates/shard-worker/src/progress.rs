//! The state and the counts of the work on a shard.

use lease_store::Position;
use tokio::time::Instant;

use crate::age::Age;
use crate::read::retention::RetentionAlarm;

/// What a shard worker is doing.
///
/// ```
/// use shard_worker::ShardState;
///
/// /// Whether someone has to look at the shard.
/// fn needs_help(state: ShardState) -> bool {
///     matches!(state, ShardState::Halted | ShardState::Denied | ShardState::KeyUnavailable | ShardState::DataLost)
/// }
/// assert!(needs_help(ShardState::Halted) && !needs_help(ShardState::Reading));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardState {
    /// The processor is being created.
    #[default]
    Initializing,
    /// Waiting for records, or reading them.
    Reading,
    /// The application is processing a batch.
    Processing,
    /// Waiting for late acknowledgements before the next read.
    Flushing,
    /// A step failed and will be retried.
    BackingOff,
    /// The application has failed with a batch as often as the failure policy allows, and the policy is to halt. The batch
    /// is retried at long intervals; an operator has to check it.
    Halted,
    /// Reads are denied and retried; an operator has to correct the credentials or the IAM policy.
    Denied,
    /// The encryption key of the stream cannot be used, and reads are retried; an operator has to correct the key or its
    /// policy.
    KeyUnavailable,
    /// The stream removed unread records, and the policy is to stop reading the shard; an operator has to decide.
    DataLost,
    /// The end of the shard is being recorded.
    Ending,
    /// The worker is stopping.
    Stopping,
    /// The work has ended.
    Finished,
}

/// The state and the counts of the work on a shard. Counts start when this worker took the shard.
///
/// ```
/// use shard_worker::ShardProgress;
///
/// /// A line for a log.
/// fn line(progress: &ShardProgress) -> String {
///     let behind = progress.millis_behind_latest.map_or("not known".to_owned(), |millis| format!("{millis} ms"));
///     format!("{} records, behind: {behind}", progress.acknowledged_records)
/// }
/// assert_eq!(line(&ShardProgress::default()), "0 records, behind: not known");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardProgress {
    /// What the worker is doing now.
    pub state: ShardState,
    /// Acknowledged records; sub-records count one by one.
    pub acknowledged_records: u64,
    /// Payload bytes of those records.
    pub acknowledged_bytes: u64,
    /// The newest acknowledged position; `None` before the first.
    pub acknowledged: Option<Position>,
    /// How far the newest read lies behind the tip of the shard, in milliseconds. `None`: not reported. While nothing is read it
    /// stays as it is, so it is no measure of a shard that is halted or cannot be read: see `read_up_to`.
    pub millis_behind_latest: Option<u64>,
    /// The age of the point up to which the shard was read: every record that is older was read. It grows while no read is
    /// answered. `None`: the source does not report how far a read lies behind the tip.
    pub read_up_to: Option<Age>,
    /// The age of the oldest batch with a record that is delivered and not acknowledged: the time since its first record
    /// arrived in the stream, or since its delivery if the stream does not report its time. `None`: there is no such batch.
    pub oldest_unacknowledged: Option<Age>,
    /// De-aggregated records (the format of the Kinesis Producer Library).
    pub aggregates: u64,
    /// Sub-records that were filtered because their hash keys belong to another shard.
    pub filtered_records: u64,
    /// Malformed aggregates, which were delivered as one record each.
    pub malformed_aggregates: u64,
    /// How much of the stream's retention period the lag has used up.
    pub retention_alarm: RetentionAlarm,
    /// Spans of records that the stream most likely removed before they were read.
    pub lost_spans: u64,
    /// Spans of records that the stream possibly removed before they were read.
    pub possibly_lost_spans: u64,
    /// In a bounded run: all records before the bound are acknowledged, and reading has stopped.
    pub has_reached_bound: bool,
    /// Attempts of the application's code that failed, panicked, or took too long.
    pub failed_attempts: u64,
    /// Records that went to the dead-letter sink.
    pub dead_letters: u64,
    /// Records that the failure policy skipped: they are lost to the application.
    pub skipped_records: u64,
    /// Restarts of the work, because it made no progress or because dropped records had to be read again.
    pub restarts: u64,
    /// The newest progress: an answered read, an acknowledgement, or a step that succeeded.
    pub progressed_at: Option<Instant>,
    /// The newest error that caused a retry of a step or a record; cleared when the retry succeeds, or when all records
    /// are acknowledged.
    pub last_error: Option<String>,
    /// Since when steps or records have failed without a sign that the cause is over: all delivered records acknowledged, or,
    /// for reads that failed, an answered read. Restarts of the processor do not change it. `None`: nothing fails.
    pub failing_since: Option<Instant>,
}

impl ShardProgress {
    /// Records an error that causes a retry.
    pub(crate) fn record_error(&mut self, error: String) {
        self.last_error = Some(error);
        self.failing_since.get_or_insert_with(Instant::now);
    }
}
