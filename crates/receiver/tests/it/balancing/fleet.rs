//! A model of a fleet: a lease table, workers that plan on it in rounds, and owners that answer requests.
//!
//! Writes follow the rule of the store (`LeaseWrite::decide`), so the first of several workers gets a lease. A lease that is
//! requested in a round is handed over at its end, and its new owner takes it in the next round. The next round follows
//! after a quarter of the fail-over time, or after a twelfth of that when a plan was partial.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;
use lease_store::{Lease, LeaseChange, LeaseWrite, Position, ShardId, Verdict, WorkerId};
use receiver::internals::{AssignmentLimits, AssignmentPlan, Holdings, ObservedLease, plan_assignment};
use tokio::time::Duration;

/// How many rounds there are in the fail-over time when no plan is partial.
pub(crate) const ROUNDS_PER_FAILOVER_TIME: u32 = 4;

/// How many rounds there are in the time of one round while plans are partial. One of them is the unit of time, a tick.
const FOLLOW_UPS_PER_ROUND: u32 = 12;

const TICKS_PER_FAILOVER_TIME: u32 = ROUNDS_PER_FAILOVER_TIME * FOLLOW_UPS_PER_ROUND;

/// The limits of every worker, unless a test changes them.
pub(crate) const LIMITS: AssignmentLimits = AssignmentLimits {
    failover_time: Duration::from_secs(10),
    hand_over_time: Duration::from_secs(20),
    drain_time: Duration::from_secs(30),
    max_leases: usize::MAX,
    max_moves: 8,
    max_takes: 256,
};

/// The tick of the first round, late enough for leases that have been unchanged for a long time.
const START: u32 = 1_000;

/// The state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It plans, renews and answers.
    Present,
    /// It has offered all it holds, renews and answers.
    Leaving,
    /// It does nothing any more.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) state: State,
    pub(crate) held: HashSet<ShardId>,
    requested: HashSet<ShardId>,
    pub(crate) limits: AssignmentLimits,
    /// Whether it hands over requested leases. A KCL worker does not.
    pub(crate) answers: bool,
}

/// When something last changed, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    pub(crate) unchanged: u32,
    pub(crate) owned: Option<u32>,
    requested: u32,
}

/// The table at the start of a round.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    leases: Vec<Lease>,
    /// For each lease, how long it has been unchanged, owned and requested.
    ages: Vec<(Duration, Option<Duration>, Duration)>,
}

impl Snapshot {
    pub(crate) fn observed(&self) -> Vec<ObservedLease<'_>> {
        let rows = self.leases.iter().zip(&self.ages);
        rows.map(|(lease, (unchanged_for, owned_for, requested_for))| ObservedLease {
            lease,
            unchanged_for: *unchanged_for,
            owned_for: *owned_for,
            requested_for: *requested_for,
            weight: lease.throughput_bytes_per_second.unwrap_or(1),
            is_of_namesake: false,
            is_paused: false,
        })
        .collect()
    }
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) leases: Vec<Lease>,
    pub(crate) since: Vec<Since>,
    pub(crate) workers: Vec<Worker>,
    index_of: HashMap<ShardId, usize>,
    now: u32,
    /// Whether a plan of this round was partial.
    is_partial: bool,
    pub(crate) rng: Rng,
    /// How many leases live workers handed over.
    pub(crate) moves: usize,
    /// How many free leases were taken.
    pub(crate) takes: usize,
}

impl Fleet {
    /// `shards` unowned leases and `workers` that hold nothing.
    pub(crate) fn new(shards: usize, workers: usize, seed: u64) -> Self {
        let leases: Vec<Lease> = (0..shards)
            .map(|number| Lease::unowned(ShardId::numbered(number as u64), Position::TrimHorizon))
            .collect();
        let since = Since { unchanged: START, owned: None, requested: START };
        let mut fleet = Self {
            since: vec![since; shards],
            index_of: leases
                .iter()
                .enumerate()
                .map(|(index, lease)| (lease.shard_id.clone(), index))
                .collect(),
            leases,
            workers: Vec::new(),
            now: START,
            is_partial: false,
            rng: Rng::with_seed(seed),
            moves: 0,
            takes: 0,
        };
        fleet.join(workers);
        fleet
    }

    /// A balanced fleet: the leases are distributed evenly, at random.
    pub(crate) fn balanced(shards: usize, workers: usize, seed: u64) -> Self {
        let mut fleet = Self::new(shards, workers, seed);
        let mut indices: Vec<usize> = (0..shards).collect();
        fleet.rng.shuffle(&mut indices);
        for (turn, index) in indices.into_iter().enumerate() {
            fleet.give(index, turn % workers);
        }
        fleet
    }

