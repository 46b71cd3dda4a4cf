//! Properties of every fleet: random tables, random limits, workers that plan in turn, at once, or on stale views.

use std::collections::{BTreeSet, HashSet};

use fastrand::Rng;
use lease_store::{Lease, Position, ShardId, WorkerId};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use receiver::internals::{AssignmentLimits, Holdings, ObservedLease, plan_assignment};
use tokio::time::Duration;

use crate::balancing::fleet::{Fleet, LIMITS, ROUNDS_PER_FAILOVER_TIME, Snapshot, State};

/// After this many fail-over times every worker may take a free lease.
const ABANDONED_AFTER: u32 = 3;

/// The same for a lease whose owner does not renew it any more.
const EXPIRED_AFTER: f64 = 1.5;

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

fn worker(index: usize) -> WorkerId {
    WorkerId::new(format!("worker-{index}")).unwrap()
}

/// One row in any state, with its observations.
#[derive(Debug, Clone)]
struct Row {
    lease: Lease,
    unchanged_for: Duration,
    owned_for: Option<Duration>,
    requested_for: Duration,
    weight: u64,
    is_held: bool,
    is_requested: bool,
}

/// A row in any possible state, in a fleet of five workers, of which worker 0 plans.
fn any_row(index: usize, shards: usize) -> impl Strategy<Value = Row> {
    let any_owner = || prop::option::of((0..5usize).prop_map(worker));
    let rarely = |strategy| prop::option::weighted(0.2, strategy);
    let row = (any_owner(), rarely(0..5usize), rarely(0..5usize), any::<bool>(), rarely(0..shards));
    let seen = (seconds(0..50), prop::option::of(seconds(0..30)), seconds(0..80), 1..100u64);
    (row, seen, prop::bool::weighted(0.05), prop::bool::weighted(0.8), prop::bool::weighted(0.1)).prop_map(
        move |(row, seen, is_finished, is_held, is_requested)| {
            let (owner, requester, checkpoint_owner, is_offered, parent) = row;
            let (age, owned_for, requested_for, weight) = seen;
            let mut lease = Lease::unowned(ShardId::numbered(index as u64), Position::TrimHorizon);
            if is_finished {
                lease.checkpoint = Position::ShardEnd;
            }
            lease.requested_by = requester.map(worker);
            lease.parents = parent.map(|parent| ShardId::numbered(parent as u64)).into_iter().collect();
            lease.parents.remove(&lease.shard_id);
            let is_mine = owner == Some(worker(0));
            if let Some(owner) = owner {
                lease.offered_by = is_offered.then(|| owner.clone());
                lease.checkpoint_owner =
                    checkpoint_owner.filter(|old| *old > 2).map(worker).filter(|old| *old != owner);
                lease.owner = Some(owner);
            }
            let is_held = is_mine && is_held && lease.checkpoint_owner.is_none();
            // Most owners renew.
            let unchanged_for = if age.as_secs() < 35 { Duration::ZERO } else { age };
            Row { lease, unchanged_for, owned_for, requested_for, weight, is_held, is_requested }
        },
    )
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    (1..40usize).prop_flat_map(|shards| (0..shards).map(|index| any_row(index, shards)).collect::<Vec<_>>())
}

fn any_limits() -> impl Strategy<Value = AssignmentLimits> {
    let max_leases = prop_oneof![Just(usize::MAX), 0..20usize];
    (max_leases, 1..10usize, 1..10usize).prop_map(|(max_leases, max_moves, max_takes)| AssignmentLimits {
        max_leases,
        max_moves,
        max_takes,
        ..LIMITS
    })
}

proptest! {
    /// For any rows, a plan has no lease twice, no held lease and no lease without work. It stays within all limits, and
    /// within the share while there are other workers.
    #[test]
    fn every_plan_is_sound(rows in any_rows(), limits in any_limits(), seed in any::<u64>()) {
        check_plan(&rows, limits, seed)?;
    }
}

