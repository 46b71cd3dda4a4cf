//! The events of a simulation, as data: one event is one line of the trace.

use std::fmt;

use lease_store::{
    Lease, LeaseChange, LeaseWrite, OwnerAction, Position, SequenceNumber, ShardId, StreamIdentity,
};

/// The number of a worker name, in order of appearance.
pub type Name = u32;

/// The number of a process. A worker that restarts under its name is a new process.
pub type Process = u32;

/// The number of a shard, as in its id.
pub type ShardNumber = u32;

/// The stream's wall clock at the start, 2026-01-01, in milliseconds since 1970.
pub const EPOCH_MILLIS: u64 = 1_767_225_600_000;

/// The first sequence number: wider than any 64-bit integer, like those of Kinesis.
const FIRST_SEQUENCE_NUMBER: u128 = 10u128.pow(38);

/// Returns the sequence number of the n-th record of the stream.
pub fn sequence_number(number: u64) -> SequenceNumber {
    SequenceNumber::from(FIRST_SEQUENCE_NUMBER + u128::from(number))
}

/// Returns the record number of a sequence number.
pub fn record_number(sequence_number: &SequenceNumber) -> u64 {
    let number = sequence_number.as_str().parse::<u128>().unwrap_or_default();
    u64::try_from(number.saturating_sub(FIRST_SEQUENCE_NUMBER)).unwrap_or(u64::MAX)
}

/// Returns the shard number of a shard id.
pub fn shard_number(shard_id: &ShardId) -> ShardNumber {
    shard_id.as_str().rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

/// Shards of a stream that was created again are numbered from the next multiple of this.
pub const SHARDS_PER_LIFE: ShardNumber = 10_000;

/// Returns the number of a shard of a stream: `life` counts how many times the stream was created again.
pub fn shard_of_life(life: u32, shard_id: &ShardId) -> ShardNumber {
    life.saturating_mul(SHARDS_PER_LIFE).saturating_add(shard_number(shard_id))
}

/// Returns the number of a shard of the stream with this identity.
pub fn shard_of(stream: Option<&StreamIdentity>, shard_id: &ShardId) -> ShardNumber {
    // The stream of the fan-out service has another ARN, and is never created again.
    let ours = stream.filter(|stream| stream.arn == STREAM_ARN);
    let life = ours.map_or(0, |stream| stream.creation_epoch_seconds.saturating_sub(FIRST_CREATION_EPOCH));
    shard_of_life(u32::try_from(life).unwrap_or(u32::MAX), shard_id)
}

/// The ARN of the stream.
pub const STREAM_ARN: &str = "arn:simulated";

/// When the first stream was created, in seconds.
pub const FIRST_CREATION_EPOCH: u64 = 1;

/// The position of a record in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPosition {
    /// Number of the (aggregated) record.
    pub record: u64,
    /// Number inside the aggregate.
    pub sub: u64,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub {
            0 => write!(formatter, "{}", self.record),
            sub => write!(formatter, "{}/{sub}", self.record),
        }
    }
}

/// How far a shard is read, as a checkpoint; ordered like positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadPosition {
    /// A sentinel: no record is done.
    Start,
    /// All records up to this one are done.
    After(RecordPosition),
    /// The shard is read to its end.
    End,
}

impl ReadPosition {
    /// Converts a checkpoint.
    pub fn of(position: &Position) -> Self {
        match position {
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest => Self::Start,
            Position::After(record) => Self::After(RecordPosition {
                record: record_number(&record.sequence_number),
                sub: record.sub_sequence_number,
            }),
            Position::ShardEnd => Self::End,
        }
    }
}

impl fmt::Display for ReadPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => formatter.write_str("start"),
            Self::After(at) => at.fmt(formatter),
            Self::End => formatter.write_str("end"),
        }
    }
}

/// The parts of a lease row that the checks use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The lease owner.
    pub owner: Option<Name>,
    /// The former owner during a hand-over of the KCL 3.x, which still renews.
    pub handed_over_by: Option<Name>,
    /// The lease counter.
    pub counter: u64,
    /// How far the shard is read.
    pub checkpoint: ReadPosition,
    /// The worker that requests the lease.
    pub requested_by: Option<Name>,
    /// The start time stored in the row, in milliseconds of the simulation.
    pub starts_at: Option<u64>,
    /// The position and start time that an operator asks the owner to store.
    pub asked: Option<(ReadPosition, Option<u64>)>,
    /// The end of the pause in the row, in milliseconds of the simulation.
    pub paused_until: Option<u64>,
}

