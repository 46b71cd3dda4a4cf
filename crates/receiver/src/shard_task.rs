//! One shard in the hand of a receiver: its worker, and beside it the keeper of its lease and the watchdog.

use std::num::NonZeroU32;
use std::sync::Arc;

use checkpointer::{CheckpointTrigger, RetryPolicy};
use lease_store::{HeldLease, StoreError, StoreErrorKind, WorkerId};
use shard_worker::{Interventions, ShardOutcome, ShardProgress, ShardWorker, WatchdogLimits};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::keeper::keep;
use crate::supervision::supervise;

/// How a lease that was refused its last write is written again.
const LAST_WRITE_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(1))
        .with_max_attempts(NonZeroU32::MIN.saturating_add(4));

/// A shard worker and its lease. Dropping the running future stops both without a trace in the store.
#[derive(Debug)]
pub(crate) struct ShardTask {
    pub(crate) worker: ShardWorker,
    pub(crate) held: Arc<HeldLease>,
    /// Writes a checkpoint in place of a renewal.
    pub(crate) trigger: CheckpointTrigger,
    /// Makes the worker finish; cancelled by a stop of the whole receiver too.
    pub(crate) stop: CancellationToken,
    /// Starts the worker anew, or makes it leave.
    pub(crate) interventions: Interventions,
    pub(crate) progress: watch::Receiver<ShardProgress>,
    /// `None`: nobody watches.
    pub(crate) watchdog: Option<WatchdogLimits>,
    pub(crate) failover_time: Duration,
    /// How long the worker may take to finish when another one asks for the shard.
    pub(crate) drain_time: Duration,
}

/// How the work on a shard ended, and who has the lease now.
#[derive(Debug, Clone)]
pub(crate) struct ShardEnding {
    pub(crate) outcome: ShardOutcome,
    pub(crate) handed_over_to: Option<WorkerId>,
}

impl ShardTask {
    /// Works until the shard is over for this receiver. After a stop the lease is free for others at once; when another
    /// worker asks for the shard, this one finishes and hands the lease over.
    pub(crate) async fn run(self) -> ShardEnding {
        let Self {
            worker,
            held,
            trigger,
            stop,
            interventions,
            progress,
            watchdog,
            failover_time,
            drain_time,
        } = self;
        let lost = worker.context.lease_lost.clone();
        // Both go on although the application's code may not come to an await point.
        let keeper = keep(held.clone(), failover_time, trigger, lost);
        let supervisor = supervise(watchdog, progress, interventions, held.clone());
        let beside = async { tokio::join!(keeper, supervisor) }.in_current_span();
        let _beside = AbortOnDropHandle::new(tokio::spawn(beside));
        let mut working = Box::pin(worker.run());
        let outcome = tokio::select! {
            biased;
            outcome = &mut working => outcome,
            target = held.hand_over_target() => {
                tracing::info!(%target, "another worker asks for the shard; finishing for it");
                stop.cancel();
                let cut_off = || {
                    tracing::warn!(?drain_time, "cut off: the shard was not finished in time to hand it over");
                    ShardOutcome::Stopped { drained: false }
                };
                let finished = tokio::time::timeout(drain_time, &mut working).await;
                finished.unwrap_or_else(|_| cut_off())
            }
        };
        drop(working);
        let handed_over_to = match outcome {
            ShardOutcome::Stopped { .. } | ShardOutcome::GivenUp => give_up(&held).await,
            // An ended shard's lease needs no owner; nobody takes it, and the clean-up deletes it.
            _ => {
                held.fence();
                None
            }
        };
        ShardEnding { outcome, handed_over_to }
    }
}

/// Hands a lease over to whoever asks for it now, or else releases it; tells who has it then. If that fails, it is free
/// when the fail-over time is over.
pub(crate) async fn give_up(held: &HeldLease) -> Option<WorkerId> {
    // The waits need no randomness of their own: each lease is another row.
    let mut delays = LAST_WRITE_RETRY.delays(fastrand::Rng::with_seed(held.fencing_token().counter));
    loop {
        let target = held.newest_hand_over_target();
        let written = match &target {
            Some(target) => held.hand_over(target).await,
            None => held.release().await,
        };
        let error: StoreError = match written {
            Ok(()) => {
                tracing::debug!(new_owner = ?target, "the lease is given up");
                return target;
            }
            Err(error) => error,
        };
        if error.kind() == StoreErrorKind::Fenced {
            tracing::debug!(%error, "nothing to give up");
            return None;
        }
        // Whoever asked has changed its mind: look anew.
        let may_try_again = error.is_retryable() || error.kind() == StoreErrorKind::Conflict;
        let delay = if may_try_again { delays.next() } else { None };
        let Some(delay) = delay else {
            tracing::warn!(%error, "the lease could not be given up; others wait the fail-over time");
            held.fence();
            return None;
        };
        tracing::debug!(%error, ?delay, "giving the lease up again");
        sleep(delay).await;
    }
}
