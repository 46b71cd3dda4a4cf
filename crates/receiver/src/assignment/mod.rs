//! Which leases this worker takes and asks for next: a pure plan over what it has seen.
//!
//! `fleet` sorts the rows, `deal` divides the work, `moves` chooses which leases change hands; here they come together.

mod deal;
mod fleet;
mod moves;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use fastrand::Rng;
use lease_store::{Consistency, Lease, Position, ShardId, WorkerId};
use tokio::time::Duration;

use deal::{Shares, part_of};
use fleet::{FleetView, ME};
use moves::{any_move, moves_for};

/// A free lease that nobody took for this many fail-over times is taken even beyond the fair share: whoever should
/// have taken it cannot (KCL: `veryOldLeaseDurationNanosMultiplier`).
const ABANDONED_AFTER_FAILOVER_TIMES: u32 = 3;

/// A lease, and what this process has seen of it.
#[derive(Debug, Clone, Copy)]
pub struct ObservedLease<'a> {
    /// The row as it was listed.
    pub lease: &'a Lease,
    /// How long its version has not changed.
    pub unchanged_for: Duration,
    /// How long this process has seen the present owner; `None`: it was there at the first look.
    pub owned_for: Option<Duration>,
    /// How long the present request has stood; zero without one.
    pub requested_for: Duration,
    /// How much work the lease is, in any unit that is the same for all of them, such as bytes per second; the same for
    /// all leases when it is not known.
    pub weight: u64,
}

/// The bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentLimits {
    /// After so long without a change an owned lease is free. After so long with the same owner a lease may move again.
    pub failover_time: Duration,
    /// So long an owner that has not agreed may take to answer a request.
    pub hand_over_time: Duration,
    /// So long an owner that has agreed may take to finish its work and hand the lease over.
    pub drain_time: Duration,
    /// The most leases this worker holds.
    pub max_leases: usize,
    /// The most leases of live workers that are on their way to this worker at the same time.
    pub max_moves: usize,
    /// The most free leases it takes in one plan; what was handed over to it does not count.
    pub max_takes: usize,
}

/// What this process has in hand.
#[derive(Debug, Clone, Copy)]
pub struct Holdings<'a> {
    /// The name of this worker.
    pub worker_id: &'a WorkerId,
    /// The shards whose leases it holds.
    pub held: &'a HashSet<ShardId>,
    /// The shards whose leases it has asked for, as long as it is not settled what became of it.
    pub requested: &'a HashSet<ShardId>,
}

/// What to take and what to ask for, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssignmentPlan<'a> {
    /// Leases to take with a conditional write: those in this worker's name that it does not hold, those whose owner
    /// did not answer its request in time, and those that nobody holds.
    pub take: Vec<&'a Lease>,
    /// Leases of live workers, to ask their owners for.
    pub request: Vec<&'a Lease>,
    /// There is more for this worker than it takes and asks for now: it should look again soon.
    pub is_partial: bool,
}

/// Decides which leases a worker takes and asks for next.
///
/// - Only shards with work count: not those read to their end, and not children whose parents are still being read.
///   The work is divided among all live workers so that no two differ by more than one lease. A lease under a request
///   counts for the worker that asks. A worker that has offered all its leases is leaving and counts no more.
/// - Leases in this worker's own name are taken always, and those whose owner did not answer in time as long as they
///   are within the share.
/// - Then comes what nobody has or wants: free leases are taken, those of leaving workers are asked for. They are
///   dealt, in the order of their shards, to the workers below their share; every worker takes its own part.
/// - If that is not enough, the surplus of those above their share is dealt to those below, and every worker asks for
///   its own part. So no more moves than has to, and a balanced fleet moves nothing.
/// - A worker that nobody can see yet takes or asks for one lease only and looks again: the others that started at the
///   same time can be seen by then. From then on it at most doubles what it has in each plan, so that those who were
///   not lucky at first have the time to show themselves too.
/// - Free leases that nobody took for long are taken even beyond the share.
///
/// The generator decides where all workers would otherwise want the same and the deal cannot tell them apart.
pub fn plan_assignment<'a>(
    leases: &[ObservedLease<'a>],
    holdings: &Holdings<'_>,
    limits: AssignmentLimits,
    rng: &mut Rng,
) -> AssignmentPlan<'a> {
    let mut fleet = FleetView::new(leases, holdings, &limits);
    let mut planner = Planner {
        worker_id: holdings.worker_id,
        room: limits.max_leases.saturating_sub(fleet.occupied),
        takes: limits.max_takes,
        moves: limits.max_moves.saturating_sub(fleet.under_way),
        growth: 0,
        plan: AssignmentPlan::default(),
    };
    planner.take_leftovers(&mut fleet);
    planner.growth = fleet.workers[ME].load.max(1);
    let shares = Shares::new(fleet.work, fleet.order.len());
    planner.take_overdue(&fleet, shares, &limits);
    if fleet.is_visible {
        let pool_is_enough = planner.take_part_of_pool(&fleet, shares, rng);
        if !pool_is_enough {
            planner.ask_for_surplus(&fleet, shares);
        }
        planner.take_abandoned(&fleet, &limits, rng);
    } else {
        planner.announce(&fleet, shares, rng);
    }
    planner.plan
}

/// Whether it is sure that the parents of a lease are done, as far as a listing tells. An eventually consistent one may show a
/// child and not yet its parent, which would then count as done.
pub fn is_sure_of_parents(lease: &Lease, listed: &HashSet<&ShardId>, consistency: Consistency) -> bool {
    consistency == Consistency::Strong
        || matches!(lease.checkpoint, Position::After(_))
        || lease.parents.iter().all(|parent| listed.contains(parent))
}

