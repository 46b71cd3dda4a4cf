//! The handle of a running receiver, and the state that both share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpointer::Acknowledger;
use lease_store::{EditedPosition, HeldLease, ShardId, WorkerId};
use shard_worker::{ByteBudget, ByteUsage, ShardProgress, ShardState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::status::{
    ConsumerState, ConsumerStatus, LeaseTableState, MAX_RELEASED_SHARDS, ReleasedShard, ShardStatus,
    StopReport, Unread, UnreadReason,
};

/// Stops a running [`Consumer`](crate::Consumer) and reads its status.
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
/// let handle = consumer.handle();
/// let running = tokio::spawn(consumer.run());
/// println!("{:?}", handle.status().state);
/// let report = handle.stop_and_wait().await.expect("the consumer has run");
/// assert!(report.is_drained());
/// # running.await??;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    shared: Arc<Shared>,
}

impl ConsumerHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Requests a stop: the receiver takes no more leases, finishes its batches, checkpoints, releases its leases and ends.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Waits until the receiver has ended, whether or not a stop was requested. Returns what
    /// [`run`](crate::Consumer::run) returned; `None` if it failed, or its future was dropped.
    pub async fn stopped(&self) -> Option<StopReport> {
        self.shared.ended.cancelled().await;
        self.shared.live().stop_report.clone()
    }

    /// Requests a [stop](Self::stop), and waits until the receiver [has ended](Self::stopped).
    pub async fn stop_and_wait(&self) -> Option<StopReport> {
        self.stop();
        self.stopped().await
    }

    /// The present status of the receiver.
    pub fn status(&self) -> ConsumerStatus {
        let memory = self.shared.budget.usage();
        ConsumerStatus { memory, ..self.shared.live().status(&self.shared.worker_id) }
    }
}

/// The state that a running receiver and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    worker_id: WorkerId,
    pub(crate) stop: CancellationToken,
    /// Cancelled when the receiver has ended.
    ended: CancellationToken,
    pub(crate) budget: ByteBudget,
    live: Mutex<Live>,
}

/// Reports the end of a receiver, also when its future is dropped.
#[derive(Debug)]
pub(crate) struct EndReporter(pub(crate) Arc<Shared>);

impl Drop for EndReporter {
    fn drop(&mut self) {
        // A future that was dropped, or failed, leaves the state of its last step otherwise.
        self.0.live().state = ConsumerState::Stopped;
        self.0.ended.cancel();
    }
}

/// The part of the shared state that changes while the receiver runs.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) state: ConsumerState,
    /// Set when the receiver has ended without an error.
    pub(crate) stop_report: Option<StopReport>,
    /// The error of the last attempt to start.
    pub(crate) start_error: Option<String>,
    /// Whether the leases were scanned at least once.
    pub(crate) has_scanned: bool,
    pub(crate) shards: BTreeMap<ShardId, LiveShard>,
    /// Finished shards, at most [`MAX_RELEASED_SHARDS`].
    released: VecDeque<ReleasedShard>,
    /// The records of finished shards. Running shards count theirs in their progress.
    pub(crate) acknowledged_records: u64,
    pub(crate) acknowledged_bytes: u64,
    /// The failures of finished shards.
    failures: Failures,
    pub(crate) lost_leases: u64,
    pub(crate) handed_over_leases: u64,
    pub(crate) given_up_leases: u64,
    pub(crate) namesake_sightings: u64,
    pub(crate) namesake: Option<String>,
    pub(crate) is_leader: bool,
    /// Why this worker takes no leases at present.
    pub(crate) takes_refused: Option<String>,
    /// Shards that no worker reads, at most [`MAX_SHARDS_WITHOUT_WORKER`](crate::status::MAX_SHARDS_WITHOUT_WORKER).
    pub(crate) shards_without_worker: Vec<ShardId>,
    pub(crate) lease_table: LeaseTableState,
    /// Why the newest listing failed.
    pub(crate) lease_table_error: Option<String>,
}

/// The failures of shards since they were taken.
#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    attempts: u64,
    dead_letters: u64,
    skipped_records: u64,
}

impl Failures {
    fn add(&mut self, progress: &ShardProgress) {
        self.attempts += progress.failed_attempts;
        self.dead_letters += progress.dead_letters;
        self.skipped_records += progress.skipped_records;
    }
}

/// A running shard.
#[derive(Debug)]
pub(crate) struct LiveShard {
    pub(crate) held: Arc<HeldLease>,
    pub(crate) progress: watch::Receiver<ShardProgress>,
    pub(crate) acknowledger: Acknowledger,
    pub(crate) taken_at: Instant,
    /// The newest edit of the row that was logged.
    pub(crate) reported_edit: Option<EditedPosition>,
}

impl Shared {
    pub(crate) fn new(worker_id: WorkerId, budget: ByteBudget) -> Self {
        let live = Live {
            state: ConsumerState::Starting,
            stop_report: None,
            start_error: None,
            has_scanned: false,
            shards: BTreeMap::new(),
            released: VecDeque::new(),
            acknowledged_records: 0,
            acknowledged_bytes: 0,
            failures: Failures::default(),
            lost_leases: 0,
            handed_over_leases: 0,
            given_up_leases: 0,
            namesake_sightings: 0,
            namesake: None,
            is_leader: false,
            takes_refused: None,
            shards_without_worker: Vec::new(),
            lease_table: LeaseTableState::Available,
            lease_table_error: None,
        };
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        Self { worker_id, stop, ended, budget, live: Mutex::new(live) }
    }

