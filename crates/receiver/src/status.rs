//! The status of a receiver and its shards, and the report of its stop, as plain data.

use std::time::Duration;

use lease_store::{Position, ShardId, WorkerId};
use shard_worker::{ByteUsage, ShardOutcome, ShardProgress, ShardState};

/// The phase of a receiver.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::Consumer;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }))
/// #     .build()?;
/// use receiver::ConsumerState;
///
/// let handle = consumer.handle();
/// assert_eq!(handle.status().state, ConsumerState::Starting);
/// handle.stop();
/// consumer.run().await?;
/// assert_eq!(handle.status().state, ConsumerState::Stopped);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It prepares the lease store and describes the stream.
    Starting,
    /// It takes leases and reads shards.
    Running,
    /// It hands over, drains and releases its shards.
    Stopping,
    /// It has ended.
    Stopped,
}

/// The state of the lease table, by the newest listing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::Consumer;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }))
/// #     .build()?;
/// use receiver::LeaseTableState;
///
/// assert_eq!(consumer.handle().status().lease_table, LeaseTableState::Available);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseTableState {
    /// The newest listing was answered and complete.
    Available,
    /// The newest listing lacks rows that this receiver knows. They are restored at their last known positions.
    RowsMissing,
    /// The table does not exist. Shards are read until their leases expire, then the receiver waits for the table.
    Missing,
    /// The newest listing failed: the table is unreachable, throttled, or denies access, for example because its key is
    /// disabled. Shards are read until their leases expire.
    Unavailable,
}

/// The status of a receiver.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::Consumer;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }))
/// #     .build()?;
/// let status = consumer.handle().status();
/// for shard in &status.shards {
///     println!("{}: {:?}", shard.shard_id, shard.progress.state);
/// }
/// assert_eq!((status.acknowledged_records, status.health().is_healthy()), (0, true));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The name of the worker.
    pub worker_id: WorkerId,
    /// Its phase.
    pub state: ConsumerState,
    /// Why it is still [`Starting`](ConsumerState::Starting): the error of the last attempt, which is repeated. `None` before
    /// the first failure and after the start.
    pub start_error: Option<String>,
    /// The shards it holds, in the order of their ids.
    pub shards: Vec<ShardStatus>,
    /// The final counts of shards that it no longer holds, in the order in which they ended: the newest
    /// [`MAX_RELEASED_SHARDS`]. Without them, a periodic reader misses the records acknowledged between its last reading
    /// and the end of a shard.
    pub released_shards: Vec<ReleasedShard>,
    /// Whether the lease table can be listed and is complete.
    pub lease_table: LeaseTableState,
    /// Why the newest listing of the leases failed; `None` if it was answered.
    pub lease_table_error: Option<String>,
    /// Whether it runs without a shard: it takes over as soon as another worker leaves or fails. Without a complete lease
    /// table it is no standby.
    pub is_standby: bool,
    /// Records acknowledged since its start, over all shards it held.
    pub acknowledged_records: u64,
    /// Payload bytes of those records.
    pub acknowledged_bytes: u64,
    /// Attempts of the application's code that failed since its start, over all shards it held.
    pub failed_attempts: u64,
    /// Records that went to the dead-letter sink since its start.
    pub dead_letters: u64,
    /// Records that the failure policy skipped since its start.
    pub skipped_records: u64,
    /// Leases it lost to other workers.
    pub lost_leases: u64,
    /// Leases it handed over to workers that requested them: no record is delivered twice.
    pub handed_over_leases: u64,
    /// Leases it released because their shards made no progress.
    pub given_up_leases: u64,
    /// How often another live process under the same worker id was seen: it renewed a lease, or took one from this worker.
    pub namesake_sightings: u64,
    /// The other live process under the same worker id, while there is one: host, pid and start. Give each process a worker
    /// id of its own.
    pub namesake: Option<String>,
    /// Whether it is the leader, which lists the shards for the fleet.
    pub is_leader: bool,
    /// Why this worker takes no leases at present; it keeps those that it holds. `None`: it takes leases. Set when a KCL 3.x
    /// fleet changes its mode, so that its leader assigns the leases.
    pub takes_refused: Option<String>,
    /// Shards that no worker reads: this worker holds its `max_leases`, and no other worker took their leases for four fail-over
    /// times. Raise `max_leases`, or start more workers. In the order of their ids, at most [`MAX_SHARDS_WITHOUT_WORKER`].
    pub shards_without_worker: Vec<ShardId>,
    /// The memory for records, over all shards that share its budget.
    pub memory: ByteUsage,
}

