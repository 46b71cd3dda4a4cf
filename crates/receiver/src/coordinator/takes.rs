//! Takes of leases. Each is a task of its own that continues with the work on its shard, so that no shard waits for the
//! answer to the take of another one, and the first renewal counts from the answer.

use std::sync::Arc;

use fastrand::Rng;
use lease_store::{HeldLease, Lease, LeaseFacts, Position, ShardId, StoreErrorKind};
use shard_worker::ShardOutcome;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::{Duration, Instant};

use super::start_shard::ShardStarter;
use super::{Coordinator, StreamFacts};
use crate::lease::orders::millis_of;
use crate::lease::release::release_or_hand_over;
use crate::lease::shard_task::ShardEnding;
use crate::lease::take::take_patiently;

/// How many leases are taken at the same time.
pub(super) const MAX_CONCURRENT_TAKES: usize = 32;

/// A write that is not answered within this part of the fail-over time is not waited for any longer.
pub(super) const WRITE_PATIENCE_PER_FAILOVER_TIME: u32 = 10;

/// The bound of the numbers of rows: up to here a number is exact in every JSON parser.
const MAX_ROW_ID: u64 = 1 << 53;

/// How the task of a planned take ended.
#[derive(Debug)]
pub(super) enum TaskEnd {
    /// The lease was taken, and the work on the shard is over.
    Ended(ShardEnding),
    /// The lease was not taken, or it was taken during a stop and released at once.
    NotTaken {
        /// Whether the store failed.
        store_failed: bool,
    },
}

/// The end of the work on a shard; an error if its task panicked or was aborted.
pub(super) type WorkEnd = Result<ShardEnding, JoinError>;

impl Coordinator {
    /// Starts to take these leases. Each shard starts when its own take is answered.
    pub(super) fn take(&mut self, facts: &StreamFacts, wanted: Vec<Lease>) {
        if wanted.is_empty() {
            return;
        }
        let starter = Arc::new(self.shard_starter());
        for lease in wanted {
            self.requests.remove(&lease.shard_id);
            let (shard_id, rng) = (lease.shard_id.clone(), self.receiver.rng.fork());
            let take = PlannedTake {
                facts: self.facts_for(facts, &lease, &rng),
                seen: lease,
                patience: self.receiver.settings.failover_time / WRITE_PATIENCE_PER_FAILOVER_TIME,
                permits: self.take_permits.clone(),
                stream: facts.clone(),
                rng,
            };
            self.tasks.spawn(shard_id, take.run(starter.clone()));
        }
    }

    /// The facts that a new row or one of a KCL worker lacks, this process, and the floor of the counter.
    fn facts_for(&self, facts: &StreamFacts, lease: &Lease, rng: &Rng) -> LeaseFacts {
        let is_sentinel = matches!(lease.checkpoint, Position::Latest | Position::AtTimestamp);
        LeaseFacts {
            stream: Some(facts.identity.clone()),
            application: Some(facts.application.recorded().to_owned()),
            row_id: Some(rng.clone().u64(1..MAX_ROW_ID)),
            initial_time_millis: facts.initial_time_millis.filter(|_| is_sentinel),
            hash_key_range: self.sync.range_of(&lease.shard_id),
            owner_process: Some(self.receiver.process.text().to_owned()),
            counter_floor: self.counter_floor(facts),
        }
    }

    /// The least counter of a take at this time.
    pub(super) fn counter_floor(&self, facts: &StreamFacts) -> u64 {
        self.token_floor.at(facts.clock.map(|clock| clock.at(Instant::now())))
    }

    /// How many takes are not answered yet.
    pub(super) fn takes_in_flight(&self) -> usize {
        self.tasks.len().saturating_sub(self.receiver.shared.live().shards.len())
    }

    /// The end of the work on a shard. `None`: the task ended without a lease.
    pub(super) fn work_end(&mut self, ended: Result<TaskEnd, JoinError>) -> Option<WorkEnd> {
        match ended {
            Ok(TaskEnd::Ended(ending)) => Some(Ok(ending)),
            Ok(TaskEnd::NotTaken { store_failed }) => {
                if store_failed {
                    self.rounds.record_store_failure();
                }
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// A take that the plan of a round contains.
struct PlannedTake {
    seen: Lease,
    facts: LeaseFacts,
    patience: Duration,
    permits: Arc<Semaphore>,
    stream: StreamFacts,
    rng: Rng,
}

impl PlannedTake {
    async fn run(self, starter: Arc<ShardStarter>) -> TaskEnd {
        let Self { seen, facts, patience, permits, stream, mut rng } = self;
        let (stop, worker_id) = (&starter.shared.stop, &starter.worker_id);
        let shard_id: ShardId = seen.shard_id.clone();
        // A stop takes nothing that is still waiting for its turn.
        let turn = tokio::select! {
            biased;
            () = stop.cancelled() => return TaskEnd::NotTaken { store_failed: false },
            turn = permits.acquire() => turn,
        };
        // The semaphore is never closed.
        let Ok(turn) = turn else { return TaskEnd::NotTaken { store_failed: false } };
        let previous_owner = seen.owner.clone();
        let taken =
            take_patiently(starter.store.clone(), seen, worker_id, facts, patience, &permits, turn).await;
        let held = match taken {
            Ok(held) => Arc::new(held),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                tracing::debug!(%shard_id, %error, "another worker took the lease first");
                return TaskEnd::NotTaken { store_failed: false };
            }
            Err(error) => {
                tracing::warn!(%shard_id, %error, "lease not taken");
                return TaskEnd::NotTaken { store_failed: true };
            }
        };
        let taken_row = std::slice::from_ref(held.taken());
        if let Err(error) = stream.check_rows(starter.store.name(), taken_row) {
            // The row was deleted and created again for another stream or application after it was listed.
            if let Err(error) = held.release().await {
                tracing::debug!(%shard_id, %error, "lease of another stream or application not released");
            }
            stream.border.cross(error);
            return TaskEnd::NotTaken { store_failed: false };
        }
        if stop.is_cancelled() {
            return release_at_once(&held).await;
        }
        if held.taken().is_paused(millis_of(starter.clock())) {
            tracing::info!(%shard_id, "an operator paused the shard while it was taken, releasing it");
            return release_at_once(&held).await;
        }
        let previous_owner = previous_owner.as_ref().map_or("none", |owner| owner.as_str());
        tracing::info!(%shard_id, previous_owner, checkpoint = %held.taken().checkpoint, "lease taken");
        TaskEnd::Ended(starter.run(held, &mut rng).await)
    }
}

/// Releases a lease whose take was answered after a stop, or during a pause. If it stays with this worker, the stop reports it.
async fn release_at_once(held: &HeldLease) -> TaskEnd {
    let handed_over_to = release_or_hand_over(held).await;
    if held.last_known().await.is_owned_by(&held.fencing_token().owner) && held.lost_to().is_none() {
        let outcome = ShardOutcome::Stopped { drained: false };
        return TaskEnd::Ended(ShardEnding::new(outcome, handed_over_to));
    }
    TaskEnd::NotTaken { store_failed: false }
}
