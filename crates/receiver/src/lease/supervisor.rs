//! The watchdog over one shard, in a task that shares nothing with the records.

use std::sync::Arc;

use lease_store::HeldLease;
use shard_worker::{ShardProgress, ShardState, Watchdog, WatchdogAct, WatchdogCommands, WatchdogLimits};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::lease::release::release_or_hand_over;

/// How long a shard worker that was ordered to leave its shard may take for the last checkpoint. After that the lease is
/// released although the worker still runs.
const LEAVING_TIME: Duration = Duration::from_secs(20);

/// Restarts the work on a shard that makes no progress, and releases its lease when restarts do not help. Without limits
/// it returns at once.
pub(crate) async fn supervise(
    limits: Option<WatchdogLimits>,
    progress: watch::Receiver<ShardProgress>,
    watchdog_commands: WatchdogCommands,
    held: Arc<HeldLease>,
) {
    let Some(limits) = limits else { return };
    let mut watchdog = Watchdog::new(limits, Instant::now());
    loop {
        let (progressed_at, state) = {
            let progress = progress.borrow();
            (progress.progressed_at, progress.state)
        };
        if state == ShardState::Finished {
            return;
        }
        match watchdog.check(Instant::now(), progressed_at) {
            WatchdogAct::CheckAgainAt(at) => sleep_until(at).await,
            WatchdogAct::Restart => {
                tracing::error!(
                    ?state, no_progress_time = ?limits.no_progress_time,
                    "the shard made no progress, restarting its processor"
                );
                watchdog_commands.restart();
            }
            WatchdogAct::GiveUp => {
                tracing::error!(
                    ?state,
                    restarts = limits.max_restarts,
                    "the shard makes no progress after its restarts, releasing its lease for another worker"
                );
                watchdog_commands.give_up();
                break;
            }
        }
    }
    sleep(LEAVING_TIME).await;
    if progress.borrow().state != ShardState::Finished {
        // Its writes are fenced. Elsewhere, the fencing token distinguishes its effects from those of its successor.
        tracing::error!(
            leaving_time = ?LEAVING_TIME,
            "the record processor does not return, releasing the lease although it still runs"
        );
        release_or_hand_over(&held).await;
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{InMemoryLeaseStore, Lease, LeaseStore, LeaseWrite, Position, ShardId, WorkerId};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_lease_of_a_processor_that_never_returns_is_released() {
        let store = InMemoryLeaseStore::new();
        let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        store.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
        let me = WorkerId::new("a").unwrap();
        let held = Arc::new(HeldLease::take(Arc::new(store.clone()), &lease, &me).await.unwrap());
        // The worker makes no progress and never reacts to the watchdog_commands.
        let (_worker, progress) = watch::channel(ShardProgress::default());
        let watchdog_commands = WatchdogCommands::default();
        let limits = WatchdogLimits::new(Duration::from_secs(60), 2);
        let started_at = Instant::now();
        supervise(Some(limits), progress, watchdog_commands.clone(), held.clone()).await;
        assert_eq!(started_at.elapsed(), Duration::from_secs(180) + LEAVING_TIME);
        watchdog_commands.give_up_requested().await;
        assert!(held.is_fenced(), "the worker writes nothing more");
        assert_eq!(
            store.get(&lease.shard_id).await.unwrap().unwrap().owner,
            None,
            "other workers can take it"
        );
    }
}
