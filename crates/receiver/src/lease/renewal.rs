//! Renews a held lease, in a task that shares nothing with the records.

use std::sync::Arc;

use checkpointer::CheckpointTrigger;
use lease_store::{HeldLease, StoreError, StoreErrorKind};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How many renewals there are in the fail-over time (as in the KCL).
const RENEWALS_PER_FAILOVER_TIME: u32 = 3;

/// How many retries of a failed renewal there are in the time between two renewals.
const RETRIES_PER_RENEWAL: u32 = 5;

/// Stops the shard worker when a panic of the store ends the renewal task: without renewals it must not continue.
struct LossOnPanic<'a> {
    held: &'a HeldLease,
    lost: &'a CancellationToken,
}

impl Drop for LossOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.held.fence();
            self.lost.cancel();
        }
    }
}

/// Whether a held lease is due for renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The next renewal is due at this instant.
    NotBefore(Instant),
    /// The lease is to be renewed now.
    Due {
        /// When the lease expires: the end of the fail-over time.
        expires_at: Instant,
    },
    /// The lease was not renewed within the fail-over time. It counts as lost, even if no other worker took it.
    Expired,
}

/// Decides what is due. `confirmed_at` is when the newest write that is known to be applied was sent.
pub fn renewal(confirmed_at: Instant, failover_time: Duration, now: Instant) -> Renewal {
    let expires_at = confirmed_at + failover_time;
    let due_at = confirmed_at + failover_time / RENEWALS_PER_FAILOVER_TIME;
    if now >= expires_at {
        Renewal::Expired
    } else if now < due_at {
        Renewal::NotBefore(due_at)
    } else {
        Renewal::Due { expires_at }
    }
}

/// Renews a lease until it is lost, then cancels `lost` and ends.
///
/// The lease is valid for the fail-over time, counted from before the newest write that is known to be applied. After
/// that it counts as lost, even if no other worker took it: a late renewal would bring back an owner that the others
/// already count as dead.
///
/// A checkpoint renews the lease too and costs the same. So when a renewal is due and something is acknowledged,
/// `trigger` writes a checkpoint instead. The renewal follows only if the checkpoint is not written soon. When another
/// worker requests the lease, an offer takes the place of the renewal.
pub(crate) async fn renew_until_lost(
    held: Arc<HeldLease>,
    failover_time: Duration,
    trigger: CheckpointTrigger,
    lost: CancellationToken,
) {
    let _guard = LossOnPanic { held: &held, lost: &lost };
    let interval = failover_time / RENEWALS_PER_FAILOVER_TIME;
    let mut next_try = held.confirmed_at() + interval;
    // The due renewal for which a checkpoint was last triggered.
    let mut triggered_for = None;
    loop {
        sleep_until(next_try).await;
        if held.is_fenced() {
            break;
        }
        let confirmed_at = held.confirmed_at();
        let due_at = confirmed_at + interval;
        let expires_at = match renewal(confirmed_at, failover_time, Instant::now()) {
            Renewal::Expired => {
                tracing::warn!(
                    ?failover_time,
                    "the lease was not renewed within the fail-over time and counts as lost"
                );
                break;
            }
            // A checkpoint renewed it in the meantime.
            Renewal::NotBefore(due_at) => {
                next_try = due_at;
                continue;
            }
            Renewal::Due { expires_at } => expires_at,
        };
        if triggered_for != Some(due_at) && !held.is_requested() && trigger.write_now() {
            triggered_for = Some(due_at);
            next_try = (Instant::now() + interval / RETRIES_PER_RENEWAL).min(expires_at);
            continue;
        }
        // One answer that never comes must not cost the lease: there is time for another attempt, which first reads
        // whether this one was applied.
        match timeout_at(expires_at.min(Instant::now() + interval), renew(&held)).await {
            Ok(Ok(())) => next_try = held.confirmed_at() + interval,
            Ok(Err(error)) if error.kind() == StoreErrorKind::Fenced => {
                tracing::info!(%error, "the lease was taken by another worker");
                break;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "renewal failed, trying again until the lease expires");
                next_try = (Instant::now() + interval / RETRIES_PER_RENEWAL).min(expires_at);
            }
            Err(_) => {
                tracing::warn!(
                    ?interval,
                    "a renewal was not answered in time, trying again until the lease expires"
                );
                next_try = Instant::now();
            }
        }
    }
    held.fence();
    lost.cancel();
}

