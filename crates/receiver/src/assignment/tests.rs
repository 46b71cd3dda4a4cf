//! Examples for each rule of the planner. `tests/it/balancing` tests whole fleets.

use std::collections::BTreeSet;

use lease_store::LeaseChange;
use tokio::time::Duration;

use super::*;

const ME: usize = 0;

const LIMITS: AssignmentLimits = AssignmentLimits {
    failover_time: Duration::from_secs(10),
    hand_over_time: Duration::from_secs(20),
    drain_time: Duration::from_secs(30),
    max_leases: usize::MAX,
    max_moves: 4,
    max_takes: 100,
};

/// The age of a stale request.
const STALE: Duration = Duration::from_secs(60);

fn worker(index: usize) -> WorkerId {
    WorkerId::new(format!("worker-{index}")).unwrap()
}

fn shard(index: usize) -> ShardId {
    ShardId::numbered(index as u64)
}

fn lease(index: usize, owner: Option<usize>) -> Lease {
    let lease = Lease::unowned(shard(index), Position::TrimHorizon);
    match owner {
        Some(owner) => LeaseChange::take(worker(owner)).apply(&lease),
        None => lease,
    }
}

/// One lease for each of these owners.
fn leases<const N: usize>(owners: [Option<usize>; N]) -> [Lease; N] {
    let mut index = 0;
    owners.map(|owner| {
        index += 1;
        lease(index - 1, owner)
    })
}

fn request_for(lease: &mut Lease, requester: usize) {
    lease.requested_by = Some(worker(requester));
}

fn offer(lease: &mut Lease) {
    lease.offered_by = lease.owner.clone();
}

fn fresh(leases: &[Lease]) -> Vec<ObservedLease<'_>> {
    let observed = leases.iter().map(|lease| ObservedLease {
        lease,
        unchanged_for: Duration::ZERO,
        owned_for: None,
        requested_for: Duration::ZERO,
        weight: 1,
        is_of_namesake: false,
        is_paused: false,
    });
    observed.collect()
}

/// The shards of the leases that this worker owns.
fn held(leases: &[Lease]) -> HashSet<ShardId> {
    let own = leases.iter().filter(|lease| lease.is_owned_by(&worker(ME)));
    own.map(|lease| lease.shard_id.clone()).collect()
}

fn plan_within<'a>(
    observed: &[ObservedLease<'a>],
    held: &HashSet<ShardId>,
    limits: AssignmentLimits,
) -> AssignmentPlan<'a> {
    let holdings = Holdings { worker_id: &worker(ME), held, requested: &HashSet::new() };
    plan_assignment(observed, &holdings, limits, &mut Rng::with_seed(1))
}

fn plan<'a>(observed: &[ObservedLease<'a>], held: &HashSet<ShardId>) -> AssignmentPlan<'a> {
    plan_within(observed, held, LIMITS)
}

/// How many leases of an owner the plan requests.
fn requested_from(plan: &AssignmentPlan<'_>, owner: usize) -> usize {
    plan.request.iter().filter(|lease| lease.is_owned_by(&worker(owner))).count()
}

const NOTHING: [&Lease; 0] = [];

/// The rows after this worker has taken the leases of its plan.
fn take_all(leases: &[Lease], plan: &AssignmentPlan<'_>) -> Vec<Lease> {
    let take = LeaseChange::take(worker(ME));
    let rows =
        leases.iter().map(|lease| if plan.take.contains(&lease) { take.apply(lease) } else { lease.clone() });
    rows.collect()
}

#[test]
fn a_new_worker_takes_one_lease_then_doubles_up_to_its_share() {
    let mut leases: Vec<Lease> = (0..20).map(|index| lease(index, None)).collect();
    let first = plan(&fresh(&leases), &HashSet::new());
    assert_eq!((first.take.len(), first.is_partial), (1, true));
    leases = take_all(&leases, &first);
    // By then another worker is visible.
    let other = leases.iter_mut().find(|lease| lease.owner.is_none()).unwrap();
    *other = LeaseChange::take(worker(1)).apply(other);
    let mut taken = Vec::new();
    loop {
        let seen = leases.clone();
        let plan = plan(&fresh(&seen), &held(&seen));
        taken.push(plan.take.len());
        leases = take_all(&leases, &plan);
        if !plan.is_partial {
            break;
        }
    }
    assert_eq!(taken, [1, 2, 4, 2], "ten of twenty");
}