    /// Makes a worker hold a lease, as if it had held it for a long time.
    pub(crate) fn give(&mut self, lease: usize, worker: usize) {
        let id = self.workers[worker].id.clone();
        self.leases[lease] = LeaseChange::take(id).apply(&self.leases[lease]);
        self.workers[worker].held.insert(self.leases[lease].shard_id.clone());
    }

    pub(crate) fn join(&mut self, count: usize) {
        for _ in 0..count {
            let id = WorkerId::new(format!("worker-{:04x}", self.rng.u16(..))).unwrap();
            let is_taken = self.workers.iter().any(|worker| worker.id == id);
            // Names are random, since their order matters to the distribution.
            let id =
                if is_taken { WorkerId::new(format!("{id}-{}", self.workers.len())).unwrap() } else { id };
            self.workers.push(Worker {
                id,
                state: State::Present,
                held: HashSet::new(),
                requested: HashSet::new(),
                limits: LIMITS,
                answers: true,
            });
        }
    }

    /// Makes a worker stop: it offers all its leases.
    pub(crate) fn leave(&mut self, worker: usize) {
        self.workers[worker].state = State::Leaving;
        for lease in &mut self.leases {
            if self.workers[worker].held.contains(&lease.shard_id) {
                *lease = LeaseChange::Offer.apply(lease);
            }
        }
    }

    /// Makes a worker crash one fail-over time ago, so that its leases have just expired.
    pub(crate) fn crash(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        worker.state = State::Gone;
        for shard_id in worker.held.drain() {
            self.since[self.index_of[&shard_id]].unchanged = self.now - TICKS_PER_FAILOVER_TIME;
        }
        worker.requested.clear();
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let age = |since: u32| LIMITS.failover_time * (self.now - since) / TICKS_PER_FAILOVER_TIME;
        let renewed: HashSet<&ShardId> = self.workers.iter().flat_map(|worker| &worker.held).collect();
        let ages = self.leases.iter().zip(&self.since).map(|(lease, since)| {
            let is_renewed = renewed.contains(&lease.shard_id);
            let unchanged_for = if is_renewed { Duration::ZERO } else { age(since.unchanged) };
            (unchanged_for, since.owned.map(age), age(since.requested))
        });
        Snapshot { ages: ages.collect(), leases: self.leases.clone() }
    }

    /// All workers plan on the table as it was at the start of the round. Returns how many takes and requests were
    /// planned.
    pub(crate) fn round_at_once(&mut self) -> usize {
        let snapshot = self.snapshot();
        let observed = snapshot.observed();
        let planned =
            self.in_random_order().into_iter().map(|worker| self.carry_out_plan(worker, &observed)).sum();
        self.answer();
        self.end_round();
        planned
    }

    /// The workers plan in turn, each with a fresh view. Requests are answered at once.
    pub(crate) fn round_in_turn(&mut self) -> usize {
        let mut planned = 0;
        for worker in self.in_random_order() {
            let snapshot = self.snapshot();
            planned += self.carry_out_plan(worker, &snapshot.observed());
            self.answer();
        }
        self.end_round();
        planned
    }

    /// Each worker plans on a random table of the `history`, and on the leases it holds now.
    pub(crate) fn round_on_stale_views(&mut self, history: &mut Vec<Snapshot>, depth: usize) -> usize {
        history.insert(0, self.snapshot());
        history.truncate(depth);
        let mut planned = 0;
        for worker in self.in_random_order() {
            let age = self.rng.usize(..history.len());
            planned += self.carry_out_plan(worker, &history[age].observed());
        }
        self.answer();
        self.end_round();
        planned
    }

    fn end_round(&mut self) {
        self.now += if std::mem::take(&mut self.is_partial) { 1 } else { FOLLOW_UPS_PER_ROUND };
    }

    /// How many fail-over times have passed since the start.
    pub(crate) fn failover_times(&self) -> f64 {
        f64::from(self.now - START) / f64::from(TICKS_PER_FAILOVER_TIME)
    }

    fn in_random_order(&mut self) -> Vec<usize> {
        let mut present: Vec<usize> =
            (0..self.workers.len()).filter(|worker| self.workers[*worker].state == State::Present).collect();
        self.rng.shuffle(&mut present);
        present
    }