/// A lease that a leader of KCL 3.x hands over to this worker does not keep it from requesting another one.
#[test]
fn hand_over_by_a_kcl_leader_is_no_move_of_this_worker() {
    let row = |index, owner: Option<usize>| {
        let mut lease = Lease::unowned(ShardId::numbered(index), Position::TrimHorizon);
        lease.owner = owner.map(worker);
        Row {
            lease,
            unchanged_for: Duration::ZERO,
            owned_for: None,
            requested_for: Duration::ZERO,
            weight: 1,
            is_held: false,
            is_requested: false,
        }
    };
    let mut offered = row(0, Some(1));
    offered.lease.offered_by = offered.lease.owner.clone();
    let mut handed_over = row(1, Some(0));
    handed_over.lease.checkpoint_owner = Some(worker(3));
    let waiting = row(2, None);
    check_plan(&[offered, waiting, handed_over], AssignmentLimits { max_moves: 1, ..LIMITS }, 0).unwrap();
}

fn check_plan(rows: &[Row], limits: AssignmentLimits, seed: u64) -> Result<(), TestCaseError> {
    let me = worker(0);
    let shard_ids = |is_in: fn(&Row) -> bool| -> HashSet<ShardId> {
        rows.iter().filter(|row| is_in(row)).map(|row| row.lease.shard_id.clone()).collect()
    };
    let held = shard_ids(|row| row.is_held);
    let requested = shard_ids(|row| row.is_requested && !row.is_held);
    let observed: Vec<ObservedLease<'_>> = rows
        .iter()
        .map(|row| ObservedLease {
            lease: &row.lease,
            unchanged_for: row.unchanged_for,
            owned_for: row.owned_for,
            requested_for: row.requested_for,
            weight: row.weight,
            is_of_namesake: false,
            is_paused: false,
        })
        .collect();
    let holdings = Holdings { worker_id: &me, held: &held, requested: &requested };
    let plan = plan_assignment(&observed, &holdings, limits, &mut Rng::with_seed(seed));

    let row_of = |lease: &Lease| rows.iter().find(|row| row.lease.shard_id == lease.shard_id).unwrap();
    let is_live = |row: &Row| row.lease.owner.is_some() && row.unchanged_for < limits.failover_time;
    let is_own = |row: &Row| row.lease.is_owned_by(&me) && row.lease.checkpoint_owner.is_none();
    let is_abandoned = |row: &Row| {
        let is_owned = row.lease.owner.is_some();
        let after = if is_owned { EXPIRED_AFTER } else { f64::from(ABANDONED_AFTER) };
        row.unchanged_for >= limits.failover_time.mul_f64(after)
    };
    let requested_by_me = |row: &Row| is_live(row) && row.lease.hand_over_target() == Some(&me);
    let unfinished: BTreeSet<&ShardId> =
        rows.iter().filter(|row| !row.lease.is_finished()).map(|row| &row.lease.shard_id).collect();
    let all: Vec<&Row> = plan.take.iter().chain(&plan.request).map(|lease| row_of(lease)).collect();

    let names: HashSet<&ShardId> = all.iter().map(|row| &row.lease.shard_id).collect();
    prop_assert_eq!(names.len(), all.len(), "a lease twice");
    for row in &all {
        prop_assert!(!row.is_held && !row.lease.is_finished());
        prop_assert!(
            row.lease.parents.iter().all(|parent| !unfinished.contains(parent)),
            "a child before its parent"
        );
    }
    for lease in &plan.request {
        let row = row_of(lease);
        prop_assert!(is_live(row) && !lease.is_owned_by(&me) && lease.checkpoint_owner.is_none());
        prop_assert!(lease.hand_over_target() != Some(&me), "requested already");
        let is_stale = row.requested_for >= 2 * limits.drain_time;
        prop_assert!(lease.hand_over_target().is_none() || is_stale, "another worker requests it");
        let may_move = row.owned_for.is_none_or(|age| age >= limits.failover_time);
        prop_assert!(may_move || lease.is_offered(), "it has a new owner");
    }
    for lease in &plan.take {
        let row = row_of(lease);
        let answer_time = if lease.is_offered() { limits.drain_time } else { limits.hand_over_time };
        let is_overdue = requested_by_me(row) && row.requested_for >= answer_time;
        prop_assert!(!is_live(row) || is_own(row) || is_overdue);
    }

    let takes = plan.take.iter().map(|lease| row_of(lease));
    let free = takes.clone().filter(|row| !is_live(row) && !is_own(row));
    prop_assert!(free.clone().count() <= limits.max_takes);
    let is_incoming = |row: &Row| {
        let is_requested_by_me =
            row.lease.hand_over_target() == Some(&me) && row.requested_for < 2 * limits.drain_time;
        is_live(row) && !row.is_held && !is_own(row) && !row.lease.is_finished() && is_requested_by_me
    };
    let incoming = rows.iter().filter(|row| is_incoming(row)).count();
    // What a leader of KCL 3.x hands over was not requested.
    let of_leader =
        rows.iter().filter(|row| is_incoming(row) && row.lease.checkpoint_owner.is_some()).count();
    let new_moves = plan.request.len();
    prop_assert!(new_moves == 0 || incoming - of_leader + new_moves <= limits.max_moves);
    let held_unfinished = rows.iter().filter(|row| row.is_held && !row.lease.is_finished()).count();
    let new = all.iter().filter(|row| !is_incoming(row)).count();
    prop_assert!(new == 0 || held_unfinished + incoming + new <= limits.max_leases);

    // The new leases stay within the largest possible share: the work divided among the owners that certainly stay and
    // this worker.
    let stays = |row: &&Row| is_live(row) && !row.lease.is_finished() && !row.lease.is_offered();
    let staying: BTreeSet<&WorkerId> =
        rows.iter().filter(stays).filter_map(|row| row.lease.owner.as_ref()).chain([&me]).collect();
    let work = rows.iter().filter(|row| !row.lease.is_finished()).count();
    let largest_share = work.div_ceil(staying.len());
    let chosen = all.iter().filter(|row| !is_own(row) && !is_incoming(row) && !is_abandoned(row)).count();
    let requested_by_others = |row: &&Row| row.lease.hand_over_target().is_some_and(|target| *target != me);
    let kept = rows
        .iter()
        .filter(|row| row.is_held && !row.lease.is_finished() && !requested_by_others(row))
        .count();
    prop_assert!(chosen == 0 || kept + chosen <= largest_share, "{kept} and {chosen} of {largest_share}");
    Ok(())
}

