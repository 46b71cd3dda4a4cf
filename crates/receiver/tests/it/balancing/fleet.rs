//! A model of a fleet: a table of leases, members that plan on it in rounds, and owners that answer requests.
//!
//! Writes follow the store's own rule (`LeaseWrite::decide`), so of several that want the same lease the first gets it.
//! What is asked for in a round is handed over at its end, and taken by the new owner in the next one. The next round
//! begins after a quarter of the fail-over time, or after a twelfth of that when somebody's plan was partial.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;
use lease_store::{Lease, LeaseChange, LeaseWrite, Position, ShardId, Verdict, WorkerId};
use receiver::internals::{AssignmentLimits, AssignmentPlan, Holdings, ObservedLease, plan_assignment};
use tokio::time::Duration;

/// How many rounds the fail-over time has when no plan is partial.
pub(crate) const ROUNDS_PER_FAILOVER_TIME: u32 = 4;

/// How many rounds there are in the time of one while plans are partial. That is also the unit of time.
const FOLLOW_UPS_PER_ROUND: u32 = 12;

const TICKS_PER_FAILOVER_TIME: u32 = ROUNDS_PER_FAILOVER_TIME * FOLLOW_UPS_PER_ROUND;

/// The limits of every member, unless a test says otherwise.
pub(crate) const LIMITS: AssignmentLimits = AssignmentLimits {
    failover_time: Duration::from_secs(10),
    hand_over_time: Duration::from_secs(20),
    drain_time: Duration::from_secs(30),
    max_leases: usize::MAX,
    max_moves: 8,
    max_takes: 256,
};

/// Late enough that leases can have stood still for long before the first round.
const START: u32 = 1_000;

/// What a member is up to.
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
pub(crate) struct Member {
    pub(crate) id: WorkerId,
    pub(crate) state: State,
    pub(crate) held: HashSet<ShardId>,
    requested: HashSet<ShardId>,
    pub(crate) limits: AssignmentLimits,
    /// It hands over what it is asked for; a KCL worker does not.
    pub(crate) answers: bool,
}

/// When something last changed, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    pub(crate) unchanged: u32,
    pub(crate) owned: Option<u32>,
    requested: u32,
}

/// The table as it was at the start of a round.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    leases: Vec<Lease>,
    /// How long each was unchanged, owned and requested.
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
        })
        .collect()
    }
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) leases: Vec<Lease>,
    pub(crate) since: Vec<Since>,
    pub(crate) members: Vec<Member>,
    places: HashMap<ShardId, usize>,
    now: u32,
    /// Somebody who looked in this round has to look again soon.
    is_partial: bool,
    pub(crate) rng: Rng,
    /// How many leases live members handed over.
    pub(crate) moves: usize,
    /// How many free leases were taken.
    pub(crate) takes: usize,
}

impl Fleet {
    /// `shards` unowned leases and `members` that hold nothing.
    pub(crate) fn new(shards: usize, members: usize, seed: u64) -> Self {
        let leases: Vec<Lease> = (0..shards)
            .map(|number| Lease::unowned(ShardId::numbered(number as u64), Position::TrimHorizon))
            .collect();
        let since = Since { unchanged: START, owned: None, requested: START };
        let mut fleet = Self {
            since: vec![since; shards],
            places: leases.iter().enumerate().map(|(index, lease)| (lease.shard_id.clone(), index)).collect(),
            leases,
            members: Vec::new(),
            now: START,
            is_partial: false,
            rng: Rng::with_seed(seed),
            moves: 0,
            takes: 0,
        };
        fleet.join(members);
        fleet
    }

    /// A fleet at rest: the leases are dealt at random, as many to each.
    pub(crate) fn balanced(shards: usize, members: usize, seed: u64) -> Self {
        let mut fleet = Self::new(shards, members, seed);
        let mut indices: Vec<usize> = (0..shards).collect();
        fleet.rng.shuffle(&mut indices);
        for (turn, index) in indices.into_iter().enumerate() {
            fleet.give(index, turn % members);
        }
        fleet
    }

    /// Makes a member hold a lease, as if for long.
    pub(crate) fn give(&mut self, lease: usize, member: usize) {
        let id = self.members[member].id.clone();
        self.leases[lease] = LeaseChange::take(id).apply(&self.leases[lease]);
        self.members[member].held.insert(self.leases[lease].shard_id.clone());
    }

