//! Which other workers are alive, and whether this one leads the fleet: pure.

use std::collections::HashSet;

use lease_store::WorkerId;
use tokio::time::Duration;

use crate::assignment::leader::kcl_leader;
use crate::assignment::lease_observations::ObservedLease;

/// How many other workers are alive: each renews a lease that it does not offer, or requests one.
pub(crate) fn live_peers(leases: &[ObservedLease<'_>], me: &WorkerId, failover_time: Duration) -> usize {
    let alive = leases.iter().filter(|observed| observed.unchanged_for < failover_time);
    let peers: HashSet<&WorkerId> = alive
        .flat_map(|observed| {
            let lease = observed.lease;
            let owner = lease.owner.as_ref().filter(|_| !lease.is_offered());
            owner.into_iter().chain(lease.hand_over_target())
        })
        .filter(|worker| *worker != me)
        .collect();
    peers.len()
}

/// Whether this worker lists the shards for the fleet. The row of an ended shard keeps its last owner, which may no longer run
/// and then leads no fleet.
pub(crate) fn leads(leases: &[ObservedLease<'_>], me: &WorkerId, failover_time: Duration) -> bool {
    let is_alive = |worker: &WorkerId| {
        leases.iter().any(|observed| {
            observed.lease.is_owned_by(worker)
                && !observed.lease.is_finished()
                && observed.unchanged_for < failover_time
        })
    };
    kcl_leader(leases.iter().map(|observed| observed.lease))
        .is_none_or(|leader| leader == me || !is_alive(leader))
}

#[cfg(test)]
mod tests {
    use lease_store::{Lease, Position, ShardId};

    use super::*;

    #[test]
    fn a_leaving_worker_is_no_live_peer_and_a_requester_is_one() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let lease = |number, owner, requester: Option<&'static str>| {
            let mut lease = Lease::unowned(ShardId::numbered(number), Position::TrimHorizon);
            lease.owner = Some(worker(owner));
            lease.requested_by = requester.map(worker);
            lease
        };
        let mut leases = vec![lease(0, "me", None), lease(1, "leaving", None), lease(2, "dead", None)];
        leases[1].offered_by = Some(worker("leaving"));
        let observe = |leases: &[Lease]| {
            let observed: Vec<ObservedLease<'_>> = leases
                .iter()
                .map(|lease| ObservedLease {
                    lease,
                    unchanged_for: Duration::from_secs(if lease.is_owned_by(&worker("dead")) {
                        10
                    } else {
                        0
                    }),
                    owned_for: None,
                    requested_for: Duration::ZERO,
                    weight: 1,
                    is_of_namesake: false,
                    is_paused: false,
                })
                .collect();
            live_peers(&observed, &worker("me"), Duration::from_secs(10))
        };
        assert_eq!(observe(&leases), 0);
        leases.push(lease(3, "me", Some("joining")));
        assert_eq!(observe(&leases), 1);
        leases.push(lease(4, "working", None));
        assert_eq!(observe(&leases), 2);
    }
}