/// An unbalanced fleet: random owners, some of them gone or leaving, free leases, finished leases, waiting children.
#[derive(Debug, Clone)]
struct Disorder {
    workers: usize,
    /// The holder of each lease, if any.
    holders: Vec<Option<usize>>,
    /// The states of the workers, of which the last one is always present.
    states: Vec<State>,
    finished: Vec<bool>,
    weights: Vec<u64>,
    seed: u64,
}

impl Disorder {
    fn fleet(&self) -> Fleet {
        let shards = self.holders.len();
        let mut fleet = Fleet::new(shards, self.workers, self.seed);
        for (index, holder) in self.holders.iter().enumerate() {
            fleet.leases[index].throughput_bytes_per_second = Some(self.weights[index]);
            if self.finished[index] {
                fleet.leases[index].checkpoint = Position::ShardEnd;
                // The last shard is the child of a finished shard, the one before it that of an unfinished one.
                fleet.leases[shards - 1].parents = BTreeSet::from([ShardId::numbered(index as u64)]);
            } else if let Some(holder) = holder {
                fleet.give(index, *holder);
            }
        }
        if shards > 2 && self.holders[shards - 2].is_none() && !self.finished[0] {
            fleet.leases[shards - 2].parents = BTreeSet::from([ShardId::numbered(0)]);
        }
        for (worker, state) in self.states.iter().enumerate().take(self.workers - 1) {
            match state {
                State::Present => {}
                State::Leaving => fleet.leave(worker),
                State::Gone => fleet.crash(worker),
            }
        }
        fleet
    }
}

