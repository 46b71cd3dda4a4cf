//! The steps of the workers of the model.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use fastrand::Rng;
use lease_store::{Consistency, Lease, Position, WorkerId};
use receiver::InitialPosition;
use tokio::time::Duration;

use super::state::{
    Answer, ENDED, Fleet, Happened, LEASED, ReadPosition, Row, STARTED, ShardTask, Stage, Violation, Worker,
};
use super::stream::{History, number_of, shard_id};
use crate::internals::{
    AssignmentLimits, Coverage, EndStep, Holdings, MAX_CHILD_LOOKUPS, ObservedLease, StartTime, coverage,
    is_sure_of_parents, lease_of_child, other_parents, plan_assignment, plan_cleanup, plan_new_leases,
};
use crate::witness::Witnesses;

/// How often a worker asks for the children before it asks for the shard: fewer times than in the crate, because all
/// but the last are alike.
const LOOKUPS: u8 = 2;

/// The skipped attempts.
const SKIPPED_LOOKUPS: u32 = MAX_CHILD_LOOKUPS - LOOKUPS as u32;

const FAILOVER_TIME: Duration = Duration::from_secs(10);

static WORKERS: LazyLock<Vec<WorkerId>> =
    LazyLock::new(|| ["a", "b", "c"].into_iter().filter_map(|name| WorkerId::new(name).ok()).collect());

impl Fleet {
    fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    fn lease(&self, history: History, shard: usize) -> Option<Lease> {
        let row = self.rows[shard]?;
        let listed = history.shard(shard, self.newest);
        let mut lease = Lease::unowned(listed.shard_id, row.position.checkpoint());
        lease.owner = row.owner.map(|owner| WORKERS[usize::from(owner)].clone());
        lease.counter = u64::from(row.counter);
        lease.parents = listed.parents;
        lease.hash_key_range = listed.hash_key_range;
        if row.has_children {
            lease.children = history.children(shard).map(shard_id).collect();
        }
        Some(lease)
    }

    /// Returns the rows of a listing. An eventually consistent one may miss the row `unseen`.
    fn listing(&self, history: History, unseen: Option<usize>) -> Vec<Lease> {
        let seen = (0..self.rows.len()).filter(|shard| Some(*shard) != unseen);
        seen.filter_map(|shard| self.lease(history, shard)).collect()
    }

    /// Checks that covered hash keys stay covered.
    pub(super) fn check_coverage(&mut self, history: History) {
        match coverage(&self.listing(history, None)) {
            Coverage::Complete => self.was_covered = true,
            Coverage::Hole(_) if self.was_covered => self.fail(Violation::Uncovered),
            Coverage::Hole(_) | Coverage::Unknown => {}
        }
    }

    /// Adds a row; `false` when it already exists.
    fn create(&mut self, history: History, shard: usize, lease: &Lease) -> bool {
        if self.rows[shard].is_some() {
            return false;
        }
        let position = ReadPosition::of(&lease.checkpoint);
        let has_read_parent = history.parents(shard).any(|parent| self.history[parent][LEASED]);
        if has_read_parent && position == ReadPosition::Latest {
            self.fail(Violation::ChildInTheMiddle);
        }
        let is_ended = self.history[shard][ENDED];
        if !is_ended && history.children(shard).any(|child| self.history[child][STARTED]) {
            self.fail(Violation::ChildBeforeParent);
        }
        self.rows[shard] =
            Some(Row { owner: None, counter: 0, position, has_children: false, is_expired: false });
        self.history[shard][LEASED] = true;
        true
    }

    fn is_read_beyond(&self, history: History, shard: usize) -> bool {
        let has_lease = |child: usize| self.rows[child].is_some() || self.is_read_beyond(history, child);
        history.children(shard).any(has_lease)
    }

    fn task(&mut self, worker: usize, shard: usize) -> &mut Option<ShardTask> {
        &mut self.workers[worker].tasks[shard]
    }

    /// A worker runs a shard sync: it lists shards and leases, and plans the missing leases.
    pub(super) fn sync(&mut self, history: History, initial: &InitialPosition, worker: usize) -> bool {
        let leases = self.listing(history, None);
        // `LATEST` is the instant at which only the first shards existed; none of them had closed before.
        let shards = history.shards(self.shown, self.newest);
        let start_time = StartTime::at_millis(0);
        let missing = plan_new_leases(&shards, &leases, initial, Some(&start_time), &BTreeMap::new());
        let missing =
            missing.iter().map(|lease| (number_of(&lease.shard_id), ReadPosition::of(&lease.checkpoint)));
        self.workers[worker].missing = missing.collect();
        !self.workers[worker].missing.is_empty()
    }