    pub(crate) fn join(&mut self, count: usize) {
        for _ in 0..count {
            let id = WorkerId::new(format!("worker-{:04x}", self.rng.u16(..))).unwrap();
            let is_taken = self.members.iter().any(|member| member.id == id);
            // Names are random, since their order matters to the deal.
            let id =
                if is_taken { WorkerId::new(format!("{id}-{}", self.members.len())).unwrap() } else { id };
            self.members.push(Member {
                id,
                state: State::Present,
                held: HashSet::new(),
                requested: HashSet::new(),
                limits: LIMITS,
                answers: true,
            });
        }
    }

    /// Makes members stop: each offers all it holds.
    pub(crate) fn leave(&mut self, member: usize) {
        self.members[member].state = State::Leaving;
        for lease in &mut self.leases {
            if self.members[member].held.contains(&lease.shard_id) {
                *lease = LeaseChange::Offer.apply(lease);
            }
        }
    }

    /// Makes a member vanish so long ago that its leases have just expired.
    pub(crate) fn crash(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.state = State::Gone;
        for shard_id in member.held.drain() {
            self.since[self.places[&shard_id]].unchanged = self.now - TICKS_PER_FAILOVER_TIME;
        }
        member.requested.clear();
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let age = |since: u32| LIMITS.failover_time * (self.now - since) / TICKS_PER_FAILOVER_TIME;
        let renewed: HashSet<&ShardId> = self.members.iter().flat_map(|member| &member.held).collect();
        let ages = self.leases.iter().zip(&self.since).map(|(lease, since)| {
            let is_renewed = renewed.contains(&lease.shard_id);
            let unchanged_for = if is_renewed { Duration::ZERO } else { age(since.unchanged) };
            (unchanged_for, since.owned.map(age), age(since.requested))
        });
        Snapshot { ages: ages.collect(), leases: self.leases.clone() }
    }

    /// Everybody plans on the table as it was at the start of the round. Yields how many takes and requests were
    /// planned.
    pub(crate) fn round_at_once(&mut self) -> usize {
        let snapshot = self.snapshot();
        let observed = snapshot.observed();
        let planned = self.in_random_order().into_iter().map(|member| self.look(member, &observed)).sum();
        self.answer();
        self.end_round();
        planned
    }

    /// One after the other, each with a fresh view; requests are answered at once.
    pub(crate) fn round_in_turn(&mut self) -> usize {
        let mut planned = 0;
        for member in self.in_random_order() {
            let snapshot = self.snapshot();
            planned += self.look(member, &snapshot.observed());
            self.answer();
        }
        self.end_round();
        planned
    }

    /// Everybody plans on the table as it was at the start of one of the `history`, and on what it holds now.
    pub(crate) fn round_on_stale_views(&mut self, history: &mut Vec<Snapshot>, depth: usize) -> usize {
        history.insert(0, self.snapshot());
        history.truncate(depth);
        let mut planned = 0;
        for member in self.in_random_order() {
            let age = self.rng.usize(..history.len());
            planned += self.look(member, &history[age].observed());
        }
        self.answer();
        self.end_round();
        planned
    }

    fn end_round(&mut self) {
        self.now += if std::mem::take(&mut self.is_partial) { 1 } else { FOLLOW_UPS_PER_ROUND };
    }

    /// How many fail-over times have gone by since the start.
    pub(crate) fn failover_times(&self) -> f64 {
        f64::from(self.now - START) / f64::from(TICKS_PER_FAILOVER_TIME)
    }

    fn in_random_order(&mut self) -> Vec<usize> {
        let mut present: Vec<usize> =
            (0..self.members.len()).filter(|member| self.members[*member].state == State::Present).collect();
        self.rng.shuffle(&mut present);
        present
    }

