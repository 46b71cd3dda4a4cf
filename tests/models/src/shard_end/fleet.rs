//! The table and the workers of the model, and what they do.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use fastrand::Rng;
use lease_store::{Consistency, Lease, Position, WorkerId};
use receiver::{
    AssignmentLimits, Coverage, EndStep, Holdings, MAX_CHILD_LOOKUPS, ObservedLease, StartTime, coverage,
    is_sure_of_parents, lease_of_child, other_parents, plan_assignment, plan_cleanup, plan_new_leases,
};
use tokio::time::Duration;

use super::stream::{History, number_of, shard_id};
use super::{Happened, ShardEndModel};
use crate::Witnesses;

/// So many times the stream is asked for the children until it is asked for the shard: fewer than in the code, since all but the
/// last are alike.
const LOOKUPS: u8 = 2;

/// Those that are left out.
const SKIPPED_LOOKUPS: u32 = MAX_CHILD_LOOKUPS - LOOKUPS as u32;

const FAILOVER_TIME: Duration = Duration::from_secs(10);

static WORKERS: LazyLock<Vec<WorkerId>> =
    LazyLock::new(|| ["a", "b", "c"].into_iter().filter_map(|name| WorkerId::new(name).ok()).collect());

/// A promise that a step has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A child was started while a parent was not read to its end, or a parent got its lease afterwards.
    ChildBeforeParent,
    /// A shard was marked as ended while a child had no lease.
    EndBeforeChildren,
    /// A child of a shard that was read does not start at its beginning.
    ChildInTheMiddle,
    /// The row of an ended shard was deleted before its children were begun.
    DeletedTooEarly,
    /// Hash keys were covered, and are not any more.
    Uncovered,
    /// A shard was marked as ended by a worker that has lost it.
    EndedByAnother,
}

/// How far a shard is read, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `TRIM_HORIZON`.
    TrimHorizon,
    /// `LATEST`.
    Latest,
    /// The only record of the shard is done.
    Record,
    /// `SHARD_END`.
    End,
}

impl Place {
    fn position(self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::Record => Position::after(1u128.into(), 0),
            Self::End => Position::ShardEnd,
        }
    }

    fn of(position: &Position) -> Self {
        match position {
            Position::TrimHorizon | Position::AtTimestamp => Self::TrimHorizon,
            Position::Latest => Self::Latest,
            Position::After(_) => Self::Record,
            Position::ShardEnd => Self::End,
        }
    }
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Who owns it.
    pub owner: Option<u8>,
    /// How often it changed hands.
    pub counter: u8,
    /// How far the shard is read.
    pub place: Place,
    /// The names of the children stand in it.
    pub has_children: bool,
    /// Nobody has renewed it for the fail-over time.
    pub is_expired: bool,
}

/// The work on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// The row as it was taken.
    pub counter: u8,
    /// How far it is.
    pub stage: Stage,
    /// How often the stream was asked for the children.
    pub lookups: u8,
}

/// How far the work on a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The record is not done.
    Reading,
    /// The record is done and checkpointed.
    Done,
    /// On the way to `SHARD_END`; whether the children are known.
    Ending(EndStep, bool),
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Worker {
    /// What it does for each shard.
    pub tasks: Vec<Option<Task>>,
    /// A lease that it is about to take, and the version that it saw.
    pub wants: Option<(usize, u8)>,
    /// The leases that its look at the shards found missing, and where they start.
    pub missing: BTreeMap<usize, Place>,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fleet {
    /// The newest generation of shards.
    pub newest: u8,
    /// The newest that a listing shows.
    pub shown: u8,
    /// The table.
    pub rows: Vec<Option<Row>>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Which shards ever had a lease, were started, and were read to their ends.
    pub history: Vec<[bool; 3]>,
    /// The leases have covered all hash keys.
    pub was_covered: bool,
    /// What may still go wrong: processes that die, leases that are not renewed in time, answers that are lost.
    pub left: [u8; 3],
    /// What went wrong.
    pub broken: Option<Broken>,
}

/// The places in [`Fleet::history`].
const LEASED: usize = 0;
const STARTED: usize = 1;
const ENDED: usize = 2;

/// What becomes of a write whose answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It arrives.
    Given,
    /// It is lost, and the write is applied.
    LostApplied,
    /// It is lost, and the write is not applied.
    LostNotApplied,
}

