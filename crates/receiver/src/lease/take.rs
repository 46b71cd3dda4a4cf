//! The take of a lease by a worker that does not wait for an answer which may never come.

use std::sync::Arc;

use lease_store::{
    HeldLease, Lease, LeaseChange, LeaseFacts, LeaseStore, StoreError, StoreErrorKind, WorkerId,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Duration, timeout};

/// How many times a take is attempted. After an attempt without an answer the row is read, and the take is repeated if the
/// row allows it. Each attempt waits twice as long as the one before.
const MAX_ATTEMPTS: u32 = 4;

/// How long the last attempt may take. The time-outs of a store are shorter.
const LAST_ATTEMPT_TIME: Duration = Duration::from_secs(120);

/// Takes a lease. An attempt that is not answered within `patience` is abandoned: it may have been applied, may be applied
/// later, or is lost. The row shows the first case, and the condition of the next attempt excludes the second one.
///
/// Each attempt holds one of the `permits`; the first one holds `turn`. The last attempt returns its permit after its
/// patience, so that calls without an answer do not keep other takes waiting.
///
/// # Errors
/// As [`HeldLease::take`].
pub(crate) async fn take_patiently(
    store: Arc<dyn LeaseStore>,
    mut seen: Lease,
    worker_id: &WorkerId,
    facts: LeaseFacts,
    patience: Duration,
    permits: &Semaphore,
    turn: SemaphorePermit<'_>,
) -> Result<HeldLease, StoreError> {
    let shard_id = seen.shard_id.clone();
    let take = LeaseChange::Take { owner: worker_id.clone(), facts: facts.clone() };
    let mut limit = patience;
    let mut is_abandoned = false;
    let mut turn = Some(turn);
    for attempt in 1..=MAX_ATTEMPTS {
        let mut permit = match turn.take() {
            Some(turn) => Some(turn),
            None => permits.acquire().await.ok(),
        };
        let answer = {
            let taking = HeldLease::take_with_facts(store.clone(), &seen, worker_id, facts.clone());
            tokio::pin!(taking);
            match timeout(limit, &mut taking).await {
                Err(_) if attempt == MAX_ATTEMPTS => {
                    drop(permit.take());
                    timeout(LAST_ATTEMPT_TIME, &mut taking).await
                }
                answer => answer,
            }
        };
        drop(permit);
        match answer {
            // An abandoned attempt may have been applied after the row was read.
            Ok(Err(error)) if is_abandoned && error.kind() == StoreErrorKind::Conflict => {}
            Ok(answer) => return answer,
            Err(_) => is_abandoned = true,
        }
        tracing::debug!(%shard_id, attempt, ?limit, "the take was not answered in time, reading the row");
        if let Ok(Ok(row)) = timeout(limit, store.get(&shard_id)).await {
            match row.filter(|row| can_be_taken_again(&seen, row, &take)) {
                Some(row) => seen = row,
                None => {
                    let why = format!("the lease of {shard_id} changed before {worker_id} could take it");
                    return Err(StoreError::new(StoreErrorKind::Conflict, why));
                }
            }
        }
        limit = limit.saturating_mul(2);
    }
    let why = format!("taking the lease of {shard_id} was not answered {MAX_ATTEMPTS} times; take it again");
    Err(StoreError::new(StoreErrorKind::Unavailable, why))
}

/// Whether a take may be repeated on this row: it is as it was seen, or an abandoned attempt of this process was applied to
/// it.
fn can_be_taken_again(seen: &Lease, row: &Lease, take: &LeaseChange) -> bool {
    let taken = take.apply(seen);
    seen.version().matches(row) || (taken.version().matches(row) && row.owner_process == taken.owner_process)
}

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};

    use super::*;

    #[test]
    fn only_an_unchanged_or_own_row_is_taken_again() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let seen = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        let take_by = |owner, process: &str, counter_floor| LeaseChange::Take {
            owner: worker(owner),
            facts: LeaseFacts {
                owner_process: Some(process.to_owned()),
                counter_floor,
                ..LeaseFacts::default()
            },
        };
        let take = take_by("me", "host-1 17", 1_700);
        let may_repeat = |row: &Lease| can_be_taken_again(&seen, row, &take);
        assert!(may_repeat(&seen));
        let mine = take.apply(&seen);
        assert_eq!(mine.counter, 1_700);
        assert!(may_repeat(&mine));
        assert!(!may_repeat(&take_by("me", "host-2 17", 1_700).apply(&seen)), "a process of the same name");
        assert!(!may_repeat(&take_by("me", "host-1 17", 1_701).apply(&seen)), "another take");
        assert!(!may_repeat(&LeaseChange::Renew.apply(&mine)), "a renewal under this name");
        assert!(!may_repeat(&LeaseChange::take(worker("other")).apply(&seen)));
    }
}