impl Row {
    /// Converts a lease; `name` numbers the workers.
    pub fn of(lease: &Lease, mut name: impl FnMut(&str) -> Name) -> Self {
        Self {
            owner: lease.owner.as_ref().map(|owner| name(owner.as_str())),
            handed_over_by: lease.checkpoint_owner.as_ref().map(|owner| name(owner.as_str())),
            counter: lease.counter,
            checkpoint: ReadPosition::of(&lease.checkpoint),
            requested_by: lease.requested_by.as_ref().map(|worker| name(worker.as_str())),
            starts_at: lease.initial_time_millis.map(|millis| millis.saturating_sub(EPOCH_MILLIS)),
            asked: lease.owner_request().and_then(|request| match request.action {
                OwnerAction::Reset { position, initial_time_millis } => Some((
                    ReadPosition::of(&position),
                    initial_time_millis.map(|millis| millis.saturating_sub(EPOCH_MILLIS)),
                )),
                OwnerAction::Release => None,
            }),
            paused_until: lease
                .pause()
                .map(|pause| pause.until_millis.map_or(u64::MAX, |until| until.saturating_sub(EPOCH_MILLIS))),
        }
    }
}

/// The kind of a write to the lease table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// Creates a row.
    Create,
    /// Renews the lease.
    Renew,
    /// Writes a checkpoint.
    Checkpoint,
    /// Takes the lease for a new owner.
    Take,
    /// The owner hands the lease over to the worker that requested it.
    HandOver,
    /// Requests the lease.
    Request,
    /// Withdraws a request.
    Withdraw,
    /// The owner offers the lease to the requester.
    Offer,
    /// The owner releases the lease.
    Release,
    /// Someone leaves or removes the note of an operator.
    Note,
    /// Someone stores the position that an operator asked for, and frees the lease.
    Reset,
    /// Deletes the row.
    Delete,
    /// Any other write.
    Other,
}

impl WriteKind {
    /// Returns the kind of a write.
    pub fn of(write: &LeaseWrite) -> Self {
        match write {
            LeaseWrite::Create(_) => Self::Create,
            LeaseWrite::Delete { .. } => Self::Delete,
            LeaseWrite::Update { change, .. } => match change.without_report() {
                LeaseChange::Renew => Self::Renew,
                LeaseChange::Checkpoint { .. } => Self::Checkpoint,
                LeaseChange::Take { .. } => Self::Take,
                LeaseChange::HandOver { .. } => Self::HandOver,
                LeaseChange::Request { .. } => Self::Request,
                LeaseChange::Withdraw { .. } => Self::Withdraw,
                LeaseChange::Offer => Self::Offer,
                LeaseChange::Release => Self::Release,
                LeaseChange::AskOwner { .. } | LeaseChange::Pause { .. } => Self::Note,
                LeaseChange::Reset { .. } => Self::Reset,
                LeaseChange::PrepareCheckpoint(_) | LeaseChange::Reported { .. } => Self::Other,
            },
        }
    }
}

impl fmt::Display for WriteKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Create => "create",
            Self::Renew => "renew",
            Self::Checkpoint => "checkpoint",
            Self::Take => "take",
            Self::HandOver => "hand over",
            Self::Request => "request",
            Self::Withdraw => "withdraw",
            Self::Offer => "offer",
            Self::Release => "release",
            Self::Note => "note",
            Self::Reset => "reset",
            Self::Delete => "delete",
            Self::Other => "write",
        })
    }
}

