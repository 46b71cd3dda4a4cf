//! Which leases this worker takes next: a pure plan over what it has seen.

use std::collections::{BTreeMap, HashSet};

use fastrand::Rng;
use lease_store::{Lease, ShardId, WorkerId};
use tokio::time::Duration;

/// A free lease that nobody took for this many fail-over times is taken even beyond the fair share: whoever should
/// have taken it cannot (KCL: `veryOldLeaseDurationNanosMultiplier`).
const ABANDONED_AFTER_FAILOVER_TIMES: u32 = 3;

/// A lease, and how long this process has seen it stand still.
#[derive(Debug, Clone, Copy)]
pub struct ObservedLease<'a> {
    /// The row as it was listed.
    pub lease: &'a Lease,
    /// How long its version has not changed.
    pub unchanged_for: Duration,
    /// How long this process has seen the present owner; `None`: since before it first looked.
    pub owned_for: Option<Duration>,
    /// How long the present request stands; zero without one.
    pub requested_for: Duration,
    /// Work per lease.
    pub weight: u64,
}

/// What this worker holds.
#[derive(Debug, Clone, Copy)]
pub struct Holdings<'a> {
    /// Its name.
    pub worker_id: &'a WorkerId,
    /// What it holds.
    pub held: &'a HashSet<ShardId>,
    /// What it asked for.
    pub requested: &'a HashSet<ShardId>,
}

/// The bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentLimits {
    /// After so long without a change an owned lease is free.
    pub failover_time: Duration,
    /// The most leases this worker holds.
    pub max_leases: usize,
    /// How long an owner that has not agreed may take to answer a request.
    pub hand_over_time: Duration,
    /// How long an owner that has agreed may take.
    pub drain_time: Duration,
    /// The most leases on the way.
    pub max_moves: usize,
    /// The most free leases in one plan.
    pub max_takes: usize,
}

/// What to take, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentPlan<'a> {
    /// Leases that nobody holds: unowned, expired, or left over from an earlier run of this very worker.
    pub take: Vec<&'a Lease>,
    /// Leases of live workers that hold more than their share.
    pub request: Vec<&'a Lease>,
    /// More leases are free for this worker than it takes now: it should look again soon.
    pub is_partial: bool,
}

/// Decides which leases a worker takes next.
///
/// - Only shards with work count: not those read to their end, and not children whose parents are still being read.
/// - The fair share is the number of such shards over the number of live workers, rounded up.
/// - Free leases come first, up to the fair share; this worker's own of an earlier run always; abandoned ones always.
///   Of the free ones it takes half at a time: workers that start together do not know of each other yet, and what one
///   of them does not take, nobody has to take from it later.
/// - With nothing free, leases are taken from workers that hold at least two more than this one, the fullest first, so
///   that each move makes the fleet more even and a balanced fleet is left alone.
///
/// `held` are the shards that this process holds now. Of equally good leases the generator chooses, so that workers
/// which look at the same time do not all want the same one.
pub fn plan_assignment<'a>(
    leases: &[ObservedLease<'a>],
    holdings: &Holdings<'_>,
    limits: AssignmentLimits,
    rng: &mut Rng,
) -> AssignmentPlan<'a> {
    let view = FleetView::new(leases, holdings.worker_id, holdings.held, limits);
    let room = |planned: usize| limits.max_leases.saturating_sub(view.mine + planned);

    let mut take: Vec<&Lease> = view.own_leftovers.iter().copied().take(room(0)).collect();
    let mut free = view.free.clone();
    let at_most = take.len() + free.len().div_ceil(2);
    let mut is_partial = false;
    rng.shuffle(&mut free);
    // The abandoned ones first; whatever is equally urgent stays in random order.
    free.sort_by_key(|observed| std::cmp::Reverse(view.is_abandoned(observed)));
    for observed in free {
        let wanted = view.is_abandoned(&observed) || view.mine + take.len() < view.fair_share;
        if wanted && room(take.len()) > 0 {
            if take.len() == at_most {
                is_partial = true;
                break;
            }
            take.push(observed.lease);
        }
    }

    let mut steal = Vec::new();
    if take.is_empty() {
        let mut donors = view.donors.clone();
        while steal.len() < limits.max_moves && room(steal.len()) > 0 {
            let mine = view.mine + steal.len();
            let Some(fullest) = donors.values_mut().max_by_key(|leases| leases.load) else { break };
            if mine >= view.fair_share || fullest.load < mine + 2 || fullest.movable.is_empty() {
                break;
            }
            let chosen = rng.usize(..fullest.movable.len());
            steal.push(fullest.movable.swap_remove(chosen));
            fullest.load -= 1;
        }
    }
    AssignmentPlan { take, request: steal, is_partial }
}

#[derive(Debug, Clone, Default)]
struct Donor<'a> {
    /// All unfinished leases that the worker holds.
    load: usize,
    /// Those that may be taken from it.
    movable: Vec<&'a Lease>,
}

/// The leases, sorted by what can be done with them.
struct FleetView<'a> {
    /// How many unfinished leases this worker holds.
    mine: usize,
    fair_share: usize,
    /// Leases in this worker's name that it does not hold: from before a restart, or from a take that was never
    /// confirmed.
    own_leftovers: Vec<&'a Lease>,
    free: Vec<ObservedLease<'a>>,
    donors: BTreeMap<&'a WorkerId, Donor<'a>>,
    abandoned_after: Duration,
}

impl<'a> FleetView<'a> {
    fn new(
        leases: &[ObservedLease<'a>],
        worker_id: &WorkerId,
        held: &HashSet<ShardId>,
        limits: AssignmentLimits,
    ) -> Self {
        let unfinished_shards: HashSet<&ShardId> = leases
            .iter()
            .map(|observed| observed.lease)
            .filter(|lease| !lease.is_finished())
            .map(|lease| &lease.shard_id)
            .collect();
        let mut view = Self {
            mine: 0,
            fair_share: 0,
            own_leftovers: Vec::new(),
            free: Vec::new(),
            donors: BTreeMap::new(),
            abandoned_after: limits.failover_time * ABANDONED_AFTER_FAILOVER_TIMES,
        };
        let mut with_work = 0;
        for observed in leases.iter().filter(|observed| !observed.lease.is_finished()) {
            let lease = observed.lease;
            let is_ready = lease.parents.iter().all(|parent| !unfinished_shards.contains(parent));
            let is_live = lease.owner.is_some() && observed.unchanged_for < limits.failover_time;
            with_work += usize::from(is_ready || is_live);
            match &lease.owner {
                _ if held.contains(&lease.shard_id) => view.mine += 1,
                Some(owner) if owner == worker_id && lease.checkpoint_owner.is_none() => {
                    view.own_leftovers.extend(is_ready.then_some(lease));
                }
                Some(owner) if is_live => {
                    let donor = view.donors.entry(owner).or_default();
                    donor.load += 1;
                    if is_ready && lease.checkpoint_owner.is_none() {
                        donor.movable.push(lease);
                    }
                }
                _ if is_ready => view.free.push(*observed),
                _ => {}
            }
        }
        view.fair_share = usize::div_ceil(with_work, view.donors.len() + 1);
        view
    }

    fn is_abandoned(&self, observed: &ObservedLease<'_>) -> bool {
        observed.unchanged_for >= self.abandoned_after
    }
}