    /// A seed for the times at which this worker reads the mode of the fleet: the same for the same name.
    pub(crate) fn mode_seed(&self) -> u64 {
        self.worker_id
            .as_str()
            .bytes()
            .fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()))
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Adds the counts of a finished shard to the totals.
    pub(crate) fn record_released(&mut self, shard: &LiveShard) {
        let (acknowledged_records, acknowledged_bytes, lost_spans) = {
            let progress = shard.progress.borrow();
            self.failures.add(&progress);
            (progress.acknowledged_records, progress.acknowledged_bytes, lost_spans(&progress))
        };
        self.acknowledged_records += acknowledged_records;
        self.acknowledged_bytes += acknowledged_bytes;
        if self.released.len() >= MAX_RELEASED_SHARDS {
            self.released.pop_front();
        }
        self.released.push_back(ReleasedShard {
            shard_id: shard.held.shard_id().clone(),
            lease_counter: shard.held.fencing_token().counter,
            acknowledged_records,
            acknowledged_bytes,
            lost_spans,
        });
    }

    /// The shards that are not read, or only in part.
    pub(crate) fn unread_shards(&self) -> Vec<Unread> {
        let released = self.released.iter().filter(|shard| shard.lost_spans > 0);
        let removed = released.map(|shard| Unread {
            key: shard.shard_id.to_string(),
            reason: UnreadReason::Removed(shard.lost_spans),
        });
        let unread = self.shards.iter().filter_map(|(shard_id, shard)| {
            let progress = shard.progress.borrow();
            let reason = match (progress.state, lost_spans(&progress)) {
                (
                    state @ (ShardState::Halted
                    | ShardState::Denied
                    | ShardState::KeyUnavailable
                    | ShardState::DataLost),
                    _,
                ) => UnreadReason::Stuck(state),
                (_, 0) => return None,
                (_, spans) => UnreadReason::Removed(spans),
            };
            Some(Unread { key: shard_id.to_string(), reason })
        });
        removed.chain(unread).collect()
    }

    fn status(&self, worker_id: &WorkerId) -> ConsumerStatus {
        let shards: Vec<ShardStatus> =
            self.shards.iter().map(|(shard_id, shard)| shard.status(shard_id)).collect();
        let records: u64 = shards.iter().map(|shard| shard.progress.acknowledged_records).sum();
        let bytes: u64 = shards.iter().map(|shard| shard.progress.acknowledged_bytes).sum();
        let mut failures = self.failures;
        shards.iter().for_each(|shard| failures.add(&shard.progress));
        ConsumerStatus {
            worker_id: worker_id.clone(),
            state: self.state,
            start_error: self.start_error.clone(),
            is_standby: self.has_scanned
                && shards.is_empty()
                && self.state == ConsumerState::Running
                && self.lease_table == LeaseTableState::Available,
            lease_table: self.lease_table,
            lease_table_error: self.lease_table_error.clone(),
            shards,
            released_shards: self.released.iter().cloned().collect(),
            acknowledged_records: self.acknowledged_records + records,
            acknowledged_bytes: self.acknowledged_bytes + bytes,
            failed_attempts: failures.attempts,
            dead_letters: failures.dead_letters,
            skipped_records: failures.skipped_records,
            lost_leases: self.lost_leases,
            handed_over_leases: self.handed_over_leases,
            given_up_leases: self.given_up_leases,
            namesake_sightings: self.namesake_sightings,
            namesake: self.namesake.clone(),
            is_leader: self.is_leader,
            takes_refused: self.takes_refused.clone(),
            shards_without_worker: self.shards_without_worker.clone(),
            memory: ByteUsage::default(),
        }
    }
}

fn lost_spans(progress: &ShardProgress) -> u64 {
    progress.lost_spans + progress.possibly_lost_spans
}

impl LiveShard {
    fn status(&self, shard_id: &ShardId) -> ShardStatus {
        let progress = self.progress.borrow().clone();
        ShardStatus {
            shard_id: shard_id.clone(),
            owner: self.held.fencing_token().owner.clone(),
            lease_counter: self.held.fencing_token().counter,
            since_progress: progress.progressed_at.map(|at| at.elapsed()),
            held_for: self.taken_at.elapsed(),
            failing_for: progress.failing_since.map(|since| since.elapsed()),
            oldest_unacknowledged_age: progress.oldest_unacknowledged.map(|age| age.now()),
            position_age: progress.read_up_to.map(|read| {
                let unacknowledged = progress.oldest_unacknowledged.map(|age| age.now());
                unacknowledged.unwrap_or_default().max(read.now())
            }),
            since_checkpoint: self.acknowledger.written_at().map(|at| at.elapsed()),
            edited_position: self.held.edited_position().map(|edited| edited.found),
            progress,
        }
    }
}
