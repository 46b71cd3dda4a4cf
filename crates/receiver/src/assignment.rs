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
}

/// The bounds of a plan.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentLimits {
    /// After so long without a change an owned lease is free.
    pub failover_time: Duration,
    /// The most leases this worker holds.
    pub max_leases: usize,
    /// The most leases it takes from live workers in one round.
    pub max_moves: usize,
}

/// What to take, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentPlan<'a> {
    /// Leases that nobody holds: unowned, expired, or left over from an earlier run of this very worker.
    pub take: Vec<&'a Lease>,
    /// Leases of live workers that hold more than their share.
    pub steal: Vec<&'a Lease>,
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
    worker_id: &WorkerId,
    held: &HashSet<ShardId>,
    limits: AssignmentLimits,
    rng: &mut Rng,
) -> AssignmentPlan<'a> {
    let view = FleetView::new(leases, worker_id, held, limits);
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
    AssignmentPlan { take, steal, is_partial }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lease_store::{LeaseChange, Position};
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const LIMITS: AssignmentLimits =
        AssignmentLimits { failover_time: Duration::from_secs(10), max_leases: usize::MAX, max_moves: 4 };

    fn worker(index: usize) -> WorkerId {
        WorkerId::new(format!("worker-{index}")).unwrap()
    }

    fn shard(index: usize) -> ShardId {
        ShardId::new(format!("shardId-{index:012}")).unwrap()
    }

    fn lease(index: usize, owner: Option<usize>) -> Lease {
        let lease = Lease::unowned(shard(index), Position::TrimHorizon);
        match owner {
            Some(owner) => LeaseChange::take(worker(owner)).apply(&lease),
            None => lease,
        }
    }

    fn fresh(leases: &[Lease]) -> Vec<ObservedLease<'_>> {
        leases.iter().map(|lease| ObservedLease { lease, unchanged_for: Duration::ZERO }).collect()
    }

    fn held_by(leases: &[Lease], me: usize) -> HashSet<ShardId> {
        leases
            .iter()
            .filter(|lease| lease.is_owned_by(&worker(me)))
            .map(|lease| lease.shard_id.clone())
            .collect()
    }

    fn plan<'a>(leases: &[ObservedLease<'a>], me: usize, held: &HashSet<ShardId>) -> AssignmentPlan<'a> {
        plan_assignment(leases, &worker(me), held, LIMITS, &mut Rng::with_seed(1))
    }

    #[test]
    fn a_lone_worker_takes_everything_that_can_be_read_half_at_a_time() {
        let mut leases = vec![lease(0, None), lease(1, None), lease(2, None)];
        leases[1].parents = BTreeSet::from([shard(0)]);
        leases[2].parents = BTreeSet::from([shard(77)]);
        let all_rounds = |mut leases: Vec<Lease>| {
            let mut rounds = Vec::new();
            loop {
                let seen = leases.clone();
                let plan = plan(&fresh(&seen), 0, &held_by(&leases, 0));
                rounds.push(apply(&mut leases, &plan, 0));
                if !plan.is_partial {
                    return (rounds, held_by(&leases, 0));
                }
            }
        };
        let (rounds, held) = all_rounds(leases.clone());
        assert_eq!((rounds, held), (vec![1, 1], HashSet::from([shard(0), shard(2)])), "the child waits");
        leases[0].checkpoint = Position::ShardEnd;
        let (_, held) = all_rounds(leases);
        assert_eq!(held, HashSet::from([shard(1), shard(2)]), "the parent is finished");
        let (rounds, _) = all_rounds((0..100).map(|index| lease(index, None)).collect());
        assert_eq!(rounds, [50, 25, 13, 6, 3, 2, 1]);
    }

    #[test]
    fn an_expired_lease_is_taken_even_when_counts_are_balanced() {
        let leases = [lease(0, Some(0)), lease(1, Some(1)), lease(2, Some(2))];
        let mut observed = fresh(&leases);
        observed[2].unchanged_for = LIMITS.failover_time;
        let plan = plan(&observed, 0, &held_by(&leases, 0));
        assert_eq!(plan.take, [&leases[2]]);
        assert_eq!(plan.steal, [] as [&Lease; 0]);
    }

    #[test]
    fn an_abandoned_lease_is_taken_beyond_the_fair_share() {
        let leases = [lease(0, Some(0)), lease(1, Some(1)), lease(2, None)];
        let mut observed = fresh(&leases);
        let mut held = held_by(&leases, 0);
        held.insert(shard(9));
        let more = lease(9, Some(0));
        observed.push(ObservedLease { lease: &more, unchanged_for: Duration::ZERO });
        assert_eq!(plan(&observed, 0, &held).take, [] as [&Lease; 0], "worker 1 should take it");
        observed[2].unchanged_for = LIMITS.failover_time * ABANDONED_AFTER_FAILOVER_TIMES;
        assert_eq!(plan(&observed, 0, &held).take, [&leases[2]]);
    }

    #[test]
    fn its_own_leases_of_an_earlier_run_are_taken_at_once() {
        let leases = [lease(0, Some(0)), lease(1, Some(1))];
        assert_eq!(plan(&fresh(&leases), 0, &HashSet::new()).take, [&leases[0]]);
    }

    #[test]
    fn a_lease_in_a_hand_over_of_the_kcl_is_left_alone_until_it_expires() {
        let mut leases = [lease(0, Some(1)), lease(1, Some(1)), lease(2, Some(1))];
        for lease in &mut leases {
            lease.checkpoint_owner = Some(worker(2));
        }
        assert_eq!(plan(&fresh(&leases), 0, &HashSet::new()).steal, [] as [&Lease; 0]);
        let mut observed = fresh(&leases);
        observed[0].unchanged_for = LIMITS.failover_time;
        assert_eq!(plan(&observed, 0, &HashSet::new()).take, [&leases[0]]);
    }

    #[test]
    fn the_maximum_is_never_passed() {
        let leases: Vec<_> = (0..10).map(|index| lease(index, (index >= 5).then_some(1))).collect();
        let limits = AssignmentLimits { max_leases: 3, ..LIMITS };
        let mut rng = Rng::with_seed(1);
        let plan = plan_assignment(&fresh(&leases), &worker(0), &HashSet::new(), limits, &mut rng);
        assert_eq!((plan.take.len(), plan.steal.len(), plan.is_partial), (3, 0, false));
    }

    fn apply(leases: &mut [Lease], plan: &AssignmentPlan<'_>, me: usize) -> usize {
        let chosen: Vec<ShardId> =
            plan.take.iter().chain(&plan.steal).map(|lease| lease.shard_id.clone()).collect();
        for lease in leases.iter_mut().filter(|lease| chosen.contains(&lease.shard_id)) {
            *lease = LeaseChange::take(worker(me)).apply(lease);
        }
        chosen.len()
    }

    fn any_fleet() -> impl Strategy<Value = (usize, Vec<Lease>, u64)> {
        (1..8usize).prop_flat_map(|workers| {
            let owners = prop::collection::vec(prop::option::of(0..workers), 1..40);
            (Just(workers), owners, any::<u64>()).prop_map(|(workers, owners, seed)| {
                let leases =
                    owners.into_iter().enumerate().map(|(index, owner)| lease(index, owner)).collect();
                (workers, leases, seed)
            })
        })
    }

    proptest! {
        /// Workers that plan in turn hold every lease soon, within one of each other, and then come to rest.
        #[test]
        fn a_fleet_comes_to_balance_and_to_rest((workers, mut leases, seed) in any_fleet()) {
            let mut rng = Rng::with_seed(seed);
            let rounds = 2 * leases.len() + 4;
            let mut last_round_moves = usize::MAX;
            for _ in 0..rounds {
                last_round_moves = 0;
                for me in 0..workers {
                    let seen = leases.clone();
                    let held = held_by(&leases, me);
                    let plan = plan_assignment(&fresh(&seen), &worker(me), &held, LIMITS, &mut rng);
                    prop_assert!(plan.steal.len() <= LIMITS.max_moves);
                    prop_assert!(plan.steal.iter().all(|lease| !lease.is_owned_by(&worker(me))), "stole from itself");
                    prop_assert!(plan.take.iter().all(|lease| lease.owner.is_none()));
                    last_round_moves += apply(&mut leases, &plan, me);
                }
            }
            let loads: Vec<usize> = (0..workers).map(|me| held_by(&leases, me).len()).collect();
            prop_assert_eq!(loads.iter().sum::<usize>(), leases.len(), "every lease is held");
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", loads);
            prop_assert_eq!(last_round_moves, 0, "still moving");
        }

        #[test]
        fn a_plan_names_each_lease_once((_, leases, seed) in any_fleet()) {
            let plan = plan_assignment(&fresh(&leases), &worker(0), &HashSet::new(), LIMITS, &mut Rng::with_seed(seed));
            let all: Vec<_> = plan.take.iter().chain(&plan.steal).map(|lease| &lease.shard_id).collect();
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        }
    }
}
