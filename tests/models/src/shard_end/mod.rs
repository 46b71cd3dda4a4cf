//! The end of a shard: its children get their leases, then it is marked as ended, then they are started; and beside that workers
//! that look for missing leases, rows that are deleted, and processes that die between any two steps.
//!
//! What the [`lease`](crate::lease) model shows is taken for granted here: a write of a worker that has lost the lease is
//! refused, and a lease is free when its holder has not renewed it for long enough.

mod fleet;
mod stream;

use receiver::InitialPosition;
use stateright::{Model, Property};

pub use fleet::{Answer, Broken, Fleet, Place, Row, Stage, Task, Worker};
pub use stream::History;

use crate::Witnesses;

/// The sizes of a model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ShardEndModel {
    /// How many workers there are.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub workers: u8,
    /// How the shards come about.
    #[arg(long, value_enum, default_value_t)]
    pub history: History,
    /// Whether the application starts at the newest record, not at the oldest.
    #[arg(long)]
    pub starts_at_latest: bool,
    /// Whether every shard has a lease from the beginning that was there at the beginning.
    #[arg(long)]
    pub has_leases: bool,
    /// How many processes die at most.
    #[arg(long, default_value_t = 0)]
    pub crashes: u8,
    /// How many leases are not renewed in time at most, although their holders go on.
    #[arg(long, default_value_t = 0)]
    pub pauses: u8,
    /// How many answers are lost at most.
    #[arg(long, default_value_t = 0)]
    pub lost_answers: u8,
    /// Whether listings of leases may miss a row.
    #[arg(long)]
    pub listings_lag: bool,
    /// What has happened.
    #[arg(skip)]
    pub witnesses: Witnesses,
}

/// What a model must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A shard was marked as ended.
    Ended,
    /// The row of an ended shard was deleted.
    Deleted,
    /// An end could not be recorded yet.
    Obstacle,
    /// A worker that had lost the lease could not record the end.
    Fenced,
    /// All was read.
    Over,
}

impl From<Happened> for u32 {
    fn from(happened: Happened) -> Self {
        happened as Self
    }
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The newest shards are split or merged.
    Reshard,
    /// A listing shows that.
    Show,
    /// A worker looks which shards lack a lease.
    Sync(usize),
    /// It creates one.
    Create(usize, usize, Answer),
    /// A worker looks at a lease, by a listing that may miss a row, and means to take it.
    Look(usize, usize, Option<usize>),
    /// It takes it.
    Take(usize),
    /// A worker reads, processes and checkpoints what is in its shard.
    Read(usize, usize),
    /// It comes to the end of the shard, and the stream names the children or not.
    SeeEnd(usize, usize, bool),
    /// It does the next step to record that.
    EndStep(usize, usize, Answer),
    /// Rows that nobody needs are deleted, by a listing that may miss a row.
    CleanUp(Option<usize>),
    /// A process dies, and starts again.
    Crash(usize),
    /// A lease is not renewed in time, although its holder goes on.
    Expire(usize, usize),
    /// The holder notices.
    LetGo(usize, usize),
}

impl Step {
    /// Whether something goes wrong in it.
    fn is_fault(self) -> bool {
        match self {
            Self::Create(.., answer) | Self::EndStep(.., answer) => answer != Answer::Given,
            Self::Crash(_) | Self::Expire(..) => true,
            _ => false,
        }
    }
}

impl ShardEndModel {
    pub(crate) fn initial(&self) -> InitialPosition {
        if self.starts_at_latest { InitialPosition::Latest } else { InitialPosition::TrimHorizon }
    }

    fn representative(&self, fleet: Fleet) -> Fleet {
        if self.workers != 2 {
            return fleet;
        }
        let mut renamed = fleet.clone();
        renamed.workers.swap(0, 1);
        for row in renamed.rows.iter_mut().flatten() {
            row.owner = row.owner.map(|owner| 1 - owner);
        }
        renamed.min(fleet)
    }
}

impl Model for ShardEndModel {
    type State = Fleet;
    type Action = Step;

    fn init_states(&self) -> Vec<Fleet> {
        let shards = self.history.len();
        let place = if self.starts_at_latest { Place::Latest } else { Place::TrimHorizon };
        let is_leased = |shard: usize| self.has_leases && self.history.generation_of(shard) == 0;
        let row = Row { owner: None, counter: 0, place, has_children: false, is_expired: false };
        let worker = Worker { tasks: vec![None; shards], ..Worker::default() };
        vec![Fleet {
            newest: 0,
            shown: 0,
            rows: (0..shards).map(|shard| is_leased(shard).then_some(row)).collect(),
            workers: vec![worker; usize::from(self.workers)],
            history: (0..shards).map(|shard| [is_leased(shard), false, false]).collect(),
            was_covered: false,
            left: [self.crashes, self.pauses, self.lost_answers],
            broken: None,
        }]
    }