async fn renew(held: &HeldLease) -> Result<(), StoreError> {
    if held.is_requested() { held.offer().await } else { held.renew().await }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use checkpointer::{Cadence, Checkpointer, RetryPolicy};
    use lease_store::{
        CountingLeaseStore, FaultRates, FaultyLeaseStore, InMemoryLeaseStore, Lease, LeaseChange, LeaseStore,
        LeaseWrite, Position, ShardId, WorkerId,
    };
    use test_support::{HookedLeaseStore, StoreCall, Switch};

    use super::*;

    const FAILOVER_TIME: Duration = Duration::from_secs(9);

    fn worker(name: &'static str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    async fn hold(store: &(impl LeaseStore + Clone)) -> Arc<HeldLease> {
        let lease = Lease::unowned(ShardId::new("shard-0").unwrap(), Position::TrimHorizon);
        store.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
        Arc::new(HeldLease::take(Arc::new(store.clone()), &lease, &worker("a")).await.unwrap())
    }

    fn checkpointer(held: &Arc<HeldLease>) -> Checkpointer {
        let cadence = Cadence { interval: Duration::from_secs(3600), records: None };
        let rng = fastrand::Rng::with_seed(1);
        Checkpointer::start(held.clone(), Position::TrimHorizon, cadence, RetryPolicy::default(), rng)
    }

    /// A trigger with nothing to write.
    fn idle(held: &Arc<HeldLease>) -> CheckpointTrigger {
        checkpointer(held).trigger()
    }

    #[tokio::test(start_paused = true)]
    async fn a_due_renewal_is_written_as_a_checkpoint() {
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let held = hold(&store).await;
        let checkpointer = checkpointer(&held);
        let renewals = tokio::spawn(renew_until_lost(
            held.clone(),
            FAILOVER_TIME,
            checkpointer.trigger(),
            CancellationToken::new(),
        ));
        for second in 1..=90u128 {
            let position = Position::after(second.into(), 0);
            checkpointer.deliver(position.clone());
            checkpointer.acknowledge(position, 1).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let calls = store.calls();
        assert_eq!(calls.renewals, 0, "the checkpoint renews the lease");
        assert!((29..=30).contains(&calls.checkpoints), "{calls:?}");
        renewals.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_unwritten_checkpoint_does_not_cost_the_lease() {
        let store = InMemoryLeaseStore::new();
        let held = hold(&store).await;
        let checkpointer = checkpointer(&held);
        checkpointer.deliver(Position::ShardEnd);
        checkpointer.acknowledge(Position::ShardEnd, 1).unwrap();
        let trigger = checkpointer.trigger();
        checkpointer.close().await; // the position is never written
        let lost = CancellationToken::new();
        let renewals = tokio::spawn(renew_until_lost(held, FAILOVER_TIME, trigger, lost.clone()));
        tokio::time::sleep(FAILOVER_TIME * 10).await;
        assert!(!lost.is_cancelled());
        renewals.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_renewal_of_a_requested_lease_offers_it() {
        let store = InMemoryLeaseStore::new();
        let held = hold(&store).await;
        let row = store.get(held.shard_id()).await.unwrap().unwrap();
        let change = LeaseChange::Request { by: worker("b"), instead_of: None };
        let write = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
        store.write(&write).await.unwrap();
        let renewals = tokio::spawn(renew_until_lost(
            held.clone(),
            FAILOVER_TIME,
            idle(&held),
            CancellationToken::new(),
        ));
        tokio::time::sleep(FAILOVER_TIME).await;
        assert!(store.get(held.shard_id()).await.unwrap().unwrap().is_offered());
        renewals.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn renews_three_times_within_the_failover_time() {
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let held = hold(&store).await;
        let lost = CancellationToken::new();
        let renewals = tokio::spawn(renew_until_lost(held.clone(), FAILOVER_TIME, idle(&held), lost.clone()));
        tokio::time::sleep(FAILOVER_TIME * 10 + Duration::from_secs(1)).await;
        assert_eq!(store.calls().renewals, 30);
        assert!(!lost.is_cancelled());
        renewals.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_replaces_a_renewal() {
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let held = hold(&store).await;
        let renewals = tokio::spawn(renew_until_lost(
            held.clone(),
            FAILOVER_TIME,
            idle(&held),
            CancellationToken::new(),
        ));
        for second in 1..=90u128 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            held.checkpoint(&Position::after(second.into(), 0), &[]).await.unwrap();
        }
        assert_eq!(store.calls().renewals, 0);
        renewals.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_taken_by_another_worker_is_lost() {
        let store = InMemoryLeaseStore::new();
        let held = hold(&store).await;
        let lost = CancellationToken::new();
        let renewals = tokio::spawn(renew_until_lost(held.clone(), FAILOVER_TIME, idle(&held), lost.clone()));
        let row = store.get(held.shard_id()).await.unwrap().unwrap();
        let change = LeaseChange::take(worker("b"));
        let write = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
        store.write(&write).await.unwrap();
        lost.cancelled().await;
        renewals.await.unwrap();
        assert!(held.is_fenced());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_not_renewed_in_time_is_lost_for_good() {
        let store = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, 1);
        let held = hold(&store).await;
        let taken_at = held.confirmed_at();
        let mut rates = FaultRates::NONE;
        rates.unavailable = 1.0;
        store.set_rates(rates);
        let lost = CancellationToken::new();
        let renewals = tokio::spawn(renew_until_lost(held.clone(), FAILOVER_TIME, idle(&held), lost.clone()));
        lost.cancelled().await;
        assert_eq!(taken_at.elapsed().as_secs(), FAILOVER_TIME.as_secs());
        store.set_rates(FaultRates::NONE);
        renewals.await.unwrap();
        assert_eq!(held.renew().await.unwrap_err().kind(), StoreErrorKind::Fenced);
    }

    /// A store that never answers a write when the switch is on, which is then off. The write is applied or not.
    fn hanging_once(hangs: &Switch, is_applied: bool) -> HookedLeaseStore {
        let (before, after) = (hangs.clone(), hangs.clone());
        HookedLeaseStore::new(InMemoryLeaseStore::new())
            .before(move |call| {
                let strikes = !is_applied && matches!(call, StoreCall::Write(_)) && before.take();
                async move {
                    if strikes {
                        pending::<()>().await;
                    }
                    Ok(())
                }
            })
            .after_write(move |_, outcome| {
                let strikes = is_applied && after.take();
                async move {
                    if strikes {
                        pending::<()>().await;
                    }
                    outcome
                }
            })
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_an_answer_does_not_cost_the_lease() {
        for is_applied in [true, false] {
            let hangs = Switch::default();
            let held = hold(&hanging_once(&hangs, is_applied)).await;
            let lost = CancellationToken::new();
            let renewals =
                tokio::spawn(renew_until_lost(held.clone(), FAILOVER_TIME, idle(&held), lost.clone()));
            hangs.turn_on();
            tokio::time::sleep(FAILOVER_TIME * 10).await;
            assert!(!hangs.is_on() && !lost.is_cancelled(), "applied: {is_applied}");
            held.renew().await.unwrap();
            renewals.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_paused_past_the_failover_time_does_not_renew() {
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let held = hold(&store).await;
        tokio::time::advance(FAILOVER_TIME * 3).await;
        let lost = CancellationToken::new();
        renew_until_lost(held.clone(), FAILOVER_TIME, idle(&held), lost.clone()).await;
        assert!(lost.is_cancelled());
        assert_eq!(store.calls().renewals, 0);
    }
}
