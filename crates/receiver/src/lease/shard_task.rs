//! The task of one held shard: its worker, and next to it the renewal of its lease and the watchdog.

use std::sync::Arc;

use checkpointer::CheckpointTrigger;
use lease_store::{HeldLease, WorkerId};
use shard_worker::{ShardOutcome, ShardProgress, ShardWorker, StreamClock, WatchdogCommands, WatchdogLimits};
use tokio::sync::watch;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::lease::lag::lag_of;
use crate::lease::orders::{Order, next_order};
use crate::lease::release::{release_or_hand_over, reset_or_release};
use crate::lease::renewal::renew_until_lost;
use crate::lease::supervisor::supervise;

/// A shard worker and its lease. Dropping the running future stops both and writes nothing to the store.
#[derive(Debug)]
pub(crate) struct ShardTask {
    pub(crate) worker: ShardWorker,
    pub(crate) held: Arc<HeldLease>,
    /// Writes a checkpoint in place of a renewal.
    pub(crate) trigger: CheckpointTrigger,
    /// Makes the worker finish. A stop of the whole receiver cancels it too.
    pub(crate) stop: CancellationToken,
    /// Restarts the worker, or makes it leave the shard.
    pub(crate) watchdog_commands: WatchdogCommands,
    pub(crate) progress: watch::Receiver<ShardProgress>,
    /// `None`: no watchdog.
    pub(crate) watchdog: Option<WatchdogLimits>,
    pub(crate) failover_time: Duration,
    /// How long the worker may take to finish when another worker requests the shard, or an operator stops it.
    pub(crate) drain_time: Duration,
    /// The clock by which a pause ends, and by which the lag in the row is dated.
    pub(crate) clock: Option<StreamClock>,
}

/// How the work on a shard ended, and which worker owns the lease now.
#[derive(Debug, Clone)]
pub(crate) struct ShardEnding {
    pub(crate) outcome: ShardOutcome,
    pub(crate) handed_over_to: Option<WorkerId>,
    /// The order of an operator that ended the work.
    pub(crate) order: Option<Order>,
}

impl ShardEnding {
    /// An end without an order of an operator.
    pub(crate) fn new(outcome: ShardOutcome, handed_over_to: Option<WorkerId>) -> Self {
        Self { outcome, handed_over_to, order: None }
    }
}

impl ShardTask {
    /// Works until the shard is over for this receiver. After a stop the lease is free for others at once. When another
    /// worker requests the shard, this one finishes its batches and hands the lease over. When an operator stops the shard, it
    /// finishes them too.
    pub(crate) async fn run(self) -> ShardEnding {
        let Self {
            worker,
            held,
            trigger,
            stop,
            watchdog_commands,
            progress,
            watchdog,
            failover_time,
            drain_time,
            clock,
        } = self;
        held.report_lag(lag_of(progress.clone(), clock));
        let lost = worker.context.lease_lost.clone();
        // Code that runs outside the worker learns the end of this task, however it ends: a thread cannot be aborted.
        let ended = lost.clone().drop_guard();
        // A task of its own: renewal and watchdog run even if the application's code never reaches an await point.
        let renewal = renew_until_lost(held.clone(), failover_time, trigger, lost);
        let supervisor = supervise(watchdog, progress, watchdog_commands, held.clone());
        let background = async { tokio::join!(renewal, supervisor) }.in_current_span();
        let _background = AbortOnDropHandle::new(tokio::spawn(background));
        let mut working = Box::pin(worker.run());
        let mut order = None;
        let cut_off = |why: &str| {
            tracing::warn!(?drain_time, "the shard did not finish within the drain time, {why}");
            ShardOutcome::Stopped { drained: false }
        };
        let outcome = tokio::select! {
            biased;
            outcome = &mut working => outcome,
            target = held.hand_over_target() => {
                tracing::info!(%target, "another worker requests the shard, finishing it for the hand-over");
                stop.cancel();
                let finished = tokio::time::timeout(drain_time, &mut working).await;
                finished.unwrap_or_else(|_| cut_off("handing it over now"))
            }
            found = next_order(&held, clock) => {
                tracing::info!(order = ?found, "an operator stops the shard, finishing its batches");
                order = Some(found);
                stop.cancel();
                let finished = tokio::time::timeout(drain_time, &mut working).await;
                finished.unwrap_or_else(|_| cut_off("carrying the order out now"))
            }
        };
        drop(working);
        if matches!(outcome, ShardOutcome::Stopped { drained: false } | ShardOutcome::GivenUp) {
            // Before another worker can have the lease.
            drop(ended);
        }
        let handed_over_to = match outcome {
            ShardOutcome::Stopped { .. } | ShardOutcome::GivenUp => match &order {
                Some(Order::Reset(request)) => reset_or_release(&held, request).await,
                _ => release_or_hand_over(&held).await,
            },
            // The lease of an ended shard needs no owner: no worker takes it, and the clean-up deletes it.
            _ => {
                held.fence();
                None
            }
        };
        ShardEnding { outcome, handed_over_to, order }
    }
}