#[test]
fn an_invisible_worker_requests_one_lease_above_the_floor() {
    let leases = leases([Some(1), Some(1), Some(1), Some(2), Some(2), Some(3)]);
    let plan = plan(&fresh(&leases), &HashSet::new());
    assert_eq!((plan.take.len(), plan.request.len(), plan.is_partial), (0, 1, true));
    assert_eq!(requested_from(&plan, 3), 0);
    let standby = plan_within(&fresh(&leases[3..]), &HashSet::new(), LIMITS);
    assert_eq!(standby.request.len(), 1, "3 leases, 3 workers");
    let standby = plan_within(&fresh(&leases[4..]), &HashSet::new(), LIMITS);
    assert_eq!(standby, AssignmentPlan::default(), "nothing to do, and no reason to plan again soon");
}

#[test]
fn only_leases_with_work_are_taken_and_counted() {
    let mut leases = leases([Some(ME), None, None, None, None, Some(ME), Some(ME)]);
    leases[1].parents = BTreeSet::from([shard(0)]);
    leases[2].parents = BTreeSet::from([shard(77)]);
    leases[3].parents = BTreeSet::from([shard(4)]);
    leases[4].checkpoint = Position::ShardEnd;
    let plan = plan(&fresh(&leases), &held(&leases));
    assert_eq!(plan.take, [&leases[2], &leases[3]], "deleted and finished parents do not block a child");
    // Six leases, but only four with work: this worker has its share.
    let leases = [lease(0, Some(ME)), lease(1, Some(ME)), lease(2, Some(1)), lease(3, Some(1))];
    let mut finished = [lease(8, Some(1)), lease(9, Some(1))];
    for lease in &mut finished {
        lease.checkpoint = Position::ShardEnd;
    }
    let all: Vec<Lease> = leases.iter().chain(&finished).cloned().collect();
    assert_eq!(plan_within(&fresh(&all), &held(&leases), LIMITS).request, NOTHING);
}

#[test]
fn an_expired_lease_is_taken_in_a_balanced_fleet() {
    let leases = leases([Some(0), Some(1), Some(2)]);
    let mut observed = fresh(&leases);
    observed[2].unchanged_for = LIMITS.failover_time;
    let plan = plan(&observed, &held(&leases));
    assert_eq!((plan.take, plan.request), (vec![&leases[2]], vec![]));
}

#[test]
fn free_leases_are_left_to_workers_below_their_share() {
    let leases = leases([Some(ME), Some(ME), Some(1), None]);
    let mut observed = fresh(&leases);
    assert_eq!(plan(&observed, &held(&leases)).take, NOTHING);
    observed[3].unchanged_for = LIMITS.failover_time * ABANDONED_AFTER_FAILOVER_TIMES;
    assert_eq!(
        plan(&observed, &held(&leases)).take,
        [&leases[3]],
        "the worker below its share cannot take it"
    );
}

#[test]
fn expired_lease_is_not_left_to_a_slow_worker_for_long() {
    let leases = leases([Some(ME), Some(ME), Some(1), Some(2)]);
    let mut observed = fresh(&leases);
    observed[3].unchanged_for = LIMITS.failover_time;
    assert_eq!(plan(&observed, &held(&leases)).take, NOTHING, "left to the worker below its share");
    observed[3].unchanged_for = LIMITS.failover_time.mul_f64(EXPIRED_AFTER_FAILOVER_TIMES);
    assert_eq!(plan(&observed, &held(&leases)).take, [&leases[3]], "that worker scans too seldom");
}

#[test]
fn abandoned_leases_are_taken_part_by_part() {
    let mut leases: Vec<Lease> = (0..3).map(|index| lease(index, Some(ME))).collect();
    leases.push(lease(3, Some(1)));
    leases.extend((4..6).map(|index| lease(index, None)));
    let mut observed = fresh(&leases);
    for observed in &mut observed[4..] {
        observed.unchanged_for = LIMITS.failover_time * ABANDONED_AFTER_FAILOVER_TIMES;
    }
    let plan = plan(&observed, &held(&leases));
    assert_eq!((plan.take.len(), plan.is_partial), (1, true));
}

