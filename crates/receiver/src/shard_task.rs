//! One shard in the hand of a receiver: its worker, and beside it the keeper of its lease and the watchdog.

use std::sync::Arc;

use checkpointer::CheckpointTrigger;
use lease_store::{HeldLease, WorkerId};
use shard_worker::{Interventions, ShardOutcome, ShardProgress, ShardWorker, WatchdogLimits};
use tokio::sync::watch;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::keeper::keep;
use crate::last_write::give_up;
use crate::supervision::supervise;

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
