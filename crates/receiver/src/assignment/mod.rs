//! Which leases this worker takes and requests next: a pure plan over the leases it has observed.
//!
//! [`fleet_view`] finds the live workers and sorts the leases, [`shares`] divides the work among the workers, and the
//! planner here combines the two.

pub(crate) mod bounded_run;
pub(crate) mod fleet_view;
pub(crate) mod leader;
pub(crate) mod lease_observations;
pub(crate) mod namesakes;
pub(crate) mod paused;
pub(crate) mod peers;
mod shares;
pub(crate) mod streams;
#[cfg(test)]
mod tests;
pub(crate) mod unread;

use std::collections::HashSet;

use fastrand::Rng;
use lease_store::{Consistency, Lease, Position, ShardId, WorkerId};

use crate::assignment::fleet_view::{AssignmentLimits, FleetView, Holdings, ME};
use crate::assignment::lease_observations::ObservedLease;
use crate::assignment::shares::{Shares, part_of, random_move, surplus_for};

/// After this many fail-over times a free lease is taken even beyond the fair share: the worker that should have taken it
/// evidently cannot (KCL: `veryOldLeaseDurationNanosMultiplier`).
const ABANDONED_AFTER_FAILOVER_TIMES: u32 = 3;

/// After this many fail-over times without a renewal an expired lease is taken even beyond the fair share. A worker of ours
/// takes its part as soon as the lease expires; a KCL worker scans every two fail-over times, and the shard would not be read
/// until then.
const EXPIRED_AFTER_FAILOVER_TIMES: f64 = 1.5;

/// The leases to take and to request, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssignmentPlan<'a> {
    /// Leases to take with a conditional write: those that this worker owns but does not hold, those whose owner did not
    /// answer its request in time, and free ones.
    pub take: Vec<&'a Lease>,
    /// Leases of live workers, to request from their owners.
    pub request: Vec<&'a Lease>,
    /// The plan stays below this worker's share: it should plan again soon.
    pub is_partial: bool,
}

/// Decides which leases a worker takes and requests next.
///
/// - Only shards with work count: neither those read to their end, nor paused ones, nor children whose parents are not read to
///   their end. The
///   work is divided among all live workers so that no two differ by more than one lease. A requested lease counts for
///   its requester. A worker that has offered all its leases is leaving and does not count.
/// - A worker always takes the leases it owns but does not hold, except those of another live process under its worker id.
///   Within its share it takes the leases whose owners did
///   not answer its requests in time.
/// - Then comes the pool: free leases, which are taken, and those of leaving workers, which are requested. The pool is
///   distributed, in the order of the shards, to the workers below their share. Each worker takes its own part.
/// - If the pool is not enough, the surplus of the workers above their share is distributed to those below it. Each worker
///   requests its own part. So the fleet moves as few leases as possible, and none when it is balanced.
/// - A worker that the others cannot see yet takes or requests a single lease and plans again: by then it sees the
///   others that started at the same time. After that each plan at most doubles what it has, so that workers which got
///   nothing at first have the time to become visible too.
/// - Free leases that no worker took for a long time are taken even beyond the share, and those of crashed workers sooner.
///
/// `rng` decides where the distribution is the same for several workers, so that they choose different leases.
pub fn plan_assignment<'a>(
    leases: &[ObservedLease<'a>],
    holdings: &Holdings<'_>,
    limits: AssignmentLimits,
    rng: &mut Rng,
) -> AssignmentPlan<'a> {
    let mut fleet = FleetView::new(leases, holdings, &limits);
    let mut planner = Planner {
        worker_id: holdings.worker_id,
        capacity: limits.max_leases.saturating_sub(fleet.occupied),
        takes: limits.max_takes,
        moves: limits.max_moves.saturating_sub(fleet.incoming),
        growth: 0,
        plan: AssignmentPlan::default(),
    };
    planner.take_own_unheld(&mut fleet);
    planner.growth = fleet.workers[ME].load.max(1);
    let shares = Shares::new(fleet.work, fleet.order.len());
    planner.take_overdue(&fleet, shares, &limits);
    if fleet.is_visible {
        let pool_is_enough = planner.take_part_of_pool(&fleet, shares, rng);
        if !pool_is_enough {
            planner.request_surplus(&fleet, shares);
        }
        planner.take_abandoned(&fleet, &limits, rng);
    } else {
        planner.become_visible(&fleet, shares, rng);
    }
    planner.plan
}

