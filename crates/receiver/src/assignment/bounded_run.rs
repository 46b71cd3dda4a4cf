//! When a bounded run is over for this worker: a pure decision over the leases.

use std::collections::{BTreeSet, HashMap};

use lease_store::{Lease, ShardId, WorkerId};
use shard_worker::ShardOutcome;
use tokio::time::Duration;

use crate::assignment::lease_observations::ObservedLease;

/// The progress of this worker in a bounded run.
#[derive(Debug, Clone, Default)]
pub(crate) struct BoundedRun {
    /// Shards that this worker has read up to the bound. It does not read them again.
    done: BTreeSet<ShardId>,
}

impl BoundedRun {
    /// Records that the work on a shard is over, and whether it has reached the bound. A shard whose records are not all
    /// checkpointed is read again.
    pub(crate) fn record(&mut self, shard_id: &ShardId, has_reached_bound: bool, outcome: ShardOutcome) {
        if has_reached_bound && outcome == (ShardOutcome::Stopped { drained: true }) {
            self.done.insert(shard_id.clone());
        }
    }

    /// How many shards this worker has read up to the bound.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Whether this worker is done with the lease: it has read the shard or one of its parents up to the bound. Children
    /// of such a parent lie beyond the bound.
    pub(crate) fn is_done_with(&self, lease: &Lease, leases: &HashMap<&ShardId, &Lease>) -> bool {
        let is_done = |shard_id: &ShardId| {
            self.done.contains(shard_id) && leases.get(shard_id).is_some_and(|lease| !lease.is_finished())
        };
        is_done(&lease.shard_id) || lease.parents.iter().any(is_done)
    }

    /// Whether this worker has nothing more to do. Then each shard is read to its end, read up to the bound by this worker,
    /// owned by another live worker, or waiting for an unfinished parent.
    pub(crate) fn is_over(
        &self,
        leases: &[ObservedLease<'_>],
        me: &WorkerId,
        failover_time: Duration,
    ) -> bool {
        let by_id: HashMap<&ShardId, &Lease> =
            leases.iter().map(|observed| (&observed.lease.shard_id, observed.lease)).collect();
        // An empty table gets its leases later, so the run is not over.
        !leases.is_empty()
            && leases.iter().all(|observed| {
                let lease = observed.lease;
                let is_of_other = |owner: &WorkerId| owner != me || observed.is_of_namesake;
                let is_held =
                    lease.owner.as_ref().is_some_and(is_of_other) && observed.unchanged_for < failover_time;
                let waits = || {
                    lease.parents.iter().any(|parent| by_id.get(parent).is_some_and(|row| !row.is_finished()))
                };
                lease.is_finished() || is_held || self.is_done_with(lease, &by_id) || waits()
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
                is_of_namesake: false,
                is_paused: false,
            })
            .collect();
        run.is_over(&observed, &worker("me"), FAILOVER_TIME)
    }

    #[test]
    fn the_run_is_over_when_this_worker_has_nothing_to_do() {
        let free = |number| lease(number, None, &[]);
        for (case, run, leases, expected) in [
            ("no leases yet", done(&[]), vec![], false),
            ("a free lease", done(&[]), vec![free(0)], false),
            ("done by this worker", done(&[0]), vec![free(0)], true),
            (
                "done by this worker, its release not written",
                done(&[0]),
                vec![lease(0, Some("me"), &[])],
                true,
            ),
            ("owned by this worker", done(&[]), vec![lease(0, Some("me"), &[])], false),
            ("owned by another worker", done(&[]), vec![lease(0, Some("other"), &[])], true),
            ("read to its end", done(&[]), vec![ended(free(0))], true),
            ("a child that can start", done(&[]), vec![ended(free(0)), lease(1, None, &[0])], false),
            ("a child beyond the bound", done(&[0]), vec![free(0), lease(1, None, &[0])], true),
            (
                "a child of a shard that another worker reads",
                done(&[]),
                vec![lease(0, Some("other"), &[]), lease(1, None, &[0])],
                true,
            ),
            ("another worker read to the end", done(&[0]), vec![ended(free(0)), lease(1, None, &[0])], false),
        ] {
            assert_eq!(is_over(&run, &leases, 0), expected, "{case}");
        }
        let dead = [lease(0, Some("other"), &[])];
        assert!(!is_over(&done(&[]), &dead, 10), "its owner is dead");
    }

    #[test]
    fn only_a_shard_checkpointed_at_the_bound_is_done() {
        for (has_reached_bound, outcome, expected) in [
            (true, DRAINED, 1),
            (true, ShardOutcome::Stopped { drained: false }, 0),
            (true, ShardOutcome::LeaseLost, 0),
            (true, ShardOutcome::Ended, 0),
            (false, DRAINED, 0),
        ] {
            let mut run = BoundedRun::default();
            run.record(&ShardId::numbered(0), has_reached_bound, outcome);
            assert_eq!(run.done(), expected, "{has_reached_bound} {outcome:?}");
        }
    }

    proptest! {
        /// A run is over exactly when this worker neither holds nor may take a lease with work.
        #[test]
        fn a_run_goes_on_only_while_there_is_a_lease_to_work_on(
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
