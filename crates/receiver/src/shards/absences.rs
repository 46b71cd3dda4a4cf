//! When a missing row may be created: a pure decision over the known rows.

use std::collections::{BTreeSet, HashMap};

use lease_store::{Lease, ShardId, WorkerId};
use tokio::time::{Duration, Instant};

use crate::shards::last_known::LastKnownLeases;

/// A known row whose holder may be alive is restored by others after this fraction of the fail-over time. The holder writes
/// its row every third of that time, finds it missing, and restores it at the newest position.
const PATIENCE_PER_FAILOVER_TIME: u32 = 2;

/// The facts that a worker knows when rows are missing.
#[derive(Clone, Copy)]
pub(crate) struct AbsenceView<'a> {
    /// This worker.
    pub(crate) worker_id: &'a WorkerId,
    /// Whether a row belongs to another process under the id of this worker that may be alive.
    pub(crate) is_of_namesake: &'a (dyn Fn(&Lease) -> bool + Sync),
    /// The shards whose leases it holds.
    pub(crate) held: &'a BTreeSet<ShardId>,
    /// The last known rows.
    pub(crate) known: &'a LastKnownLeases,
    /// The listed rows.
    pub(crate) leases: &'a [Lease],
    /// The fail-over time.
    pub(crate) failover_time: Duration,
}

impl AbsenceView<'_> {
    /// How long the row of this shard must be missing, since this time, before this worker creates it. `None`: never, since
    /// this worker holds the lease, and its own next write restores the row.
    ///
    /// A worker that was paused or cut off for the fail-over time knows an old position: another one may have taken the
    /// lease and read on, and restores the row at its own.
    fn patience(&self, shard_id: &ShardId, missing_since: Instant) -> Option<Duration> {
        let is_of_another = |lease: &Lease| {
            let is_another = |owner: &WorkerId| owner != self.worker_id || (self.is_of_namesake)(lease);
            !lease.is_finished() && lease.owner.as_ref().is_some_and(is_another)
        };
        if self.held.contains(shard_id) {
            return None;
        }
        let is_old = self
            .known
            .seen_at(shard_id)
            .is_some_and(|seen_at| missing_since.saturating_duration_since(seen_at) >= self.failover_time);
        Some(match self.known.get(shard_id) {
            Some(known) if is_of_another(known) || is_old && !known.is_finished() => {
                self.failover_time / PATIENCE_PER_FAILOVER_TIME
            }
            Some(_) => Duration::ZERO,
            // Only another worker can hold the lease. A holder that has not written for the fail-over time has lost it.
            None if self.leases.iter().chain(self.known.rows()).any(is_of_another) => self.failover_time,
            None => Duration::ZERO,
        })
    }
}

/// Since when rows are known to be missing.
#[derive(Debug, Default)]
pub(crate) struct Absences {
    since: HashMap<ShardId, Instant>,
}

impl Absences {
    /// Records the rows of a listing: they are not missing.
    pub(crate) fn end(&mut self, listed: &[Lease]) {
        for lease in listed {
            self.since.remove(&lease.shard_id);
        }
    }

    /// Splits the missing leases into those to create now and those that a live holder may still restore.
    pub(crate) fn split(
        &mut self,
        missing: Vec<Lease>,
        view: &AbsenceView<'_>,
        now: Instant,
    ) -> (Vec<Lease>, Vec<Lease>) {
        let missing_ids: BTreeSet<&ShardId> = missing.iter().map(|lease| &lease.shard_id).collect();
        self.since.retain(|shard_id, _| missing_ids.contains(shard_id));
        let (mut due, mut later): (Vec<Lease>, Vec<Lease>) = missing.into_iter().partition(|lease| {
            let since = *self.since.entry(lease.shard_id.clone()).or_insert(now);
            let missing_for = now.saturating_duration_since(since);
            view.patience(&lease.shard_id, since).is_some_and(|patience| missing_for >= patience)
        });
        // The row of a parent exists before that of its child. Each pass moves one generation.
        loop {
            let waiting: BTreeSet<&ShardId> = later.iter().map(|lease| &lease.shard_id).collect();
            let has_waiting_parent =
                |lease: &Lease| lease.parents.iter().any(|parent| waiting.contains(parent));
            let (blocked, free): (Vec<Lease>, Vec<Lease>) = due.into_iter().partition(has_waiting_parent);
            due = free;
            if blocked.is_empty() {
                return (due, later);
            }
            later.extend(blocked);
        }
    }
}