    /// A worker creates a planned lease, parents before children. If another worker created it first, it syncs again.
    pub(super) fn create_missing(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        answer: Answer,
    ) -> bool {
        let missing = &mut self.workers[worker].missing;
        let Some(position) = missing.get(&shard).copied() else { return false };
        if history.parents(shard).any(|parent| missing.contains_key(&parent)) {
            return false;
        }
        missing.remove(&shard);
        let lease = Lease::unowned(shard_id(shard), position.checkpoint());
        let is_applied = answer != Answer::LostNotApplied && self.create(history, shard, &lease);
        if answer != Answer::Received || !is_applied {
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
            is_of_namesake: false,
            is_paused: false,
        }
    }

    /// A worker scans the leases, and plans to take one.
    pub(super) fn scan(
        &mut self,
        history: History,
        worker: usize,
        shard: usize,
        unseen: Option<usize>,
    ) -> bool {
        let listing = self.listing(history, unseen);
        let is_relevant = |lease: &&Lease| {
            let number = number_of(&lease.shard_id);
            number == shard || history.parents(shard).any(|parent| parent == number)
        };
        let relevant = listing.iter().filter(is_relevant);
        let observed: Vec<ObservedLease<'_>> = relevant.map(|lease| self.observe(lease)).collect();
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
        let planned_take = taken.and(self.rows[shard]).map(|row| (shard, row.counter));
        self.workers[worker].planned_take = planned_take;
        planned_take.is_some()
    }

    /// A worker takes the planned lease if its version is unchanged.
    pub(super) fn take(&mut self, history: History, worker: usize) -> bool {
        let Some((shard, counter)) = self.workers[worker].planned_take.take() else { return false };
        let Some(row) = self.rows[shard].as_mut().filter(|row| row.counter == counter) else { return true };
        row.owner = u8::try_from(worker).ok();
        row.counter += 1;
        row.is_expired = false;
        let counter = row.counter;
        let stage = if row.position >= ReadPosition::Record { Stage::Done } else { Stage::Reading };
        *self.task(worker, shard) = Some(ShardTask { counter, stage, lookups: 0 });
        self.history[shard][STARTED] = true;
        let is_done =
            |fleet: &Self, parent: usize| fleet.history[parent][ENDED] || !fleet.history[parent][LEASED];
        if history.parents(shard).any(|parent| !is_done(self, parent)) {
            self.fail(Violation::ChildBeforeParent);
        }
        true
    }

    /// Whether the row is unchanged since the take. A missing row is recreated at the known position; a changed one
    /// ends the task.
    fn still_holds(&mut self, worker: usize, shard: usize, task: ShardTask) -> bool {
        let is_held = self.rows[shard].is_some_and(|row| row.counter == task.counter);
        if !is_held {
            *self.task(worker, shard) = None;
            if self.rows[shard].is_none() && task.stage != Stage::Reading {
                self.rows[shard] = Some(Row {
                    owner: None,
                    counter: task.counter + 1,
                    position: ReadPosition::Record,
                    has_children: false,
                    is_expired: false,
                });
            }
        }
        is_held
    }

    /// Processes and checkpoints the record.
    pub(super) fn read(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        if task.stage != Stage::Reading {
            return false;
        }
        if self.still_holds(worker, shard, task) {
            if let Some(row) = &mut self.rows[shard] {
                row.position = row.position.max(ReadPosition::Record);
                row.is_expired = false;
            }
            *self.task(worker, shard) = Some(ShardTask { stage: Stage::Done, ..task });
        }
        true
    }

