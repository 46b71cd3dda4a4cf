//! Watches over the progress of one shard, in a task that shares nothing with the records.

use std::sync::Arc;

use lease_store::HeldLease;
use shard_worker::{Interventions, ShardProgress, ShardState, Watchdog, WatchdogAct, WatchdogLimits};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::last_write::give_up;

/// How long a worker that has to leave its shard may take for the last checkpoint, before its lease is given up over its
/// head.
const LEAVING_TIME: Duration = Duration::from_secs(20);

/// How long a worker stays away from a shard that it has given up, for the first time.
const FIRST_REST: Duration = Duration::from_secs(60);

/// The same at most: each time in a row it is twice as long.
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

/// How long to stay away from a shard that was given up so many times in a row.
pub(crate) fn rest_after(times: u32) -> Duration {
    FIRST_REST.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(LONGEST_REST)
}

/// Starts the work on a shard anew when it makes no progress, and gives the shard up when that does not help.
pub(crate) async fn supervise(
    limits: Option<WatchdogLimits>,
    progress: watch::Receiver<ShardProgress>,
    interventions: Interventions,
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
        match watchdog.look(Instant::now(), progressed_at) {
            WatchdogAct::LookAgainAt(at) => sleep_until(at).await,
            WatchdogAct::Restart => {
                tracing::error!(
                    ?state, time = ?limits.no_progress_time,
                    "the shard made no progress; the work on it starts anew"
                );
                interventions.restart();
            }
            WatchdogAct::GiveUp => {
                tracing::error!(
                    ?state,
                    restarts = limits.max_restarts,
                    "the shard makes no progress although it was started anew; its lease is given up, so that another \
                     worker can try"
                );
                interventions.give_up();
                break;
            }
        }
    }
    sleep(LEAVING_TIME).await;
    if progress.borrow().state != ShardState::Finished {
        // Its writes are fenced; what it does elsewhere is told from its successor's by the fencing token.
        tracing::error!(
            "the application's code does not come to an end; the lease is given up over its head"
        );
        give_up(&held).await;
    }
}

#[cfg(test)]
mod tests {
    use lease_store::{InMemoryLeaseStore, Lease, LeaseStore, LeaseWrite, Position, ShardId, WorkerId};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn code_that_never_comes_to_an_end_loses_its_lease_over_its_head() {
        let store = InMemoryLeaseStore::new();
        let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        store.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
        let me = WorkerId::new("a").unwrap();
        let held = Arc::new(HeldLease::take(Arc::new(store.clone()), &lease, &me).await.unwrap());
        // The worker never moves, and never looks at what it is asked to do.
        let (_worker, progress) = watch::channel(ShardProgress::default());
        let interventions = Interventions::default();
        let limits = WatchdogLimits { no_progress_time: Duration::from_secs(60), max_restarts: 2 };
        let started_at = Instant::now();
        supervise(Some(limits), progress, interventions.clone(), held.clone()).await;
        assert_eq!(started_at.elapsed(), Duration::from_secs(180) + LEAVING_TIME);
        interventions.given_up().await;
        assert!(held.is_fenced(), "it writes nothing more");
        assert_eq!(store.get(&lease.shard_id).await.unwrap().unwrap().owner, None, "others can take it");
    }

    #[test]
    fn the_rest_doubles_up_to_a_quarter_of_an_hour() {
        let rests: Vec<u64> = (1..7).map(|times| rest_after(times).as_secs()).collect();
        assert_eq!(rests, [60, 120, 240, 480, 900, 900]);
        assert_eq!(rest_after(u32::MAX), LONGEST_REST);
    }
}