/// The status of one shard.
///
/// ```
/// use std::time::Duration;
/// use receiver::ShardStatus;
///
/// /// Whether records of the shard have waited for a minute.
/// fn is_late(shard: &ShardStatus) -> bool {
///     shard.oldest_unacknowledged_age.is_some_and(|age| age > Duration::from_secs(60))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The shard.
    pub shard_id: ShardId,
    /// The holder of its lease: this worker.
    pub owner: WorkerId,
    /// The lease counter when this worker took the lease. It grows with each new holder.
    pub lease_counter: u64,
    /// The time since the last progress. `None`: no progress yet. See [`ShardProgress::progressed_at`].
    pub since_progress: Option<Duration>,
    /// How long this worker holds the lease.
    pub held_for: Duration,
    /// How long steps or records have failed, whatever the retries and restarts in between. `None`: nothing fails. See
    /// [`ShardProgress::failing_since`].
    pub failing_for: Option<Duration>,
    /// The age of the oldest batch that is delivered and not completely acknowledged, by the clock of the stream. `None`: there
    /// is none. See [`ShardProgress::oldest_unacknowledged`].
    pub oldest_unacknowledged_age: Option<Duration>,
    /// How far the position of the shard lies behind, as a time: every record that arrived earlier is acknowledged. Unlike
    /// [`millis_behind_latest`](ShardProgress::millis_behind_latest) it also grows while the shard is halted, or cannot be read.
    /// `None`: the stream does not report it.
    pub position_age: Option<Duration>,
    /// The time since the last checkpoint. `None`: this holder has written none yet.
    pub since_checkpoint: Option<Duration>,
    /// The newest position that another writer stored in the row of the lease while this worker held it. It has no effect
    /// on the running shard, and the next checkpoint replaces it. To move a shard back, stop all workers first.
    pub edited_position: Option<Position>,
    /// The progress of its worker: state, lag, failures.
    pub progress: ShardProgress,
}

/// The most entries of [`ConsumerStatus::shards_without_worker`].
pub const MAX_SHARDS_WITHOUT_WORKER: usize = 1_000;

/// The most entries of [`ConsumerStatus::released_shards`]: more shards than one process holds.
pub const MAX_RELEASED_SHARDS: usize = 10_000;

/// The final counts of a shard that a receiver no longer holds.
///
/// ```
/// use receiver::ConsumerStatus;
///
/// /// Records that this worker acknowledged on shards that it reads no more.
/// fn acknowledged_before(status: &ConsumerStatus) -> u64 {
///     status.released_shards.iter().map(|shard| shard.acknowledged_records).sum()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleasedShard {
    /// The shard.
    pub shard_id: ShardId,
    /// The lease counter when the worker took the lease, as in [`ShardStatus::lease_counter`].
    pub lease_counter: u64,
    /// Records acknowledged under this lease.
    pub acknowledged_records: u64,
    /// Payload bytes of those records.
    pub acknowledged_bytes: u64,
    /// Spans of records that the stream removed, certainly or possibly, before this worker read them.
    pub lost_spans: u64,
}

/// The report of a receiver that has stopped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryLeaseStore;
/// # use receiver::Consumer;
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, batch| async move {
/// #         println!("{} records", batch.records().len());
/// #         Ok(())
/// #     }))
/// #     .build()?;
/// consumer.handle().stop();
/// let report = consumer.run().await?;
/// assert!(report.is_drained(), "not checkpointed: {:?}", report.unwritten);
/// assert!(report.is_complete(), "never read: {:?}", report.unread);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// The name of the worker.
    pub worker_id: WorkerId,
    /// The outcome of each shard it held when the stop began, or had requested or begun to take if its lease may have stayed
    /// with it. `None`: aborted after the drain time, so that its lease may still name this worker.
    pub shards: Vec<(ShardId, Option<ShardOutcome>)>,
    /// The shards with an acknowledged position that is not known to be stored, and whose lease no other worker is known to
    /// own: those whose lease was lost because the store could not be reached, also before the stop began. Records before
    /// these positions may be delivered again.
    pub unwritten: Vec<ShardId>,
    /// The rows and shards that could not be read when the stop began. Their records are missing until an operator
    /// repairs them.
    pub unread: Vec<Unread>,
    /// Records acknowledged since its start.
    pub acknowledged_records: u64,
}

/// A shard, or a row of the lease table, that could not be read.
///
/// ```
/// use receiver::{StopReport, Unread};
///
/// /// The leases whose records the fleet has not read.
/// fn unread_keys(report: &StopReport) -> Vec<&str> {
///     report.unread.iter().map(|unread: &Unread| unread.key.as_str()).collect()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// The shard, or the key of the row.
    pub key: String,
    /// Why.
    pub reason: UnreadReason,
}

/// Why a shard could not be read.
///
/// ```
/// use receiver::{StopReport, UnreadReason};
///
/// /// Prints what has to be repaired by hand.
/// fn print_malformed(report: &StopReport) {
///     for unread in &report.unread {
///         if let UnreadReason::MalformedRow(fault) = &unread.reason {
///             println!("{}: {fault}", unread.key);
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnreadReason {
    /// Its row in the lease table is malformed, for this reason. No worker takes it.
    MalformedRow(String),
    /// This worker held it in a state that only an operator ends: denied, without its key, halted, or with data lost.
    Stuck(ShardState),
    /// The stream removed records, or never had the shard: the number of certain and possible spans of records.
    Removed(u64),
}

impl StopReport {
    /// Whether the worker is [drained](Self::is_drained), and it knows of no row or shard that was not read.
    pub fn is_complete(&self) -> bool {
        self.is_drained() && self.unread.is_empty()
    }

    /// Whether the next owners deliver no record again that this worker has delivered: all are acknowledged and checkpointed,
    /// and no lease stays with it. A lease that another worker owns by now does not count.
    pub fn is_drained(&self) -> bool {
        let is_settled = |outcome: &Option<ShardOutcome>| {
            matches!(
                outcome,
                Some(ShardOutcome::Stopped { drained: true } | ShardOutcome::Ended | ShardOutcome::LeaseLost)
            )
        };
        self.unwritten.is_empty() && self.shards.iter().all(|(_, outcome)| is_settled(outcome))
    }
}
