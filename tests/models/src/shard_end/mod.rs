//! The end of a shard: its children get leases, it is marked as finished, and its children start. Meanwhile other
//! workers run shard syncs, delete rows, and crash between any two steps.
//!
//! This model assumes the properties that the [`lease`](crate::lease) model shows: the table refuses a write of a
//! worker that has lost the lease, and a lease is free when its holder has not renewed it for long enough.

mod fleet;
mod state;
mod stream;

use receiver::InitialPosition;
use stateright::{Model, Property};

pub use state::{Answer, Fleet, Happened, ReadPosition, Row, ShardTask, Stage, Violation, Worker};
pub use stream::History;

use crate::witness::Witnesses;

/// The sizes of a model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ShardEndModel {
    /// Number of workers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub workers: u8,
    /// The reshards of the stream
    #[arg(long, value_enum, default_value_t)]
    pub history: History,
    /// Start at LATEST instead of TRIM_HORIZON
    #[arg(long)]
    pub starts_at_latest: bool,
    /// Give the first shards a lease from the beginning
    #[arg(long)]
    pub has_leases: bool,
    /// Most processes that crash
    #[arg(long, default_value_t = 0)]
    pub crashes: u8,
    /// Most leases that are not renewed in time although their holders continue
    #[arg(long, default_value_t = 0)]
    pub pauses: u8,
    /// Most answers that are lost
    #[arg(long, default_value_t = 0)]
    pub lost_answers: u8,
    /// Let listings of leases miss a row
    #[arg(long)]
    pub listings_lag: bool,
    /// The kinds of steps that happened.
    #[arg(skip)]
    pub witnesses: Witnesses,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The newest shards are split or merged.
    Reshard,
    /// A listing shows the reshard.
    Show,
    /// A worker runs a shard sync.
    Sync(usize),
    /// A worker creates a planned lease.
    Create(usize, usize, Answer),
    /// A worker scans a lease, with a listing that may miss a row, and plans to take it.
    Scan(usize, usize, Option<usize>),
    /// A worker takes the planned lease.
    Take(usize),
    /// A worker reads, processes and checkpoints the record of a shard.
    Read(usize, usize),
    /// A worker reaches the end of a shard. The last answer may name the children.
    ReachEnd(usize, usize, bool),
    /// A worker executes the next step of recording the end.
    EndStep(usize, usize, Answer),
    /// A worker deletes unneeded rows, with a listing that may miss a row.
    CleanUp(Option<usize>),
    /// A process crashes and restarts.
    Crash(usize),
    /// A lease is not renewed in time, although its holder continues.
    Expire(usize, usize),
    /// The holder notices that its lease has expired.
    NoticeExpiry(usize, usize),
}

impl Step {
    /// Whether it is a fault.
    fn is_fault(self) -> bool {
        match self {
            Self::Create(.., answer) | Self::EndStep(.., answer) => answer != Answer::Received,
            Self::Crash(_) | Self::Expire(..) => true,
            _ => false,
        }
    }
}

impl ShardEndModel {
    fn initial(&self) -> InitialPosition {
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
        let position = if self.starts_at_latest { ReadPosition::Latest } else { ReadPosition::TrimHorizon };
        let is_leased = |shard: usize| self.has_leases && self.history.generation_of(shard) == 0;
        let row = Row { owner: None, counter: 0, position, has_children: false, is_expired: false };
        let worker = Worker { tasks: vec![None; shards], ..Worker::default() };
        vec![Fleet {
            newest: 0,
            shown: 0,
            rows: (0..shards).map(|shard| is_leased(shard).then_some(row)).collect(),
            workers: vec![worker; usize::from(self.workers)],
            history: (0..shards).map(|shard| [is_leased(shard), false, false]).collect(),
            was_covered: false,
            budget: [self.crashes, self.pauses, self.lost_answers],
            violation: None,
        }]
    }

    fn actions(&self, fleet: &Fleet, steps: &mut Vec<Step>) {
        if fleet.violation.is_some() {
            return;
        }
        let [crashes, pauses, lost_answers] = fleet.budget;
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
                let answers = std::iter::once(&Answer::Received).chain(lost);
                steps.extend(answers.map(|answer| Step::Create(index, *shard, *answer)));
            }
            if worker.planned_take.is_some() {
                steps.push(Step::Take(index));
            }
            for shard in shards.clone() {
                match worker.tasks[shard].map(|task| task.stage) {
                    None if worker.planned_take.is_none() && fleet.rows[shard].is_some() => {
                        let unseen = missed.iter().filter(|unseen| **unseen != Some(shard));
                        steps.extend(unseen.map(|unseen| Step::Scan(index, shard, *unseen)));
                    }
                    None => {}
                    Some(Stage::Reading) => steps.push(Step::Read(index, shard)),
                    Some(Stage::Done) => {
                        steps.push(Step::ReachEnd(index, shard, true));
                        steps.push(Step::ReachEnd(index, shard, false));
                    }
                    Some(Stage::Ending(..)) => {
                        let answers = std::iter::once(&Answer::Received).chain(lost);
                        steps.extend(answers.map(|answer| Step::EndStep(index, shard, *answer)));
                    }
                }
                if worker.tasks[shard].is_some() {
                    steps.push(Step::NoticeExpiry(index, shard));
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
        fleet.budget[fault] -= u8::from(step.is_fault());
        let is_step = match step {
            Step::Reshard => {
                fleet.newest += 1;
                true
            }
            Step::Show => {
                fleet.shown += 1;
                true
            }
            Step::Sync(worker) => fleet.sync(self.history, &self.initial(), worker),
            Step::Create(worker, shard, answer) => fleet.create_missing(self.history, worker, shard, answer),
            Step::Scan(worker, shard, unseen) => fleet.scan(self.history, worker, shard, unseen),
            Step::Take(worker) => fleet.take(self.history, worker),
            Step::Read(worker, shard) => fleet.read(worker, shard),
            Step::ReachEnd(worker, shard, names) => fleet.reach_end(self.history, worker, shard, names),
            Step::EndStep(worker, shard, answer) => {
                fleet.end_step(self.history, self.initial(), worker, shard, answer, seen)
            }
            Step::CleanUp(unseen) => fleet.clean_up(self.history, unseen, seen),
            Step::Crash(worker) => fleet.crash(worker),
            Step::Expire(worker, shard) => fleet.expire(worker, shard),
            Step::NoticeExpiry(worker, shard) => fleet.notice_expiry(worker, shard),
        };
        if !is_step {
            return None;
        }
        fleet.check_coverage(self.history);
        if fleet.is_over(self.history) {
            seen.record(Happened::Over);
        }
        Some(self.representative(fleet))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal: $violation:ident),* $(,)?) => {
                vec![$(Property::always($name, |_, fleet: &Fleet| fleet.violation != Some(Violation::$violation))),*]
            };
        }
        never! {
            "no child starts before its parents are finished": ChildBeforeParent,
            "no shard is marked as finished before its children have leases": EndBeforeChildren,
            "a child of a leased shard starts at its beginning": ChildInTheMiddle,
            "no row of a finished shard is deleted before its children are started": DeletedTooEarly,
            "hash keys that are covered stay covered": Uncovered,
            "only the holder marks a shard as finished": EndedByAnother,
        }
    }
}