/// The writer of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A process that runs the real crates.
    Ours(Process),
    /// A process that follows the rules of the KCL 2.x.
    Kcl(Process),
    /// An outsider, which should not write.
    Outsider,
    /// An operator who carries out a plan.
    Operator,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A shard was created.
    ShardCreated {
        /// The shard.
        shard: ShardNumber,
        /// Its parents.
        parents: Vec<ShardNumber>,
        /// Its first and last hash key.
        range: (u128, u128),
        /// When a listing shows it, in milliseconds.
        visible_at: u64,
    },
    /// A shard was closed for new records.
    ShardClosed {
        /// The shard.
        shard: ShardNumber,
    },
    /// A record was put. `subs` names the sub-records that belong to the shard.
    RecordPut {
        /// The shard.
        shard: ShardNumber,
        /// The record.
        record: u64,
        /// The sub-sequence numbers; a plain record has only 0.
        subs: Vec<u64>,
    },
    /// Retention removed all records of a shard before this one.
    RecordsTrimmed {
        /// The shard.
        shard: ShardNumber,
        /// The oldest remaining record; `u64::MAX` once the whole shard is removed.
        before: u64,
    },
    /// A process started.
    ProcessStarted {
        /// The process.
        process: Process,
        /// Its worker name.
        name: Name,
        /// Its clock, in permille of the true rate: at 1100 every wait takes a tenth longer.
        clock: u64,
        /// Whether it follows the rules of the KCL.
        is_kcl: bool,
    },
    /// A process was killed.
    ProcessCrashed {
        /// The process.
        process: Process,
    },
    /// A process was asked to stop.
    StopRequested {
        /// The process.
        process: Process,
    },
    /// A process ended on its own.
    ProcessEnded {
        /// The process.
        process: Process,
        /// The result that it reported.
        how: String,
        /// Whether it reported that it left nothing to others.
        is_drained: bool,
    },
    /// A process failed to start, and starts again.
    StartFailed {
        /// The process.
        process: Process,
        /// The error.
        why: String,
        /// Whether stream and lease table do not belong together.
        is_wrong_stream: bool,
    },
    /// A process learnt the identity of the stream.
    StreamDescribed {
        /// The process.
        process: Process,
        /// How many times that stream was created again.
        life: u32,
    },
    /// The stream was deleted, with its shards and records.
    StreamRemoved,
    /// The stream was created again.
    StreamCreated {
        /// How many times.
        life: u32,
    },
    /// A fault began that may cost leases or answers: of one process, or of all with `None`.
    Disturbed {
        /// The process.
        process: Option<Process>,
        /// Duration in milliseconds.
        for_millis: u64,
        /// The fault.
        description: String,
    },
    /// A process started to work on a shard.
    ShardStarted {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// Fencing token: the lease counter.
        token: u64,
        /// Its starting position.
        start: ReadPosition,
    },
    /// A reader of a shard was opened. It does not know the subscriptions of earlier readers.
    ReaderOpened {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
    },
    /// A subscription to a shard changed its state.
    Subscription {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// The subscription; 0 before it is accepted.
        session: u64,
        /// The new state.
        step: SubscriptionStep,
    },
    /// A reader returned new records.
    RecordsRead {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// Number of records.
        count: usize,
        /// Whether it reached the end of the shard.
        is_end: bool,
    },
    /// A batch was delivered to the application.
    Delivered(Batch),
    /// The application acknowledged a batch.
    Acknowledged(Batch),
    /// The application failed on a batch.
    BatchFailed(Batch, &'static str),
    /// The handler was cancelled in the middle of a batch.
    BatchCancelled(Batch),
    /// The application was notified that the lease is lost.
    LeaseLost {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// Fencing token: the lease counter.
        token: u64,
    },
    /// A write was applied to the table.
    LeaseWritten {
        /// The writer.
        by: Writer,
        /// The shard of the row.
        shard: ShardNumber,
        /// The kind of write.
        kind: WriteKind,
        /// The row before the write.
        before: Option<Row>,
        /// The row after the write.
        after: Option<Row>,
        /// When the writer sent it, in milliseconds.
        sent_at: u64,
    },
    /// The table refused a write because its condition did not hold.
    WriteRefused {
        /// The writer.
        by: Writer,
        /// The shard of the row.
        shard: ShardNumber,
        /// The kind of write.
        kind: WriteKind,
    },
    /// A call for a row takes seconds, where calls have long tails.
    SlowCall {
        /// The process.
        process: Process,
        /// The shard of the row.
        shard: ShardNumber,
    },
    /// An outsider deleted the table, after its rows.
    TableRemoved,
    /// The table was created again, without rows.
    TableCreated,
    /// The plan of an operator to adopt the table is not refused.
    AdoptionAllowed,
    /// The faults are over.
    FaultsOver,
    /// A free-form line of the trace.
    Note(String),
}

/// The states of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionStep {
    /// The reader asked for a subscription.
    Requested,
    /// The service refused it with this code.
    Refused(&'static str),
    /// The service accepted it.
    Accepted,
    /// The connection stays open and sends nothing from now on.
    Silent,
    /// It ended for this reason.
    Over(&'static str),
}

/// A batch that the application works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The process.
    pub process: Process,
    /// The shard.
    pub shard: ShardNumber,
    /// Fencing token: the lease counter.
    pub token: u64,
    /// The first record.
    pub first: RecordPosition,
    /// The last record.
    pub last: RecordPosition,
    /// Number of records.
    pub count: usize,
    /// Whether its records are in ascending order.
    pub is_sorted: bool,
    /// The delivery attempt where the application acknowledges late; 0 elsewhere.
    pub late_attempt: u32,
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Virtual milliseconds since the start.
    pub at: u64,
    /// The event.
    pub kind: EventKind,
}
