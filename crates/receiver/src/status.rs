//! How a fleet member is doing, as data.

use std::time::Duration;

use lease_store::{ShardId, WorkerId};
use shard_worker::{ByteUsage, ShardOutcome, ShardProgress};

/// What a fleet member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiverState {
    /// Preparing the lease store and looking at the stream.
    Starting,
    /// A member of the fleet.
    Running,
    /// Finishing what it has.
    Stopping,
    /// Over.
    Stopped,
}

/// How a fleet member is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiverStatus {
    /// Its name.
    pub worker_id: WorkerId,
    /// What it is doing.
    pub state: ReceiverState,
    /// The shards it holds, in the order of their ids.
    pub shards: Vec<ShardStatus>,
    /// Running, but there is no shard for it: it takes over as soon as another worker goes away.
    pub is_standby: bool,
    /// Records acknowledged since its start, over all shards it held.
    pub acknowledged_records: u64,
    /// Payload bytes of those records.
    pub acknowledged_bytes: u64,
    /// Leases it lost to other workers.
    pub lost_leases: u64,
    /// Leases it handed over to workers that asked for them: nothing of those is read again.
    pub handed_over_leases: u64,
    /// Leases it gave up because their shards made no progress here.
    pub given_up_leases: u64,
    /// Whether it lists the shards for the whole fleet.
    pub is_leader: bool,
    /// The memory for records, over all shards that share the budget with it.
    pub memory: ByteUsage,
}

/// How one shard is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The shard.
    pub shard_id: ShardId,
    /// Who holds its lease: this worker.
    pub owner: WorkerId,
    /// The lease counter when this worker took it: larger for each new holder.
    pub lease_counter: u64,
    /// How long ago there was progress; `None`: not yet. See [`ShardProgress::progressed_at`].
    pub since_progress: Option<Duration>,
    /// How long ago a checkpoint was written; `None`: not yet by this holder.
    pub since_checkpoint: Option<Duration>,
    /// How the work on it is going: its state, its lag, what failed.
    pub progress: ShardProgress,
}

/// How a fleet member ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Its name.
    pub worker_id: WorkerId,
    /// What became of the shards it held when the stop began. `None`: cut off when the drain time was over.
    pub shards: Vec<(ShardId, Option<ShardOutcome>)>,
    /// Records acknowledged since its start.
    pub acknowledged_records: u64,
}

impl StopReport {
    /// Whether everything that was delivered is acknowledged and checkpointed, so that the next owners read nothing
    /// again. A lease that was lost in the meantime is its new owner's business and does not count.
    pub fn is_drained(&self) -> bool {
        self.shards.iter().all(|(_, outcome)| {
            matches!(
                outcome,
                Some(ShardOutcome::Stopped { drained: true } | ShardOutcome::Ended | ShardOutcome::LeaseLost)
            )
        })
    }
}
