//! Which shards no worker reads, because every live worker holds as many leases as it may: pure.

use lease_store::ShardId;

use crate::assignment::fleet_view::{AssignmentLimits, FleetView, Holdings};
use crate::assignment::lease_observations::ObservedLease;

/// A free lease is unread after this many fail-over times. A worker that may hold more takes it by then, even beyond its
/// share.
const UNREAD_AFTER_FAILOVER_TIMES: u32 = 4;

/// The shards whose leases stay free, in the order of their ids, as a worker at its `max_leases` sees them. A worker that may
/// hold more leases takes them itself, so it reports none.
pub(crate) fn shards_without_worker(
    leases: &[ObservedLease<'_>],
    holdings: &Holdings<'_>,
    limits: &AssignmentLimits,
) -> Vec<ShardId> {
    if holdings.held.len() + holdings.requested.len() < limits.max_leases {
        return Vec::new();
    }
    let view = FleetView::new(leases, holdings, limits);
    let unread_after = limits.failover_time * UNREAD_AFTER_FAILOVER_TIMES;
    let unread = view.free.iter().filter(|observed| observed.unchanged_for >= unread_after);
    unread.map(|observed| observed.lease.shard_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lease_store::{Lease, Position, WorkerId};
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn free_leases_are_unread_for_a_worker_at_its_maximum() {
        let me = WorkerId::new("me").unwrap();
        let id = ShardId::numbered;
        let row = |number, owner: Option<&'static str>, checkpoint, parents: &[u64]| Lease {
            owner: owner.map(|owner| WorkerId::new(owner).unwrap()),
            parents: parents.iter().copied().map(id).collect(),
            ..Lease::unowned(id(number), checkpoint)
        };
        let start = Position::TrimHorizon;
        let rows = [
            (row(0, Some("me"), start.clone(), &[]), 0),
            (row(1, None, start.clone(), &[]), 40),
            (row(2, None, start.clone(), &[]), 39),
            (row(3, Some("crashed"), start.clone(), &[]), 41),
            (row(4, Some("alive"), start.clone(), &[]), 9),
            (row(5, None, Position::ShardEnd, &[]), 99),
            (row(6, None, start, &[0]), 99),
        ];
        let observed: Vec<ObservedLease<'_>> = rows
            .iter()
            .map(|(lease, seconds)| ObservedLease {
                lease,
                unchanged_for: Duration::from_secs(*seconds),
                owned_for: None,
                requested_for: Duration::ZERO,
                weight: 1,
                is_of_namesake: false,
                is_paused: false,
            })
            .collect();
        let (held, requested) = (HashSet::from([id(0)]), HashSet::new());
        let holdings = Holdings { worker_id: &me, held: &held, requested: &requested };
        let unread = |max_leases| {
            let limits = AssignmentLimits {
                failover_time: Duration::from_secs(10),
                hand_over_time: Duration::from_secs(10),
                drain_time: Duration::from_secs(30),
                max_leases,
                max_moves: 1,
                max_takes: 1,
            };
            shards_without_worker(&observed, &holdings, &limits)
        };
        assert_eq!(unread(1), [id(1), id(3)], "the parent of 6 is being read");
        assert_eq!(unread(2), [], "this worker takes one itself");
    }
}