impl Fleet {
    fn fail(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    fn lease(&self, history: History, shard: usize) -> Option<Lease> {
        let row = self.rows[shard]?;
        let listed = history.shard(shard, self.newest);
        let mut lease = Lease::unowned(listed.shard_id, row.place.position());
        lease.owner = row.owner.map(|owner| WORKERS[usize::from(owner)].clone());
        lease.counter = u64::from(row.counter);
        lease.parents = listed.parents;
        lease.hash_key_range = listed.hash_key_range;
        if row.has_children {
            lease.children = history.children(shard).map(shard_id).collect();
        }
        Some(lease)
    }

    /// The rows; an eventually consistent listing may not show one of them.
    fn listing(&self, history: History, unseen: Option<usize>) -> Vec<Lease> {
        let seen = (0..self.rows.len()).filter(|shard| Some(*shard) != unseen);
        seen.filter_map(|shard| self.lease(history, shard)).collect()
    }

    /// Whether the hash keys that were covered still are.
    pub(super) fn check_coverage(&mut self, history: History) {
        match coverage(&self.listing(history, None)) {
            Coverage::Complete => self.was_covered = true,
            Coverage::Hole(_) if self.was_covered => self.fail(Broken::Uncovered),
            Coverage::Hole(_) | Coverage::Unknown => {}
        }
    }

    /// Adds a row; `false` when there is one.
    fn create(&mut self, history: History, shard: usize, lease: &Lease) -> bool {
        if self.rows[shard].is_some() {
            return false;
        }
        let place = Place::of(&lease.checkpoint);
        let has_read_parent = history.parents(shard).any(|parent| self.history[parent][LEASED]);
        if has_read_parent && place == Place::Latest {
            self.fail(Broken::ChildInTheMiddle);
        }
        let is_ended = self.history[shard][ENDED];
        if !is_ended && history.children(shard).any(|child| self.history[child][STARTED]) {
            self.fail(Broken::ChildBeforeParent);
        }
        self.rows[shard] =
            Some(Row { owner: None, counter: 0, place, has_children: false, is_expired: false });
        self.history[shard][LEASED] = true;
        true
    }

    fn is_read_beyond(&self, history: History, shard: usize) -> bool {
        let has_lease = |child: usize| self.rows[child].is_some() || self.is_read_beyond(history, child);
        history.children(shard).any(has_lease)
    }

    fn task(&mut self, worker: usize, shard: usize) -> &mut Option<Task> {
        &mut self.workers[worker].tasks[shard]
    }

    /// A worker lists shards and leases, and plans what is missing.
    pub(super) fn sync(&mut self, model: &ShardEndModel, worker: usize) -> bool {
        let leases = self.listing(model.history, None);
        // `LATEST` is the instant at which the first shards stood alone; none has closed before.
        let shards = model.history.shards(self.shown, self.newest);
        let start_time = StartTime::at_millis(0);
        let missing =
            plan_new_leases(&shards, &leases, &model.initial(), Some(&start_time), &BTreeMap::new());
        let missing = missing.iter().map(|lease| (number_of(&lease.shard_id), Place::of(&lease.checkpoint)));
        self.workers[worker].missing = missing.collect();
        !self.workers[worker].missing.is_empty()
    }

    /// It creates one of them, parents before children. When another one was first it looks anew.
    pub(super) fn create_missing(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        answer: Answer,
    ) -> bool {
        let missing = &mut self.workers[worker].missing;
        let Some(place) = missing.get(&shard).copied() else { return false };
        if history.parents(shard).any(|parent| missing.contains_key(&parent)) {
            return false;
        }
        missing.remove(&shard);
        let lease = Lease::unowned(shard_id(shard), place.position());
        let is_applied = answer != Answer::LostNotApplied && self.create(history, shard, &lease);
        if answer != Answer::Given || !is_applied {
            self.workers[worker].missing.clear();
        }
        true
    }

    fn observe<'a>(&self, lease: &'a Lease) -> ObservedLease<'a> {
        let is_expired = self.rows[number_of(&lease.shard_id)].is_some_and(|row| row.is_expired);
        ObservedLease {
            lease,
            unchanged_for: if is_expired { FAILOVER_TIME } else { Duration::ZERO },
            owned_for: None,
            requested_for: Duration::ZERO,
            weight: 1,
        }
    }

    /// A worker looks at the leases, and means to take one if the plan says so.
    pub(super) fn look(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        unseen: Option<usize>,
    ) -> bool {
        let listing = self.listing(history, unseen);
        let is_of_interest = |lease: &&Lease| {
            let number = number_of(&lease.shard_id);
            number == shard || history.parents(shard).any(|parent| parent == number)
        };
        let of_interest = listing.iter().filter(is_of_interest);
        let observed: Vec<ObservedLease<'_>> = of_interest.map(|lease| self.observe(lease)).collect();
        let tasks = self.workers[worker].tasks.iter().enumerate();
        let held: HashSet<_> =
            tasks.filter(|(_, task)| task.is_some()).map(|(shard, _)| shard_id(shard)).collect();
        let holdings = Holdings { worker_id: &WORKERS[worker], held: &held, requested: &HashSet::new() };
        let limits = AssignmentLimits {
            failover_time: FAILOVER_TIME,
            hand_over_time: FAILOVER_TIME,
            drain_time: FAILOVER_TIME,
            max_leases: 10,
            max_moves: 10,
            max_takes: 10,
        };
        let plan = plan_assignment(&observed, &holdings, limits, &mut Rng::with_seed(0));
        let listed: HashSet<_> = listing.iter().map(|lease| &lease.shard_id).collect();
        let consistency = if unseen.is_some() { Consistency::Eventual } else { Consistency::Strong };
        let taken = plan.take.into_iter().find(|lease| lease.shard_id == shard_id(shard));
        let taken = taken.filter(|lease| is_sure_of_parents(lease, &listed, consistency));
        let wants = taken.and(self.rows[shard]).map(|row| (shard, row.counter));
        self.workers[worker].wants = wants;
        wants.is_some()
    }

    /// It takes it, if it stands as it was seen.
    pub(super) fn take(&mut self, history: History, worker: usize) -> bool {
        let Some((shard, counter)) = self.workers[worker].wants.take() else { return false };
        let Some(row) = self.rows[shard].as_mut().filter(|row| row.counter == counter) else { return true };
        row.owner = u8::try_from(worker).ok();
        row.counter += 1;
        row.is_expired = false;
        let counter = row.counter;
        let stage = if row.place >= Place::Record { Stage::Done } else { Stage::Reading };
        *self.task(worker, shard) = Some(Task { counter, stage, lookups: 0 });
        self.history[shard][STARTED] = true;
        let is_done =
            |fleet: &Self, parent: usize| fleet.history[parent][ENDED] || !fleet.history[parent][LEASED];
        if history.parents(shard).any(|parent| !is_done(self, parent)) {
            self.fail(Broken::ChildBeforeParent);
        }
        true
    }

    /// Whether the row is still as the task took it. If it is gone, it is put back where the task knows it to be; if it is
    /// another's, the task ends.
    fn still_holds(&mut self, worker: usize, shard: usize, task: Task) -> bool {
        let is_held = self.rows[shard].is_some_and(|row| row.counter == task.counter);
        if !is_held {
            *self.task(worker, shard) = None;
            if self.rows[shard].is_none() && task.stage != Stage::Reading {
                self.rows[shard] = Some(Row {
                    owner: None,
                    counter: task.counter + 1,
                    place: Place::Record,
                    has_children: false,
                    is_expired: false,
                });
            }
        }
        is_held
    }

    /// The record is processed and checkpointed.
    pub(super) fn read(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        if task.stage != Stage::Reading {
            return false;
        }
        if self.still_holds(worker, shard, task) {
            if let Some(row) = &mut self.rows[shard] {
                row.place = row.place.max(Place::Record);
                row.is_expired = false;
            }
            *self.task(worker, shard) = Some(Task { stage: Stage::Done, ..task });
        }
        true
    }

    /// The end of a closed shard is seen; the last answer names the children, or does not. By then a listing shows the shard.
    pub(super) fn see_end(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        names_children: bool,
    ) -> bool {
        let (newest, parent) = (self.newest, shard_id(shard));
        if history.generation_of(shard) > self.shown {
            return false;
        }
        let Some(task) = self.task(worker, shard) else { return false };
        if task.stage != Stage::Done || history.generation_of(shard) >= newest {
            return false;
        }
        let children = if names_children { children(history, shard, newest) } else { Vec::new() };
        task.stage = Stage::Ending(EndStep::first(&parent, &children), names_children);
        true
    }

    /// One question on the way to the end.
    pub(super) fn end_step(
        &mut self,
        model: &ShardEndModel,
        worker: usize,
        shard: usize,
        answer: Answer,
        witnesses: &Witnesses,
    ) -> bool {
        let history = model.history;
        let Some(mut task) = *self.task(worker, shard) else { return false };
        let Stage::Ending(step, mut knows_children) = task.stage else { return false };
        let is_write = matches!(step, EndStep::Create { .. } | EndStep::RecordEnd);
        if answer != Answer::Given && !is_write {
            return false;
        }
        let parent = shard_id(shard);
        let all = children(history, shard, self.newest);
        let shown = self.shown;
        let number = |child: usize| number_of(&all[child].shard_id);
        let other = |child: usize, other: usize| number_of(other_parents(&parent, &all[child])[other]);
        let is_so = match step {
            EndStep::FindChildren => {
                knows_children = history.generation_of(shard) < shown;
                if !knows_children {
                    task.lookups = (task.lookups + 1).min(LOOKUPS);
                }
                knows_children
            }
            EndStep::FindShard => history.generation_of(shard) <= shown,
            EndStep::LookUpChild { child } | EndStep::LookAgain { child } => {
                self.rows[number(child)].is_some()
            }
            EndStep::LookUpParent { child, parent } => self.rows[other(child, parent)].is_some(),
            EndStep::FindParent { child, parent } => history.generation_of(other(child, parent)) <= shown,
            EndStep::LookBeyondChild { child, .. } => self.is_read_beyond(history, number(child)),
            EndStep::Create { child } => {
                let taken = Lease::unowned(parent.clone(), Position::TrimHorizon);
                let lease = lease_of_child(&taken, &all[child], model.initial(), false);
                if answer != Answer::LostNotApplied {
                    self.create(history, number(child), &lease);
                }
                answer == Answer::Given
            }
            EndStep::RecordEnd => return self.record_end(history, worker, shard, answer, witnesses),
        };
        let children: &[_] = if knows_children { &all } else { &[] };
        task.stage = match step.next(is_so, &parent, children, u32::from(task.lookups) + SKIPPED_LOOKUPS) {
            Ok(step) => Stage::Ending(step, knows_children),
            Err(_) => {
                witnesses.saw(Happened::Obstacle);
                Stage::Done
            }
        };
        *self.task(worker, shard) = Some(task);
        true
    }

    fn record_end(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        answer: Answer,
        witnesses: &Witnesses,
    ) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        if !self.still_holds(worker, shard, task) {
            witnesses.saw(Happened::Fenced);
            return true;
        }
        if answer != Answer::LostNotApplied {
            let owner = self.rows[shard].and_then(|row| row.owner);
            if owner.map(usize::from) != Some(worker) {
                self.fail(Broken::EndedByAnother);
            }
            if let Some(row) = &mut self.rows[shard] {
                row.place = Place::End;
                row.has_children = true;
            }
            self.history[shard][ENDED] = true;
            if history.children(shard).any(|child| !self.history[child][LEASED]) {
                self.fail(Broken::EndBeforeChildren);
            }
            witnesses.saw(Happened::Ended);
        }
        *self.task(worker, shard) = (answer != Answer::Given).then_some(Task { stage: Stage::Done, ..task });
        true
    }

    /// A worker deletes the rows of ended shards that nobody needs.
    pub(super) fn clean_up(
        &mut self,
        history: History,
        unseen: Option<usize>,
        witnesses: &Witnesses,
    ) -> bool {
        let listing = self.listing(history, unseen);
        let spent: Vec<usize> =
            plan_cleanup(&listing).into_iter().map(|lease| number_of(&lease.shard_id)).collect();
        for shard in &spent {
            let is_begun = |child: usize| {
                self.history[child][ENDED]
                    || self.rows[child].is_some_and(|row| row.place > Place::TrimHorizon)
            };
            if !history.children(*shard).all(is_begun) {
                self.fail(Broken::DeletedTooEarly);
            }
            self.rows[*shard] = None;
            witnesses.saw(Happened::Deleted);
        }
        !spent.is_empty()
    }

    /// A process dies, and starts again under the same name. Its leases expire.
    pub(super) fn crash(&mut self, worker: usize) -> bool {
        let tasks = vec![None; self.rows.len()];
        let fresh = Worker { tasks, ..Worker::default() };
        let is_news = self.workers[worker] != fresh;
        self.workers[worker] = fresh;
        let rows = self.rows.iter_mut().flatten();
        for row in rows.filter(|row| row.owner.map(usize::from) == Some(worker)) {
            row.is_expired = row.place != Place::End;
        }
        is_news
    }

    /// A lease is not renewed in time, although its holder goes on.
    pub(super) fn expire(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        let row = self.rows[shard].as_mut();
        let Some(row) = row.filter(|row| row.counter == task.counter && row.place != Place::End) else {
            return false;
        };
        !std::mem::replace(&mut row.is_expired, true)
    }

    /// The holder notices that.
    pub(super) fn let_go(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        let has_expired = self.rows[shard].is_none_or(|row| row.counter != task.counter || row.is_expired);
        if has_expired {
            *self.task(worker, shard) = None;
        }
        has_expired
    }

    /// All that can be read is read: every shard but the newest is ended, and those are begun.
    pub fn is_over(&self, history: History) -> bool {
        self.newest == history.last_generation()
            && (0..self.rows.len()).all(|shard| {
                let is_newest = history.generation_of(shard) == self.newest;
                let is_begun = self.rows[shard].is_some_and(|row| row.place >= Place::Record);
                if is_newest { is_begun } else { self.history[shard][ENDED] || !self.history[shard][LEASED] }
            })
    }
}

fn children(history: History, shard: usize, newest: u8) -> Vec<shard_worker::Shard> {
    history.children(shard).map(|child| history.shard(child, newest)).collect()
}

impl PartialOrd for Stage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stage {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl Stage {
    /// Any order will do, if it tells all stages apart.
    fn rank(self) -> (u8, usize, usize, bool) {
        match self {
            Self::Reading => (0, 0, 0, false),
            Self::Done => (1, 0, 0, false),
            Self::Ending(step, knows_children) => {
                let (kind, child, parent) = match step {
                    EndStep::FindChildren => (2, 0, 0),
                    EndStep::FindShard => (3, 0, 0),
                    EndStep::LookUpChild { child } => (4, child, 0),
                    EndStep::LookUpParent { child, parent } => (5, child, parent),
                    EndStep::FindParent { child, parent } => (6, child, parent),
                    EndStep::LookBeyondChild { child, parent } => (7, child, parent),
                    EndStep::Create { child } => (8, child, 0),
                    EndStep::LookAgain { child } => (9, child, 0),
                    EndStep::RecordEnd => (10, 0, 0),
                };
                (kind, child, parent, knows_children)
            }
        }
    }
}