#[test]
fn own_leases_that_are_not_held_are_always_taken() {
    let leases = leases([Some(ME), Some(ME), Some(ME), Some(1)]);
    let all = plan(&fresh(&leases), &HashSet::new()).take;
    assert_eq!(all, [&leases[0], &leases[1], &leases[2]], "beyond the share of two");
    let limits = AssignmentLimits { max_takes: 0, ..LIMITS };
    assert_eq!(plan_within(&fresh(&leases), &HashSet::new(), limits).take.len(), 3);
    let limits = AssignmentLimits { max_leases: 2, ..LIMITS };
    assert_eq!(plan_within(&fresh(&leases), &HashSet::new(), limits).take.len(), 2);
}

#[test]
fn a_lease_in_a_kcl_hand_over_is_not_taken_before_it_expires() {
    let mut leases = leases([Some(1), Some(1), Some(1), Some(ME)]);
    for lease in &mut leases {
        lease.checkpoint_owner = Some(worker(2));
    }
    let mut observed = fresh(&leases);
    assert_eq!(plan(&observed, &HashSet::new()), AssignmentPlan::default());
    observed[0].unchanged_for = LIMITS.failover_time;
    assert_eq!(plan(&observed, &HashSet::new()).take, [&leases[0]]);
}

#[test]
fn the_surplus_of_several_donors_is_requested() {
    let owners = [vec![Some(1); 8], vec![Some(2); 8], vec![Some(ME); 3]].concat();
    let leases: Vec<Lease> = owners.iter().enumerate().map(|(index, owner)| lease(index, *owner)).collect();
    let plan = plan(&fresh(&leases), &held(&leases));
    assert_eq!((requested_from(&plan, 1), requested_from(&plan, 2)), (1, 2), "seven, six and six");
    assert_eq!((plan.take.len(), plan.is_partial), (0, false));
    let limits = AssignmentLimits { max_moves: 2, ..LIMITS };
    let plan = plan_within(&fresh(&leases), &held(&leases), limits);
    assert_eq!((plan.request.len(), plan.is_partial), (2, true));
}

#[test]
fn the_fullest_donors_are_served_first() {
    let owners = [[Some(1); 6].as_slice(), &[Some(2); 8], &[Some(ME); 1]].concat();
    let leases: Vec<Lease> = owners.iter().enumerate().map(|(index, owner)| lease(index, *owner)).collect();
    let limits = AssignmentLimits { max_moves: 1, ..LIMITS };
    assert_eq!(requested_from(&plan_within(&fresh(&leases), &held(&leases), limits), 2), 1);
}

#[test]
fn a_worker_at_the_floor_gets_more_only_from_above_the_ceil() {
    let owners = |one, two| {
        let owners = [vec![Some(ME); 2], vec![Some(1); one], vec![Some(2); two]].concat();
        let leases = owners.into_iter().enumerate().map(|(index, owner)| lease(index, owner));
        leases.collect::<Vec<Lease>>()
    };
    let balanced = owners(3, 3);
    assert_eq!(plan(&fresh(&balanced), &held(&balanced)).request, NOTHING);
    let above_ceil = owners(4, 2);
    assert_eq!(requested_from(&plan(&fresh(&above_ceil), &held(&above_ceil)), 1), 1);
    // The surplus of worker 1 goes to worker 2, which lacks as many.
    let above_ceil = owners(4, 1);
    assert_eq!(plan(&fresh(&above_ceil), &held(&above_ceil)).request, NOTHING);
}

#[test]
fn a_request_counts_for_its_requester_until_it_is_stale() {
    let owners = [[Some(1); 6].as_slice(), &[Some(ME); 3]].concat();
    let mut leases: Vec<Lease> =
        owners.iter().enumerate().map(|(index, owner)| lease(index, *owner)).collect();
    for lease in &mut leases[..3] {
        request_for(lease, 2);
    }
    assert_eq!(plan(&fresh(&leases), &held(&leases)).request, NOTHING, "three workers with three each");
    let mut observed = fresh(&leases);
    for observed in &mut observed {
        observed.requested_for = STALE;
    }
    let alone = plan(&observed, &held(&leases));
    assert_eq!(
        alone.request,
        [&leases[0]],
        "two workers with six and three, and a stale request is replaced"
    );
}