    /// Reaches the end of a closed shard that a listing already shows. The last answer may name the children.
    pub(super) fn reach_end(
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

    /// Executes the next step of recording the end.
    pub(super) fn end_step(
        &mut self,
        history: History,
        initial: InitialPosition,
        worker: usize,
        shard: usize,
        answer: Answer,
        witnesses: &Witnesses,
    ) -> bool {
        let Some(mut task) = *self.task(worker, shard) else { return false };
        let Stage::Ending(step, mut knows_children) = task.stage else { return false };
        let is_write = matches!(step, EndStep::Create { .. } | EndStep::RecordEnd);
        if answer != Answer::Received && !is_write {
            return false;
        }
        let parent = shard_id(shard);
        let all = children(history, shard, self.newest);
        let shown = self.shown;
        let number = |child: usize| number_of(&all[child].shard_id);
        let other = |child: usize, other: usize| number_of(other_parents(&parent, &all[child])[other]);
        let condition = match step {
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
                let lease = lease_of_child(&taken, &all[child], initial, false);
                if answer != Answer::LostNotApplied {
                    self.create(history, number(child), &lease);
                }
                answer == Answer::Received
            }
            EndStep::RecordEnd => return self.record_end(history, worker, shard, answer, witnesses),
        };
        let children: &[_] = if knows_children { &all } else { &[] };
        task.stage = match step.next(condition, &parent, children, u32::from(task.lookups) + SKIPPED_LOOKUPS)
        {
            Ok(step) => Stage::Ending(step, knows_children),
            Err(_) => {
                witnesses.record(Happened::Blocked);
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
            witnesses.record(Happened::Fenced);
            return true;
        }
        if answer != Answer::LostNotApplied {
            let owner = self.rows[shard].and_then(|row| row.owner);
            if owner.map(usize::from) != Some(worker) {
                self.fail(Violation::EndedByAnother);
            }
            if let Some(row) = &mut self.rows[shard] {
                row.position = ReadPosition::End;
                row.has_children = true;
            }
            self.history[shard][ENDED] = true;
            if history.children(shard).any(|child| !self.history[child][LEASED]) {
                self.fail(Violation::EndBeforeChildren);
            }
            witnesses.record(Happened::Ended);
        }
        *self.task(worker, shard) =
            (answer != Answer::Received).then_some(ShardTask { stage: Stage::Done, ..task });
        true
    }

    /// Deletes the rows of finished shards that are no longer needed.
    pub(super) fn clean_up(
        &mut self,
        history: History,
        unseen: Option<usize>,
        witnesses: &Witnesses,
    ) -> bool {
        let listing = self.listing(history, unseen);
        let deletable: Vec<usize> =
            plan_cleanup(&listing).into_iter().map(|lease| number_of(&lease.shard_id)).collect();
        for shard in &deletable {
            let is_begun = |child: usize| {
                self.history[child][ENDED]
                    || self.rows[child].is_some_and(|row| row.position > ReadPosition::TrimHorizon)
            };
            if !history.children(*shard).all(is_begun) {
                self.fail(Violation::DeletedTooEarly);
            }
            self.rows[*shard] = None;
            witnesses.record(Happened::Deleted);
        }
        !deletable.is_empty()
    }

    /// A process crashes and restarts under the same name. Its leases expire.
    pub(super) fn crash(&mut self, worker: usize) -> bool {
        let tasks = vec![None; self.rows.len()];
        let fresh = Worker { tasks, ..Worker::default() };
        let is_news = self.workers[worker] != fresh;
        self.workers[worker] = fresh;
        let rows = self.rows.iter_mut().flatten();
        for row in rows.filter(|row| row.owner.map(usize::from) == Some(worker)) {
            row.is_expired = row.position != ReadPosition::End;
        }
        is_news
    }

    /// A lease is not renewed in time, although its holder continues.
    pub(super) fn expire(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        let row = self.rows[shard].as_mut();
        let Some(row) = row.filter(|row| row.counter == task.counter && row.position != ReadPosition::End)
        else {
            return false;
        };
        !std::mem::replace(&mut row.is_expired, true)
    }

    /// The holder notices that its lease has expired.
    pub(super) fn notice_expiry(&mut self, worker: usize, shard: usize) -> bool {
        let Some(task) = *self.task(worker, shard) else { return false };
        let has_expired = self.rows[shard].is_none_or(|row| row.counter != task.counter || row.is_expired);
        if has_expired {
            *self.task(worker, shard) = None;
        }
        has_expired
    }

    /// Whether all that can be read is read: every shard is finished, and the newest ones are started.
    pub fn is_over(&self, history: History) -> bool {
        self.newest == history.last_generation()
            && (0..self.rows.len()).all(|shard| {
                let is_newest = history.generation_of(shard) == self.newest;
                let is_begun = self.rows[shard].is_some_and(|row| row.position >= ReadPosition::Record);
                if is_newest { is_begun } else { self.history[shard][ENDED] || !self.history[shard][LEASED] }
            })
    }
}

fn children(history: History, shard: usize, newest: u8) -> Vec<shard_worker::Shard> {
    history.children(shard).map(|child| history.shard(child, newest)).collect()
}