    /// What a member plans on a view.
    pub(crate) fn plan<'a>(&mut self, member: usize, observed: &[ObservedLease<'a>]) -> AssignmentPlan<'a> {
        let member = &self.members[member];
        let holdings = Holdings { worker_id: &member.id, held: &member.held, requested: &member.requested };
        plan_assignment(observed, &holdings, member.limits, &mut self.rng)
    }

    fn look(&mut self, member: usize, observed: &[ObservedLease<'_>]) -> usize {
        let plan = self.plan(member, observed);
        self.is_partial |= plan.is_partial;
        let id = self.members[member].id.clone();
        // What came into the hands of others in the meantime is settled.
        let leases = &self.leases;
        let places = &self.places;
        self.members[member].requested.retain(|shard_id| {
            let lease = &leases[places[shard_id]];
            lease.hand_over_target() == Some(&id) || lease.is_owned_by(&id)
        });
        for lease in &plan.take {
            let had_owner = lease.owner.clone();
            let was_asked_for = lease.hand_over_target() == Some(&id);
            if self.write(lease, LeaseChange::take(id.clone())) {
                if had_owner.as_ref() != Some(&id) {
                    self.takes += usize::from(!was_asked_for);
                    self.moves += usize::from(was_asked_for);
                    for other in &mut self.members {
                        other.held.remove(&lease.shard_id);
                    }
                }
                let member = &mut self.members[member];
                member.requested.remove(&lease.shard_id);
                member.held.insert(lease.shard_id.clone());
            }
        }
        for lease in &plan.request {
            let request = LeaseChange::Request { by: id.clone(), instead_of: lease.requested_by.clone() };
            if self.write(lease, request) {
                self.members[member].requested.insert(lease.shard_id.clone());
            }
        }
        plan.take.len() + plan.request.len()
    }

    fn write(&mut self, seen: &Lease, change: LeaseChange) -> bool {
        let index = self.places[&seen.shard_id];
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

    /// Owners hand over what they were asked for.
    fn answer(&mut self) {
        let asked: Vec<Lease> =
            self.leases.iter().filter(|lease| lease.hand_over_target().is_some()).cloned().collect();
        for lease in asked {
            let holder = self.members.iter().position(|member| lease.is_owned_by(&member.id)).unwrap();
            let target = lease.hand_over_target().cloned().unwrap();
            if self.members[holder].answers && self.members[holder].held.remove(&lease.shard_id) {
                assert!(self.write(&lease, LeaseChange::take(target)));
                self.moves += 1;
            }
        }
    }

    /// The shards that somebody has to read: not finished, and no parent that is not.
    pub(crate) fn work(&self) -> Vec<&Lease> {
        let unfinished: HashSet<&ShardId> =
            self.leases.iter().filter(|lease| !lease.is_finished()).map(|lease| &lease.shard_id).collect();
        let is_ready = |lease: &&Lease| lease.parents.iter().all(|parent| !unfinished.contains(parent));
        self.leases.iter().filter(|lease| !lease.is_finished()).filter(is_ready).collect()
    }

    /// How many leases each present member holds.
    pub(crate) fn loads(&self) -> Vec<usize> {
        let present = self.members.iter().filter(|member| member.state == State::Present);
        present.map(|member| member.held.len()).collect()
    }

    /// Every lease with work is held by a present member, all of them hold as many, and nothing is on its way.
    pub(crate) fn is_balanced(&self) -> bool {
        let loads = self.loads();
        let held = loads.iter().sum::<usize>();
        let (floor, ceil) = (held / loads.len(), held.div_ceil(loads.len()));
        loads.iter().all(|load| (floor..=ceil).contains(load))
            && self.leases.iter().all(|lease| lease.hand_over_target().is_none())
            && held == self.work().len()
    }

    /// Of the first `members` present ones, nobody plans anything, even when all leases have settled in.
    pub(crate) fn is_at_rest(&mut self, members: usize) -> bool {
        self.since.iter_mut().for_each(|since| since.owned = None);
        let snapshot = self.snapshot();
        let observed = snapshot.observed();
        let present = self.in_random_order().into_iter().take(members);
        present.into_iter().all(|member| self.plan(member, &observed) == AssignmentPlan::default())
    }

    /// How many leases of live members have to move, at the least, until the fleet is balanced.
    pub(crate) fn least_moves(&self) -> usize {
        let (loads, work) = (self.loads(), self.work().len());
        let (floor, ceil) = (work / loads.len(), work.div_ceil(loads.len()));
        let offered: usize = self
            .members
            .iter()
            .filter(|member| member.state == State::Leaving)
            .map(|member| member.held.len())
            .sum();
        let free = work - loads.iter().sum::<usize>();
        let lacking: usize = loads.iter().map(|load| floor.saturating_sub(*load)).sum();
        let beyond: usize = loads.iter().map(|load| load.saturating_sub(ceil)).sum();
        offered + lacking.saturating_sub(free).max(beyond)
    }
}
