//! The states of the model: the table, and the progress of each worker.

use std::collections::BTreeMap;

use lease_store::Position;

use crate::internals::EndStep;

/// A promise that a step has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// A child was started before a parent was finished, or before a parent got its lease.
    ChildBeforeParent,
    /// A shard was marked as finished while a child had no lease.
    EndBeforeChildren,
    /// A child of a leased shard does not start at its beginning.
    ChildInTheMiddle,
    /// The row of a finished shard was deleted before its children were started.
    DeletedTooEarly,
    /// Hash keys were covered, and no longer are.
    Uncovered,
    /// A worker that had lost the lease marked the shard as finished.
    EndedByAnother,
}

/// How far a shard is read, according to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadPosition {
    /// `TRIM_HORIZON`.
    TrimHorizon,
    /// `LATEST`.
    Latest,
    /// After the only record of the shard.
    Record,
    /// `SHARD_END`.
    End,
}

impl ReadPosition {
    pub(super) fn checkpoint(self) -> Position {
        match self {
            Self::TrimHorizon => Position::TrimHorizon,
            Self::Latest => Position::Latest,
            Self::Record => Position::after(1u128.into(), 0),
            Self::End => Position::ShardEnd,
        }
    }

    pub(super) fn of(position: &Position) -> Self {
        match position {
            Position::TrimHorizon | Position::AtTimestamp => Self::TrimHorizon,
            Position::Latest => Self::Latest,
            Position::After(_) => Self::Record,
            Position::ShardEnd => Self::End,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The owner.
    pub owner: Option<u8>,
    /// How often it changed its owner.
    pub counter: u8,
    /// How far the shard is read.
    pub position: ReadPosition,
    /// Whether it names the children.
    pub has_children: bool,
    /// Whether it was not renewed for the fail-over time.
    pub is_expired: bool,
}

/// The work on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardTask {
    /// The counter of the row when it was taken.
    pub counter: u8,
    /// Its progress.
    pub stage: Stage,
    /// How often it has asked the stream for the children.
    pub lookups: u8,
}

/// The progress of the work on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The record is not done.
    Reading,
    /// The record is done and checkpointed.
    Done,
    /// Recording the end of the shard; whether the children are known.
    Ending(EndStep, bool),
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Worker {
    /// Its task for each shard.
    pub tasks: Vec<Option<ShardTask>>,
    /// The lease that it plans to take, and the version that it observed.
    pub planned_take: Option<(usize, u8)>,
    /// The missing leases found by its shard sync, with their starting positions.
    pub missing: BTreeMap<usize, ReadPosition>,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fleet {
    /// The newest generation of shards.
    pub newest: u8,
    /// The newest generation that a listing shows.
    pub shown: u8,
    /// The table.
    pub rows: Vec<Option<Row>>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// For each shard whether it ever had a lease, was started, and was finished.
    pub history: Vec<[bool; 3]>,
    /// Whether the leases have covered all hash keys.
    pub was_covered: bool,
    /// The faults that may still happen: crashes, missed renewals, lost answers.
    pub budget: [u8; 3],
    /// The broken promise.
    pub violation: Option<Violation>,
}

/// Indexes into [`Fleet::history`].
pub(super) const LEASED: usize = 0;
pub(super) const STARTED: usize = 1;
pub(super) const ENDED: usize = 2;

/// What happens to the answer of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It arrives.
    Received,
    /// It is lost, and the write is applied.
    LostApplied,
    /// It is lost, and the write is not applied.
    LostNotApplied,
}

/// The kinds of steps that a model must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A shard was marked as finished.
    Ended,
    /// The row of a finished shard was deleted.
    Deleted,
    /// The end of a shard could not be recorded yet.
    Blocked,
    /// A worker that had lost the lease could not record the end.
    Fenced,
    /// All shards were read.
    Over,
}

impl From<Happened> for u32 {
    fn from(happened: Happened) -> Self {
        happened as Self
    }
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
    /// Any order that distinguishes all stages.
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