    /// The plan of a worker for a view.
    pub(crate) fn plan<'a>(&mut self, worker: usize, observed: &[ObservedLease<'a>]) -> AssignmentPlan<'a> {
        let worker = &self.workers[worker];
        let holdings = Holdings { worker_id: &worker.id, held: &worker.held, requested: &worker.requested };
        plan_assignment(observed, &holdings, worker.limits, &mut self.rng)
    }

    fn carry_out_plan(&mut self, worker: usize, observed: &[ObservedLease<'_>]) -> usize {
        let plan = self.plan(worker, observed);
        self.is_partial |= plan.is_partial;
        let id = self.workers[worker].id.clone();
        // A request is over when another worker owns or requests the lease.
        let leases = &self.leases;
        let index_of = &self.index_of;
        self.workers[worker].requested.retain(|shard_id| {
            let lease = &leases[index_of[shard_id]];
            lease.hand_over_target() == Some(&id) || lease.is_owned_by(&id)
        });
        for lease in &plan.take {
            let had_owner = lease.owner.clone();
            let was_requested = lease.hand_over_target() == Some(&id);
            if self.write(lease, LeaseChange::take(id.clone())) {
                if had_owner.as_ref() != Some(&id) {
                    self.takes += usize::from(!was_requested);
                    self.moves += usize::from(was_requested);
                    for other in &mut self.workers {
                        other.held.remove(&lease.shard_id);
                    }
                }
                let worker = &mut self.workers[worker];
                worker.requested.remove(&lease.shard_id);
                worker.held.insert(lease.shard_id.clone());
            }
        }
        for lease in &plan.request {
            let request = LeaseChange::Request { by: id.clone(), instead_of: lease.requested_by.clone() };
            if self.write(lease, request) {
                self.workers[worker].requested.insert(lease.shard_id.clone());
            }
        }
        plan.take.len() + plan.request.len()
    }

    fn write(&mut self, seen: &Lease, change: LeaseChange) -> bool {
        let index = self.index_of[&seen.shard_id];
        let is_request = matches!(change, LeaseChange::Request { .. });
        let write = LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change };
        let Verdict::Applies(Some(row)) = write.decide(Some(&self.leases[index])) else { return false };
        let since = &mut self.since[index];
        if is_request {
            since.requested = self.now;
        } else {
            since.unchanged = self.now;
            since.requested = self.now;
            if row.owner != self.leases[index].owner {
                since.owned = Some(self.now);
            }
        }
        self.leases[index] = *row;
        true
    }

    /// The owners hand over requested leases.
    fn answer(&mut self) {
        let requested: Vec<Lease> =
            self.leases.iter().filter(|lease| lease.hand_over_target().is_some()).cloned().collect();
        for lease in requested {
            let holder = self.workers.iter().position(|worker| lease.is_owned_by(&worker.id)).unwrap();
            let target = lease.hand_over_target().cloned().unwrap();
            if self.workers[holder].answers && self.workers[holder].held.remove(&lease.shard_id) {
                assert!(self.write(&lease, LeaseChange::take(target)));
                self.moves += 1;
            }
        }
    }

    /// The leases with work: not finished, and without an unfinished parent.
    pub(crate) fn work(&self) -> Vec<&Lease> {
        let unfinished: HashSet<&ShardId> =
            self.leases.iter().filter(|lease| !lease.is_finished()).map(|lease| &lease.shard_id).collect();
        let is_ready = |lease: &&Lease| lease.parents.iter().all(|parent| !unfinished.contains(parent));
        self.leases.iter().filter(|lease| !lease.is_finished()).filter(is_ready).collect()
    }

    /// How many leases each present worker holds.
    pub(crate) fn loads(&self) -> Vec<usize> {
        let present = self.workers.iter().filter(|worker| worker.state == State::Present);
        present.map(|worker| worker.held.len()).collect()
    }

    /// Whether present workers hold all leases with work, no two loads differ by more than one, and no request is in flight.
    pub(crate) fn is_balanced(&self) -> bool {
        let loads = self.loads();
        let held = loads.iter().sum::<usize>();
        let (floor, ceil) = (held / loads.len(), held.div_ceil(loads.len()));
        loads.iter().all(|load| (floor..=ceil).contains(load))
            && self.leases.iter().all(|lease| lease.hand_over_target().is_none())
            && held == self.work().len()
    }

    /// Whether the plans of `workers` present workers are empty, even when all leases may move again.
    pub(crate) fn plans_nothing(&mut self, workers: usize) -> bool {
        self.since.iter_mut().for_each(|since| since.owned = None);
        let snapshot = self.snapshot();
        let observed = snapshot.observed();
        let present = self.in_random_order().into_iter().take(workers);
        present.into_iter().all(|worker| self.plan(worker, &observed) == AssignmentPlan::default())
    }

    /// The fewest leases of live workers that have to move until the fleet is balanced.
    pub(crate) fn least_moves(&self) -> usize {
        let (loads, work) = (self.loads(), self.work().len());
        let (floor, ceil) = (work / loads.len(), work.div_ceil(loads.len()));
        let offered: usize = self
            .workers
            .iter()
            .filter(|worker| worker.state == State::Leaving)
            .map(|worker| worker.held.len())
            .sum();
        let free = work - loads.iter().sum::<usize>();
        let lacking: usize = loads.iter().map(|load| floor.saturating_sub(*load)).sum();
        let beyond: usize = loads.iter().map(|load| load.saturating_sub(ceil)).sum();
        offered + lacking.saturating_sub(free).max(beyond)
    }
}