fn any_disorder() -> impl Strategy<Value = Disorder> {
    (1..9usize, 1..60usize).prop_flat_map(|(workers, shards)| {
        let state = prop_oneof![4 => Just(State::Present), 1 => Just(State::Leaving), 1 => Just(State::Gone)];
        (
            prop::collection::vec(prop::option::weighted(0.8, 0..workers), shards),
            prop::collection::vec(state, workers),
            prop::collection::vec(prop::bool::weighted(0.1), shards),
            prop::collection::vec(1..4u64, shards),
            any::<u64>(),
        )
            .prop_map(move |(holders, states, finished, weights, seed)| Disorder {
                workers,
                holders,
                states,
                finished,
                weights,
                seed,
            })
    })
}

/// More rounds than a fleet of this size needs: the largest share at the slowest pace, and some fail-over times until
/// leases with new owners may move again.
fn most_rounds(fleet: &Fleet, failover_times: u32) -> usize {
    let pace = LIMITS.max_moves;
    fleet.leases.len().div_ceil(pace) + 4 + (failover_times * ROUNDS_PER_FAILOVER_TIME) as usize
}

/// Plays rounds until the fleet is balanced.
fn play(
    fleet: &mut Fleet,
    most_rounds: usize,
    mut round: impl FnMut(&mut Fleet) -> usize,
) -> Result<(), TestCaseError> {
    for _ in 0..most_rounds {
        if fleet.is_balanced() {
            break;
        }
        round(fleet);
    }
    prop_assert!(fleet.is_balanced(), "no balance in {} rounds: {:?}", most_rounds, fleet.loads());
    prop_assert!(fleet.plans_nothing(usize::MAX), "a lease still moves");
    Ok(())
}

/// Whether all workers are visible at the start.
fn all_are_visible(fleet: &Fleet) -> bool {
    fleet.workers.iter().all(|worker| worker.state != State::Present || !worker.held.is_empty())
}