#[cfg(test)]
mod tests {
    use lease_store::Position;

    use super::*;

    #[test]
    fn a_row_is_left_to_a_holder_that_may_be_alive() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let row = |number, owner: Option<&'static str>| Lease {
            owner: owner.map(worker),
            ..Lease::unowned(ShardId::numbered(number), Position::TrimHorizon)
        };
        let known_rows = [row(0, Some("me")), row(1, None), row(2, Some("other"))];
        let mut known = LastKnownLeases::default();
        let start = Instant::now();
        known.observe(&known_rows, true, start);
        let is_of_namesake = |lease: &Lease| lease.owner_process.as_deref() == Some("other");
        let (me, seconds) = (worker("me"), Duration::from_secs);
        let patience = |known: &LastKnownLeases, leases: &[Lease], held: &[u64], number| {
            let held = held.iter().copied().map(ShardId::numbered).collect();
            let view = AbsenceView {
                worker_id: &me,
                is_of_namesake: &is_of_namesake,
                held: &held,
                known,
                leases,
                failover_time: seconds(10),
            };
            view.patience(&ShardId::numbered(number), start)
        };
        assert_eq!(patience(&known, &[], &[0], 0), None, "this worker holds it");
        assert_eq!(patience(&known, &[], &[], 0), Some(seconds(0)), "this worker was its last holder");
        assert_eq!(patience(&known, &[], &[], 1), Some(seconds(0)), "no worker held it");
        assert_eq!(patience(&known, &[], &[], 2), Some(seconds(5)));
        let of_namesake = Lease { owner_process: Some("other".to_owned()), ..row(0, Some("me")) };
        let mut with_namesake = LastKnownLeases::default();
        with_namesake.observe(&[of_namesake], true, start);
        assert_eq!(patience(&with_namesake, &[], &[], 0), Some(seconds(5)), "a namesake may be alive");
        let known_until = |seconds_before| {
            let mut known = LastKnownLeases::default();
            known.observe(&known_rows[..2], true, start - seconds(seconds_before));
            known
        };
        assert_eq!(patience(&known_until(9), &[], &[], 0), Some(seconds(0)));
        assert_eq!(patience(&known_until(10), &[], &[], 0), Some(seconds(5)), "others may have read on");
        assert_eq!(patience(&known_until(10), &[], &[0], 0), None);
        let mut listed = known_until(10);
        listed.observe(&known_rows[..1], false, start - seconds(1));
        assert_eq!(patience(&listed, &[], &[], 0), Some(seconds(0)), "unchanged since then");
        assert_eq!(patience(&known, &[], &[], 3), Some(seconds(10)), "never seen, and another worker lives");
        let fresh = LastKnownLeases::default();
        assert_eq!(patience(&fresh, &known_rows[..2], &[], 3), Some(seconds(0)));
        assert_eq!(patience(&fresh, &known_rows, &[], 3), Some(seconds(10)));
        let mut absences = Absences::default();
        let held = BTreeSet::new();
        let view = AbsenceView {
            worker_id: &me,
            is_of_namesake: &is_of_namesake,
            held: &held,
            known: &known,
            leases: &[],
            failover_time: seconds(10),
        };
        let mut due = |at| {
            let missing = vec![row(1, None), row(2, None)];
            let (now, later) = absences.split(missing, &view, start + seconds(at));
            (now.len(), later.len())
        };
        assert_eq!([due(0), due(4), due(5)], [(1, 1), (1, 1), (2, 0)]);
        absences.end(&[row(2, Some("other"))]);
        let missing = vec![row(2, None)];
        let (now, later) = absences.split(missing, &view, start + seconds(60));
        assert_eq!((now.len(), later.len()), (0, 1), "the row was there in between");
    }
}