#[test]
fn a_lease_requested_by_others_no_longer_counts_for_its_owner() {
    let mut leases = leases([Some(ME), Some(ME), Some(ME), Some(1), Some(1), Some(1), None, None]);
    assert_eq!(plan(&fresh(&leases), &held(&leases)).take.len(), 1);
    request_for(&mut leases[0], 1);
    assert_eq!(plan(&fresh(&leases), &held(&leases)).take.len(), 2);
}

#[test]
fn the_offered_leases_of_a_leaving_worker_are_distributed() {
    let owners = [[Some(ME); 4].as_slice(), &[Some(1); 6]].concat();
    let mut leases: Vec<Lease> =
        owners.iter().enumerate().map(|(index, owner)| lease(index, *owner)).collect();
    leases[4..].iter_mut().for_each(offer);
    // The leases have a new owner, which does not matter for offered ones.
    let planned = |leases: &[Lease]| {
        let mut observed = fresh(leases);
        for observed in &mut observed {
            observed.owned_for = Some(Duration::ZERO);
        }
        let plan = plan(&observed, &held(leases));
        (plan.request.len(), plan.is_partial)
    };
    assert_eq!(planned(&leases), (4, true), "no other worker stays: it requests all, four at a time");
    request_for(&mut leases[4], 2);
    assert_eq!(planned(&leases), (1, false), "five for each, and worker 2 has requested one already");
    leases[4].requested_by = None;
    leases[9].offered_by = None;
    assert_eq!(planned(&leases), (0, false), "worker 1 stays, and has offered some");
}

#[test]
fn a_lease_with_a_new_owner_does_not_move() {
    let leases = leases([Some(1), Some(1), Some(1), Some(1), Some(ME)]);
    let mut observed = fresh(&leases);
    for observed in &mut observed {
        observed.owned_for = Some(LIMITS.failover_time - Duration::from_millis(1));
    }
    assert_eq!(plan(&observed, &held(&leases)).request, NOTHING);
    observed[2].owned_for = Some(LIMITS.failover_time);
    assert_eq!(plan(&observed, &held(&leases)).request, [&leases[2]]);
}

#[test]
fn a_lease_is_taken_from_an_owner_that_does_not_answer() {
    let mut leases = leases([Some(1), Some(1), Some(1), Some(ME)]);
    request_for(&mut leases[0], ME);
    let take_after = |leases: &[Lease], seconds| {
        let mut observed = fresh(leases);
        observed[0].requested_for = Duration::from_secs(seconds);
        let plan = plan(&observed, &held(leases));
        assert_eq!(plan.request, NOTHING, "a requested lease counts as its own");
        plan.take.len()
    };
    assert_eq!((take_after(&leases, 19), take_after(&leases, 20)), (0, 1));
    offer(&mut leases[0]);
    assert_eq!(
        (take_after(&leases, 29), take_after(&leases, 30)),
        (0, 1),
        "an owner that has offered it gets longer"
    );
    assert_eq!(take_after(&leases, 59), 1);
    // With one more lease of its own, the requested one is beyond its share of two.
    let mut more = leases.to_vec();
    more[2] = lease(2, Some(ME));
    assert_eq!(take_after(&more, 59), 0);
}

#[test]
fn its_own_stale_request_neither_counts_nor_is_repeated() {
    let mut leases = leases([Some(1), Some(1), Some(1), Some(1), Some(ME), Some(ME), Some(ME)]);
    for lease in &mut leases[..4] {
        request_for(lease, ME);
    }
    let stale = |leases: &[Lease]| {
        let mut observed = fresh(leases);
        observed.iter_mut().for_each(|observed| observed.requested_for = STALE);
        let plan = plan(&observed, &held(leases));
        (plan.take.len(), plan.request.len())
    };
    assert_eq!(stale(&leases), (0, 0), "four and three: the fleet is balanced");
    assert_eq!(stale(&leases[..5]), (1, 0), "four and one: the owner had its time to answer");
}