proptest! {
    /// Workers that plan in turn, each with a fresh view, balance the fleet and then move nothing. If all of them are
    /// visible at the start, they move at most one lease more than necessary.
    #[test]
    fn workers_in_turn_balance_the_fleet(disorder in any_disorder()) {
        let mut fleet = disorder.fleet();
        let least_moves = fleet.least_moves();
        let visible = all_are_visible(&fleet);
        let most_rounds = most_rounds(&fleet, 3);
        play(&mut fleet, most_rounds, Fleet::round_in_turn)?;
        prop_assert!(!visible || fleet.moves <= least_moves + 1, "{} of {}", fleet.moves, least_moves);
    }

    /// The same for workers that all plan at once, on the table before any of them wrote.
    #[test]
    fn workers_at_once_balance_the_fleet(disorder in any_disorder()) {
        let mut fleet = disorder.fleet();
        let least_moves = fleet.least_moves();
        let visible = all_are_visible(&fleet);
        let most_rounds = most_rounds(&fleet, 3);
        play(&mut fleet, most_rounds, Fleet::round_at_once)?;
        prop_assert!(!visible || fleet.moves <= least_moves + 1, "{} of {}", fleet.moves, least_moves);
    }

    /// The same, except for the number of moves, for workers whose views are up to three rounds old.
    #[test]
    fn workers_with_stale_views_balance_the_fleet(disorder in any_disorder()) {
        let mut fleet = disorder.fleet();
        let most_rounds = 3 * most_rounds(&fleet, 3);
        let mut history: Vec<Snapshot> = Vec::new();
        play(&mut fleet, most_rounds, |fleet| fleet.round_on_stale_views(&mut history, 3))?;
    }

    /// A balanced fleet moves no lease, for any distribution and any weights.
    #[test]
    fn a_balanced_fleet_plans_nothing(
        shards in 1..100usize,
        workers in 1..20usize,
        weights in prop::collection::vec(any::<u64>(), 100),
        seed in any::<u64>(),
    ) {
        let mut fleet = Fleet::balanced(shards, workers, seed);
        for (lease, weight) in fleet.leases.iter_mut().zip(weights) {
            lease.throughput_bytes_per_second = Some(weight);
        }
        prop_assert!(fleet.is_balanced() && fleet.plans_nothing(usize::MAX));
    }

    /// Workers that join a balanced fleet, one or many, in turn or at once: each costs at most one move more than necessary.
    #[test]
    fn joining_workers_get_their_share_with_few_moves(
        shards in 1..100usize,
        workers in 1..10usize,
        joining in 1..10usize,
        at_once in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut fleet = Fleet::balanced(shards, workers, seed);
        fleet.join(joining);
        let least_moves = fleet.least_moves();
        let empty_handed = fleet.loads().into_iter().filter(|load| *load == 0).count();
        let most_rounds = most_rounds(&fleet, 3);
        play(&mut fleet, most_rounds, if at_once { Fleet::round_at_once } else { Fleet::round_in_turn })?;
        prop_assert!(fleet.moves <= least_moves + empty_handed, "{} of {}", fleet.moves, least_moves);
    }

    /// The leases of crashed workers are taken in a balanced fleet too, and no other lease moves when the counts were
    /// equal.
    #[test]
    fn expired_leases_are_taken_at_once_in_a_balanced_fleet(
        each in 1..20usize,
        workers in 2..10usize,
        crashing in 1..9usize,
        seed in any::<u64>(),
    ) {
        let mut fleet = Fleet::balanced(each * workers, workers, seed);
        let crashing = crashing.min(workers - 1);
        (0..crashing).for_each(|worker| fleet.crash(worker));
        fleet.round_at_once();
        prop_assert!(fleet.takes > 0);
        let most_rounds = most_rounds(&fleet, 0);
        play(&mut fleet, most_rounds, Fleet::round_at_once)?;
        prop_assert_eq!((fleet.takes, fleet.moves), (each * crashing, 0));
    }

    /// A worker with a maximum never exceeds it, and the others take the remaining leases.
    #[test]
    fn leases_that_a_full_worker_cannot_take_go_to_others(
        shards in 1..60usize,
        maximum in 1..10usize,
        workers in 2..6usize,
        seed in any::<u64>(),
    ) {
        let mut fleet = Fleet::new(shards, workers, seed);
        fleet.workers[0].limits.max_leases = maximum;
        let rounds = most_rounds(&fleet, 5) + shards;
        for _ in 0..rounds {
            fleet.round_at_once();
            prop_assert!(fleet.workers[0].held.len() <= maximum);
        }
        prop_assert_eq!(fleet.loads().iter().sum::<usize>(), shards);
    }

    /// Leases are stolen from an owner that never answers, such as a KCL worker, until it has its share.
    #[test]
    fn an_owner_that_never_answers_ends_up_with_its_share(shards in 2..60usize, seed in any::<u64>()) {
        let mut fleet = Fleet::new(shards, 2, seed);
        (0..shards).for_each(|lease| fleet.give(lease, 0));
        fleet.workers[0].answers = false;
        let rounds = most_rounds(&fleet, 3) + 2 * ROUNDS_PER_FAILOVER_TIME as usize * shards.div_ceil(LIMITS.max_moves);
        play(&mut fleet, rounds, Fleet::round_at_once)?;
        prop_assert_eq!(fleet.moves, shards / 2);
    }
}