/// A plan in the making, and what may still be added to it.
struct Planner<'a, 'w> {
    worker_id: &'w WorkerId,
    room: usize,
    takes: usize,
    moves: usize,
    /// How many more it takes and asks for: at most as many as it has, so that others have the time to show themselves.
    growth: usize,
    plan: AssignmentPlan<'a>,
}

impl<'a> Planner<'a, '_> {
    fn take_leftovers(&mut self, fleet: &mut FleetView<'a>) {
        for leftover in std::mem::take(&mut fleet.leftovers).into_iter().take(self.room) {
            self.room -= 1;
            fleet.add_load(leftover, ME);
            self.plan.take.push(leftover.lease);
        }
    }

    /// They have counted for this worker all along.
    fn take_overdue(&mut self, fleet: &FleetView<'a>, shares: Shares, limits: &AssignmentLimits) {
        let beyond_share = fleet.workers[ME].load.saturating_sub(shares.ceil);
        let beyond_maximum = fleet.occupied.saturating_sub(limits.max_leases);
        let justified = fleet.overdue.len().saturating_sub(beyond_share.max(beyond_maximum));
        self.plan.take.extend(fleet.overdue.iter().take(justified).map(|observed| observed.lease));
    }

    /// Takes or asks for this worker's part of what nobody has or wants. Yields whether there is more of that than
    /// the workers lack up to the floor of their share, so that nothing else needs to move now.
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
        // What is left goes to those that have reached the floor, one each.
        let may_have_more = |worker: usize| deficits[worker] == 0 && loads[worker] < shares.ceil;
        if deficits[me] > 0 {
            self.plan.is_partial |= !self.is_empty();
        } else if may_have_more(me) {
            let rank = (0..me).filter(|worker| may_have_more(*worker)).count();
            let index = if lacking + rank < available {
                lacking + rank
            } else {
                // There is none for this worker; but whoever should take one may not be able to.
                rng.usize(lacking..available)
            };
            self.add_from_pool(fleet, index);
        }
        true
    }

    fn ask_for_surplus(&mut self, fleet: &FleetView<'a>, shares: Shares) {
        let (targets, needs) = needs_beyond_pool(fleet, shares);
        let me = my_rank(fleet);
        if needs[me] == 0 {
            return;
        }
        for lease in moves_for(me, fleet, &targets, &needs) {
            self.request(lease);
        }
    }

    /// Whoever should have taken them evidently cannot. All who look take a part of them, so that no one gets all.
    fn take_abandoned(&mut self, fleet: &FleetView<'a>, limits: &AssignmentLimits, rng: &mut Rng) {
        let abandoned_after = limits.failover_time * ABANDONED_AFTER_FAILOVER_TIMES;
        let planned: HashSet<&ShardId> = self.plan.take.iter().map(|lease| &lease.shard_id).collect();
        let mut abandoned: Vec<&Lease> = fleet
            .free
            .iter()
            .filter(|observed| observed.unchanged_for >= abandoned_after)
            .map(|observed| observed.lease)
            .filter(|lease| !planned.contains(&lease.shard_id))
            .collect();
        rng.shuffle(&mut abandoned);
        let part = abandoned.len().div_ceil(fleet.order.len().max(1));
        self.plan.is_partial |= part < abandoned.len() && self.room > 0;
        for lease in abandoned.into_iter().take(part) {
            self.take(lease);
        }
    }

    /// The first step of a worker of whom the others do not know yet: one lease that shows it to them. Until everybody
    /// has been seen, nobody can know its share.
    fn announce(&mut self, fleet: &FleetView<'a>, shares: Shares, rng: &mut Rng) {
        let loads = fleet.loads();
        let available = pool_size(fleet);
        if available > 0 {
            // Behind what the others are about to take, if there is so much.
            let others = shares.deficits(&loads)[..my_rank(fleet)].iter().sum::<usize>();
            let first = if others < available { others } else { 0 };
            self.add_from_pool(fleet, rng.usize(first..available));
        } else {
            let donors = shares.least_of_donors(&loads);
            if let Some(lease) = donors.and_then(|least| any_move(fleet, least, rng)) {
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
        if self.room > 0 && self.takes > 0 && self.growth > 0 {
            self.room -= 1;
            self.growth -= 1;
            self.takes -= 1;
            self.plan.take.push(lease);
        } else {
            self.plan.is_partial |= self.room > 0;
        }
    }

    fn request(&mut self, lease: &'a Lease) {
        if self.room > 0 && self.moves > 0 && self.growth > 0 {
            self.room -= 1;
            self.growth -= 1;
            self.moves -= 1;
            if lease.hand_over_target() == Some(self.worker_id) {
                // It was asked for so long ago that the request counts no more. To ask again would change nothing.
                self.plan.take.push(lease);
            } else {
                self.plan.request.push(lease);
            }
        } else {
            // While all that may be under way is under way, there is nothing to look for.
            self.plan.is_partial |= self.room > 0 && !self.is_empty();
        }
    }
}

/// The place of this worker among those that share the work.
fn my_rank(fleet: &FleetView<'_>) -> usize {
    fleet.order.iter().position(|index| *index == ME).unwrap_or(0)
}

/// How much there is that nobody has or wants: first what is free, then what is offered.
fn pool_size(fleet: &FleetView<'_>) -> usize {
    fleet.free.len() + fleet.offered.len()
}

/// What each worker should have in the end, and how much of it does not come from the pool.
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