#[test]
fn incoming_leases_count_against_all_limits() {
    let owners = [vec![Some(1); 20], vec![Some(ME); 4]].concat();
    let mut leases: Vec<Lease> =
        owners.into_iter().enumerate().map(|(index, owner)| lease(index, owner)).collect();
    for lease in &mut leases[..3] {
        request_for(lease, ME);
    }
    let new_ones = |limits| plan_within(&fresh(&leases), &held(&leases), limits).request.len();
    assert_eq!(new_ones(LIMITS), 1, "four at a time");
    assert_eq!(new_ones(AssignmentLimits { max_moves: 100, ..LIMITS }), 5, "half of 24, without seven");
    assert_eq!(new_ones(AssignmentLimits { max_leases: 9, max_moves: 100, ..LIMITS }), 2);
    // A request that the listing does not show yet counts too.
    let holdings = Holdings {
        worker_id: &worker(ME),
        held: &held(&leases),
        requested: &(0..6).map(shard).collect::<HashSet<ShardId>>(),
    };
    let plan = plan_assignment(&fresh(&leases), &holdings, LIMITS, &mut Rng::with_seed(1));
    assert_eq!((plan.request, plan.is_partial), (vec![], false), "nothing to plan until one is answered");
}

#[test]
fn the_maximum_of_leases_and_of_takes_is_not_exceeded() {
    let mut leases: Vec<Lease> = (0..10).map(|index| lease(index, None)).collect();
    leases.extend((10..20).map(|index| lease(index, Some(ME))));
    let counts = |limits| {
        let plan = plan_within(&fresh(&leases), &held(&leases), limits);
        (plan.take.len(), plan.is_partial)
    };
    assert_eq!(counts(LIMITS), (10, false));
    assert_eq!(counts(AssignmentLimits { max_leases: 13, ..LIMITS }), (3, false));
    assert_eq!(counts(AssignmentLimits { max_takes: 4, ..LIMITS }), (4, true));
}

#[test]
fn the_lease_that_brings_the_weights_closest_is_requested() {
    let leases = leases([Some(1), Some(1), Some(1), Some(ME)]);
    let mut observed = fresh(&leases);
    for (observed, weight) in observed.iter_mut().zip([1, 6, 9, 2]) {
        observed.weight = weight;
    }
    assert_eq!(plan(&observed, &held(&leases)).request, [&leases[1]], "half of 16 - 2 is 7");
    observed[0].weight = u64::MAX;
    assert_eq!(plan(&observed, &held(&leases)).request.len(), 1, "sums do not overflow");
}

#[test]
fn workers_with_the_same_view_choose_different_leases() {
    let mut leases: Vec<Lease> = (0..40).map(|index| lease(index, Some(index % 4))).collect();
    leases.extend((40..80).map(|index| lease(index, Some(4))));
    leases.extend((80..90).map(|index| lease(index, None)));
    let limits = AssignmentLimits { max_moves: 100, ..LIMITS };
    let mut wanted = Vec::new();
    for me in 0..4 {
        let own = leases.iter().filter(|lease| lease.is_owned_by(&worker(me)));
        let held = own.map(|lease| lease.shard_id.clone()).collect();
        let holdings = Holdings { worker_id: &worker(me), held: &held, requested: &HashSet::new() };
        let plan =
            plan_assignment(&fresh(&leases), &holdings, limits, &mut Rng::with_seed(u64::MAX - me as u64));
        assert_eq!(plan.take.len() + plan.request.len(), 8);
        wanted.extend(plan.take.into_iter().chain(plan.request));
    }
    let names: HashSet<&ShardId> = wanted.iter().map(|lease| &lease.shard_id).collect();
    assert_eq!(names.len(), wanted.len());
}

#[test]
fn live_leases_of_a_namesake_count_and_stay_where_they_are() {
    let leases = leases([Some(ME), Some(ME), Some(ME), Some(1), Some(1), Some(1), None]);
    let mut observed = fresh(&leases);
    for observed in &mut observed[..3] {
        observed.is_of_namesake = true;
    }
    let first = plan(&observed, &HashSet::new());
    assert_eq!((&first.take[..], &first.request[..]), (&[&leases[6]][..], &NOTHING[..]), "only the free one");
    observed.pop();
    let balanced = plan(&observed, &HashSet::new());
    assert_eq!(
        (&balanced.take[..], &balanced.request[..]),
        (&NOTHING[..], &NOTHING[..]),
        "the name has three"
    );
    // The namesake fails.
    for observed in &mut observed[..3] {
        observed.unchanged_for = LIMITS.failover_time;
    }
    let after = plan(&observed, &HashSet::new());
    assert!(!after.take.is_empty() && after.take.iter().all(|lease| lease.is_owned_by(&worker(ME))));
}
