//! When a bounded run is over for this worker: a pure look at the leases.

use std::collections::{BTreeSet, HashMap};

use lease_store::{Lease, ShardId, WorkerId};
use shard_worker::ShardOutcome;
use tokio::time::Duration;

use crate::ObservedLease;

/// What this worker knows of a bounded run.
#[derive(Debug, Clone, Default)]
pub(crate) struct BoundedRun {
    /// Shards that this worker has read up to the bound. They are somebody's again only when they are read to their ends.
    done: BTreeSet<ShardId>,
}

impl BoundedRun {
    /// The work on a shard is over: `has_reached_bound` says whether that is why. What could not be checkpointed is read
    /// again.
    pub(crate) fn note(&mut self, shard_id: &ShardId, has_reached_bound: bool, outcome: ShardOutcome) {
        if has_reached_bound && outcome == (ShardOutcome::Stopped { drained: true }) {
            self.done.insert(shard_id.clone());
        }
    }

    /// How many shards this worker has read up to the bound.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Whether the lease is none of this worker's business any more: it has read the shard up to the bound, or the shard
    /// follows one of those. Their children come behind the bound.
    pub(crate) fn is_settled(&self, lease: &Lease, leases: &HashMap<&ShardId, &Lease>) -> bool {
        let is_done = |shard_id: &ShardId| {
            self.done.contains(shard_id) && leases.get(shard_id).is_some_and(|lease| !lease.is_finished())
        };
        is_done(&lease.shard_id) || lease.parents.iter().any(is_done)
    }

    /// Whether nothing is left for this worker: each shard is read to its end, or read up to the bound by this worker, or in the
    /// hand of another one that is alive, or follows one of the last two.
    pub(crate) fn is_over(
        &self,
        leases: &[ObservedLease<'_>],
        me: &WorkerId,
        failover_time: Duration,
    ) -> bool {
        let by_id: HashMap<&ShardId, &Lease> =
            leases.iter().map(|observed| (&observed.lease.shard_id, observed.lease)).collect();
        // An empty table is one whose leases are yet to be created.
        !leases.is_empty()
            && leases.iter().all(|observed| {
                let lease = observed.lease;
                let is_held = lease.owner.as_ref().is_some_and(|owner| owner != me)
                    && observed.unchanged_for < failover_time;
                let waits = || {
                    lease.parents.iter().any(|parent| by_id.get(parent).is_some_and(|row| !row.is_finished()))
                };
                lease.is_finished() || is_held || self.is_settled(lease, &by_id) || waits()
            })
    }
}

#[cfg(test)]
mod tests {
    use lease_store::Position;
    use proptest::prelude::*;

    use super::*;

    const FAILOVER_TIME: Duration = Duration::from_secs(10);
    const DRAINED: ShardOutcome = ShardOutcome::Stopped { drained: true };

    fn worker(name: &'static str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn lease(number: u64, owner: Option<&'static str>, parents: &[u64]) -> Lease {
        let mut lease = Lease::unowned(ShardId::numbered(number), Position::TrimHorizon);
        lease.owner = owner.map(worker);
        lease.parents = parents.iter().copied().map(ShardId::numbered).collect();
        lease
    }

    fn ended(lease: Lease) -> Lease {
        Lease { checkpoint: Position::ShardEnd, ..lease }
    }

    fn done(numbers: &[u64]) -> BoundedRun {
        BoundedRun { done: numbers.iter().copied().map(ShardId::numbered).collect() }
    }

    fn is_over(run: &BoundedRun, leases: &[Lease], unchanged_seconds: u64) -> bool {
        let observed: Vec<ObservedLease<'_>> = leases
            .iter()
            .map(|lease| ObservedLease {
                lease,
                unchanged_for: Duration::from_secs(unchanged_seconds),
                owned_for: None,
                requested_for: Duration::ZERO,
                weight: 1,
            })
            .collect();
        run.is_over(&observed, &worker("me"), FAILOVER_TIME)
    }

    #[test]
    fn it_is_over_when_nothing_is_left_for_this_worker() {
        let free = |number| lease(number, None, &[]);
        for (what, run, leases, expected) in [
            ("no lease is there yet", done(&[]), vec![], false),
            ("a free one", done(&[]), vec![free(0)], false),
            ("done by this worker", done(&[0]), vec![free(0)], true),
            (
                "done by this worker, whose release is not written",
                done(&[0]),
                vec![lease(0, Some("me"), &[])],
                true,
            ),
            ("this worker's own", done(&[]), vec![lease(0, Some("me"), &[])], false),
            ("in other hands", done(&[]), vec![lease(0, Some("other"), &[])], true),
            ("read to its end", done(&[]), vec![ended(free(0))], true),
            ("a child that can start", done(&[]), vec![ended(free(0)), lease(1, None, &[0])], false),
            ("a child behind the bound", done(&[0]), vec![free(0), lease(1, None, &[0])], true),
            (
                "a child of what another one reads",
                done(&[]),
                vec![lease(0, Some("other"), &[]), lease(1, None, &[0])],
                true,
            ),
            ("another one read on to the end", done(&[0]), vec![ended(free(0)), lease(1, None, &[0])], false),
        ] {
            assert_eq!(is_over(&run, &leases, 0), expected, "{what}");
        }
        let dead = [lease(0, Some("other"), &[])];
        assert!(!is_over(&done(&[]), &dead, 10), "whoever held it is dead");
    }

    #[test]
    fn only_what_is_checkpointed_at_the_bound_is_done() {
        for (has_reached_bound, outcome, expected) in [
            (true, DRAINED, 1),
            (true, ShardOutcome::Stopped { drained: false }, 0),
            (true, ShardOutcome::LeaseLost, 0),
            (true, ShardOutcome::Ended, 0),
            (false, DRAINED, 0),
        ] {
            let mut run = BoundedRun::default();
            run.note(&ShardId::numbered(0), has_reached_bound, outcome);
            assert_eq!(run.done(), expected, "{has_reached_bound} {outcome:?}");
        }
    }

    proptest! {
        /// A run that is over stays over when this worker reads more up to the bound, and whatever keeps it going is a lease that
        /// this worker may take or holds.
        #[test]
        fn what_keeps_it_going_can_be_worked_on(
            rows in prop::collection::vec((0..3u8, any::<bool>(), any::<bool>(), any::<prop::sample::Index>()), 1..10),
        ) {
            let mut leases: Vec<Lease> = Vec::new();
            let mut numbers = Vec::new();
            for (number, (owner, is_ended, is_done, parent)) in (0u64..).zip(rows) {
                let owner = [None, Some("me"), Some("other")][usize::from(owner)];
                let parents: Vec<u64> = if number > 0 && parent.index(3) == 0 { vec![parent.index(usize::try_from(number).unwrap()) as u64] } else { vec![] };
                let row = lease(number, owner, &parents);
                leases.push(if is_ended { ended(row) } else { row });
                numbers.extend(is_done.then_some(number));
            }
            let run = done(&numbers);
            let by_id: HashMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
            let is_work = |lease: &Lease| {
                !lease.is_finished()
                    && lease.owner != Some(worker("other"))
                    && !run.done.contains(&lease.shard_id)
                    && lease.parents.iter().all(|parent| by_id[parent].is_finished())
            };
            prop_assert_eq!(is_over(&run, &leases, 0), !leases.iter().any(is_work));
        }
    }
}