/// Whether a listing proves that the parents of a lease are done. An eventually consistent listing may show a child before
/// its parent, and a parent without a row counts as done.
pub fn is_sure_of_parents(lease: &Lease, listed: &HashSet<&ShardId>, consistency: Consistency) -> bool {
    consistency == Consistency::Strong
        || matches!(lease.checkpoint, Position::After(_))
        || lease.parents.iter().all(|parent| listed.contains(parent))
}

/// An unfinished plan, and how much can still be added to it.
struct Planner<'a, 'w> {
    worker_id: &'w WorkerId,
    /// How many more leases this worker may hold.
    capacity: usize,
    takes: usize,
    moves: usize,
    /// How many more leases the plan takes and requests: at most as many as this worker has.
    growth: usize,
    plan: AssignmentPlan<'a>,
}

impl<'a> Planner<'a, '_> {
    fn take_own_unheld(&mut self, fleet: &mut FleetView<'a>) {
        for unheld in std::mem::take(&mut fleet.own_unheld).into_iter().take(self.capacity) {
            self.capacity -= 1;
            fleet.add_load(unheld, ME);
            self.plan.take.push(unheld.lease);
        }
    }

    /// Overdue leases already count for this worker, so they use up no capacity.
    fn take_overdue(&mut self, fleet: &FleetView<'a>, shares: Shares, limits: &AssignmentLimits) {
        let beyond_share = fleet.workers[ME].load.saturating_sub(shares.ceil);
        let beyond_maximum = fleet.occupied.saturating_sub(limits.max_leases);
        let justified = fleet.overdue.len().saturating_sub(beyond_share.max(beyond_maximum));
        self.plan.take.extend(fleet.overdue.iter().take(justified).map(|observed| observed.lease));
    }

    /// Takes or requests this worker's part of the pool. Returns whether the pool covers all deficits, so that nothing
    /// else needs to move now.
    fn take_part_of_pool(&mut self, fleet: &FleetView<'a>, shares: Shares, rng: &mut Rng) -> bool {
        let loads = fleet.loads();
        let deficits = shares.deficits(&loads);
        let me = my_rank(fleet);
        let available = pool_size(fleet);
        for index in part_of(me, &deficits, available) {
            self.add_from_pool(fleet, index);
        }
        let lacking = deficits.iter().sum::<usize>();
        if available <= lacking {
            return false;
        }
        // The rest of the pool goes to the workers at the floor, one lease each.
        let may_have_more = |worker: usize| deficits[worker] == 0 && loads[worker] < shares.ceil;
        if deficits[me] > 0 {
            self.plan.is_partial |= !self.is_empty();
        } else if may_have_more(me) {
            let rank = (0..me).filter(|worker| may_have_more(*worker)).count();
            let index = if lacking + rank < available {
                lacking + rank
            } else {
                // No lease is this worker's, but the worker that should take one may be unable to.
                rng.usize(lacking..available)
            };
            self.add_from_pool(fleet, index);
        }
        true
    }

    fn request_surplus(&mut self, fleet: &FleetView<'a>, shares: Shares) {
        let (targets, needs) = needs_beyond_pool(fleet, shares);
        let me = my_rank(fleet);
        if needs[me] == 0 {
            return;
        }
        for lease in surplus_for(me, fleet, &targets, &needs) {
            self.request(lease);
        }
    }

    /// Takes a random part of the abandoned leases. Each worker takes a part, so that no single worker gets them all.
    fn take_abandoned(&mut self, fleet: &FleetView<'a>, limits: &AssignmentLimits, rng: &mut Rng) {
        let abandoned_after = limits.failover_time * ABANDONED_AFTER_FAILOVER_TIMES;
        let expired_after = limits.failover_time.mul_f64(EXPIRED_AFTER_FAILOVER_TIMES);
        let is_abandoned = |observed: &&ObservedLease<'_>| {
            let after = if observed.lease.owner.is_some() { expired_after } else { abandoned_after };
            observed.unchanged_for >= after
        };
        let planned: HashSet<&ShardId> = self.plan.take.iter().map(|lease| &lease.shard_id).collect();
        let mut abandoned: Vec<&Lease> = fleet
            .free
            .iter()
            .filter(is_abandoned)
            .map(|observed| observed.lease)
            .filter(|lease| !planned.contains(&lease.shard_id))
            .collect();
        rng.shuffle(&mut abandoned);
        let part = abandoned.len().div_ceil(fleet.order.len().max(1));
        self.plan.is_partial |= part < abandoned.len() && self.capacity > 0;
        for lease in abandoned.into_iter().take(part) {
            self.take(lease);
        }
    }

    /// The first plan of a worker that the others cannot see yet: one lease, whose row then shows it to them. Before all
    /// workers are visible, none of them can know its share.
    fn become_visible(&mut self, fleet: &FleetView<'a>, shares: Shares, rng: &mut Rng) {
        let loads = fleet.loads();
        let available = pool_size(fleet);
        if available > 0 {
            // Skip the leases that the others are about to take, if the pool has more than those.
            let others = shares.deficits(&loads)[..my_rank(fleet)].iter().sum::<usize>();
            let first = if others < available { others } else { 0 };
            self.add_from_pool(fleet, rng.usize(first..available));
        } else {
            let donors = shares.donor_threshold(&loads);
            if let Some(lease) = donors.and_then(|threshold| random_move(fleet, threshold, rng)) {
                self.request(lease);
            }
        }
        self.plan.is_partial |= !self.is_empty();
    }

    fn is_empty(&self) -> bool {
        self.plan.take.is_empty() && self.plan.request.is_empty()
    }

    fn add_from_pool(&mut self, fleet: &FleetView<'a>, index: usize) {
        match fleet.free.get(index) {
            Some(observed) => self.take(observed.lease),
            None => self.request(fleet.offered[index - fleet.free.len()].lease),
        }
    }

    fn take(&mut self, lease: &'a Lease) {
        if self.capacity > 0 && self.takes > 0 && self.growth > 0 {
            self.capacity -= 1;
            self.growth -= 1;
            self.takes -= 1;
            self.plan.take.push(lease);
        } else {
            self.plan.is_partial |= self.capacity > 0;
        }
    }

    fn request(&mut self, lease: &'a Lease) {
        if self.capacity > 0 && self.moves > 0 && self.growth > 0 {
            self.capacity -= 1;
            self.growth -= 1;
            self.moves -= 1;
            if lease.hand_over_target() == Some(self.worker_id) {
                // This worker's own request on it is stale. Writing the same request again would change nothing.
                self.plan.take.push(lease);
            } else {
                self.plan.request.push(lease);
            }
        } else {
            // With an empty plan all allowed moves are in flight, and planning again soon would find nothing.
            self.plan.is_partial |= self.capacity > 0 && !self.is_empty();
        }
    }
}

/// The index of this worker among those that share the work.
fn my_rank(fleet: &FleetView<'_>) -> usize {
    fleet.order.iter().position(|index| *index == ME).unwrap_or(0)
}

/// How many leases are in the pool: the free ones, followed by the offered ones.
fn pool_size(fleet: &FleetView<'_>) -> usize {
    fleet.free.len() + fleet.offered.len()
}

/// How many leases each worker should end up with, and how many of those do not come from the pool.
fn needs_beyond_pool(fleet: &FleetView<'_>, shares: Shares) -> (Vec<usize>, Vec<usize>) {
    let loads = fleet.loads();
    let deficits = shares.deficits(&loads);
    let targets = shares.targets(&loads);
    let needs = (0..loads.len()).map(|worker| {
        let from_pool = part_of(worker, &deficits, pool_size(fleet)).len();
        targets[worker].saturating_sub(loads[worker] + from_pool)
    });
    let needs = needs.collect();
    (targets, needs)
}