    fn actions(&self, fleet: &Fleet, steps: &mut Vec<Step>) {
        if fleet.broken.is_some() {
            return;
        }
        let [crashes, pauses, lost_answers] = fleet.left;
        if fleet.newest < self.history.last_generation() {
            steps.push(Step::Reshard);
        }
        if fleet.shown < fleet.newest {
            steps.push(Step::Show);
        }
        let lost: &[Answer] =
            if lost_answers > 0 { &[Answer::LostApplied, Answer::LostNotApplied] } else { &[] };
        let shards = 0..fleet.rows.len();
        let missed = shards.clone().filter(|shard| self.listings_lag && fleet.rows[*shard].is_some());
        let missed: Vec<Option<usize>> = std::iter::once(None).chain(missed.map(Some)).collect();
        steps.extend(missed.iter().map(|unseen| Step::CleanUp(*unseen)));
        for (index, worker) in fleet.workers.iter().enumerate() {
            if crashes > 0 {
                steps.push(Step::Crash(index));
            }
            if worker.missing.is_empty() {
                steps.push(Step::Sync(index));
            }
            for shard in worker.missing.keys() {
                let answers = std::iter::once(&Answer::Given).chain(lost);
                steps.extend(answers.map(|answer| Step::Create(index, *shard, *answer)));
            }
            if worker.wants.is_some() {
                steps.push(Step::Take(index));
            }
            for shard in shards.clone() {
                match worker.tasks[shard].map(|task| task.stage) {
                    None if worker.wants.is_none() && fleet.rows[shard].is_some() => {
                        let unseen = missed.iter().filter(|unseen| **unseen != Some(shard));
                        steps.extend(unseen.map(|unseen| Step::Look(index, shard, *unseen)));
                    }
                    None => {}
                    Some(Stage::Reading) => steps.push(Step::Read(index, shard)),
                    Some(Stage::Done) => {
                        steps.push(Step::SeeEnd(index, shard, true));
                        steps.push(Step::SeeEnd(index, shard, false));
                    }
                    Some(Stage::Ending(..)) => {
                        let answers = std::iter::once(&Answer::Given).chain(lost);
                        steps.extend(answers.map(|answer| Step::EndStep(index, shard, *answer)));
                    }
                }
                if worker.tasks[shard].is_some() {
                    steps.push(Step::LetGo(index, shard));
                    if pauses > 0 {
                        steps.push(Step::Expire(index, shard));
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &Fleet, step: Step) -> Option<Fleet> {
        let (mut fleet, seen) = (last.clone(), &self.witnesses);
        let fault = match step {
            Step::Crash(_) => 0,
            Step::Expire(..) => 1,
            _ => 2,
        };
        fleet.left[fault] -= u8::from(step.is_fault());
        let is_step = match step {
            Step::Reshard => {
                fleet.newest += 1;
                true
            }
            Step::Show => {
                fleet.shown += 1;
                true
            }
            Step::Sync(worker) => fleet.sync(self, worker),
            Step::Create(worker, shard, answer) => fleet.create_missing(self.history, worker, shard, answer),
            Step::Look(worker, shard, unseen) => fleet.look(self.history, worker, shard, unseen),
            Step::Take(worker) => fleet.take(self.history, worker),
            Step::Read(worker, shard) => fleet.read(worker, shard),
            Step::SeeEnd(worker, shard, names) => fleet.see_end(self.history, worker, shard, names),
            Step::EndStep(worker, shard, answer) => fleet.end_step(self, worker, shard, answer, seen),
            Step::CleanUp(unseen) => fleet.clean_up(self.history, unseen, seen),
            Step::Crash(worker) => fleet.crash(worker),
            Step::Expire(worker, shard) => fleet.expire(worker, shard),
            Step::LetGo(worker, shard) => fleet.let_go(worker, shard),
        };
        if !is_step {
            return None;
        }
        fleet.check_coverage(self.history);
        if fleet.is_over(self.history) {
            seen.saw(Happened::Over);
        }
        Some(self.representative(fleet))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal: $broken:ident),* $(,)?) => {
                vec![$(Property::always($name, |_, fleet: &Fleet| fleet.broken != Some(Broken::$broken))),*]
            };
        }
        never! {
            "no child starts before its parents are read to their ends": ChildBeforeParent,
            "nothing is marked as ended before its children have leases": EndBeforeChildren,
            "a child of a shard that was read starts at its beginning": ChildInTheMiddle,
            "no row of an ended shard is deleted before its children are begun": DeletedTooEarly,
            "hash keys that are covered stay covered": Uncovered,
            "only the holder marks a shard as ended": EndedByAnother,
        }
    }
}
