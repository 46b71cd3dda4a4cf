//! What happens in a simulation, as data: one event is one line of the trace.

use std::fmt;

use lease_store::{Lease, LeaseChange, LeaseWrite, Position, SequenceNumber, ShardId};

/// The number of a name (a worker, or an actor of the simulator) in the order of appearance.
pub type Name = u32;

/// The number of a process: a worker that crashes and comes back under its name is another process.
pub type Process = u32;

/// The number of a shard, as in its id.
pub type ShardNumber = u32;

/// The wall clock of the stream at the start, 2026-01-01, in milliseconds since 1970.
pub const EPOCH_MILLIS: u64 = 1_767_225_600_000;

/// The first sequence number: wider than any 64-bit integer, as those of Kinesis are.
const FIRST_SEQUENCE_NUMBER: u128 = 10u128.pow(38);

/// The sequence number of the n-th record of the stream.
pub fn sequence_number(number: u64) -> SequenceNumber {
    SequenceNumber::from(FIRST_SEQUENCE_NUMBER + u128::from(number))
}

/// Which record of the stream has this sequence number.
pub fn record_number(sequence_number: &SequenceNumber) -> u64 {
    let number = sequence_number.as_str().parse::<u128>().unwrap_or_default();
    u64::try_from(number.saturating_sub(FIRST_SEQUENCE_NUMBER)).unwrap_or(u64::MAX)
}

/// Which shard has this id.
pub fn shard_number(shard_id: &ShardId) -> ShardNumber {
    shard_id.as_str().rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

/// The place of a record in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The number of the (aggregated) record.
    pub record: u64,
    /// The number inside the aggregate.
    pub sub: u64,
}

impl fmt::Display for At {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub {
            0 => write!(formatter, "{}", self.record),
            sub => write!(formatter, "{}/{sub}", self.record),
        }
    }
}

/// A checkpoint, in the order of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A sentinel: nothing is done.
    Start,
    /// Everything up to this record is done.
    After(At),
    /// The shard is read to its end.
    End,
}

impl Place {
    /// The place that a position stands for.
    pub fn of(position: &Position) -> Self {
        match position {
            Position::AtTimestamp | Position::TrimHorizon | Position::Latest => Self::Start,
            Position::After(record) => Self::After(At {
                record: record_number(&record.sequence_number),
                sub: record.sub_sequence_number,
            }),
            Position::ShardEnd => Self::End,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => formatter.write_str("start"),
            Self::After(at) => at.fmt(formatter),
            Self::End => formatter.write_str("end"),
        }
    }
}

/// A row of the table, as far as the checks look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Who owns it.
    pub owner: Option<Name>,
    /// The lease counter.
    pub counter: u64,
    /// How far the shard is read.
    pub checkpoint: Place,
    /// Who asks for it.
    pub requested_by: Option<Name>,
    /// The instant at which its line starts, in milliseconds of the simulation, where the row keeps one.
    pub starts_at: Option<u64>,
}

impl Row {
    /// The row of a lease; `name` numbers the workers.
    pub fn of(lease: &Lease, mut name: impl FnMut(&str) -> Name) -> Self {
        Self {
            owner: lease.owner.as_ref().map(|owner| name(owner.as_str())),
            counter: lease.counter,
            checkpoint: Place::of(&lease.checkpoint),
            requested_by: lease.requested_by.as_ref().map(|worker| name(worker.as_str())),
            starts_at: lease.initial_time_millis.map(|millis| millis.saturating_sub(EPOCH_MILLIS)),
        }
    }
}

/// What kind of write it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// A new row.
    Create,
    /// A heartbeat.
    Renew,
    /// A position.
    Checkpoint,
    /// A new owner.
    Take,
    /// The owner gives it to whoever asks.
    HandOver,
    /// A request for a lease.
    Request,
    /// A request taken back.
    Withdraw,
    /// An offer to others.
    Offer,
    /// The owner gives it up.
    Release,
    /// The row goes.
    Delete,
    /// Anything else.
    Other,
}

impl WriteKind {
    /// The kind of a write.
    pub fn of(write: &LeaseWrite) -> Self {
        match write {
            LeaseWrite::Create(_) => Self::Create,
            LeaseWrite::Delete { .. } => Self::Delete,
            LeaseWrite::Update { change, .. } => match change {
                LeaseChange::Renew => Self::Renew,
                LeaseChange::Checkpoint { .. } => Self::Checkpoint,
                LeaseChange::Take { .. } => Self::Take,
                LeaseChange::HandOver { .. } => Self::HandOver,
                LeaseChange::Request { .. } => Self::Request,
                LeaseChange::Withdraw { .. } => Self::Withdraw,
                LeaseChange::Offer => Self::Offer,
                LeaseChange::Release => Self::Release,
                LeaseChange::Prepare(_) => Self::Other,
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
            Self::Delete => "delete",
            Self::Other => "write",
        })
    }
}

/// Who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A process that runs the real crates.
    Ours(Process),
    /// A process that plays by the rules of the KCL 2.x.
    Kcl(Process),
    /// Somebody who should not.
    Stranger,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A shard came into being.
    Born {
        /// Which.
        shard: ShardNumber,
        /// Its parents.
        parents: Vec<ShardNumber>,
        /// The first and last hash key.
        range: (u128, u128),
        /// When a listing shows it, in milliseconds.
        visible_at: u64,
    },
    /// A shard takes no more records.
    Closed {
        /// Which.
        shard: ShardNumber,
    },
    /// A record was put; these of its parts belong to the shard.
    Put {
        /// The shard it went to.
        shard: ShardNumber,
        /// The record.
        record: u64,
        /// Numbers inside the aggregate; only 0 for a plain record.
        subs: Vec<u64>,
    },
    /// The retention period removed all records of a shard before this one.
    Trimmed {
        /// The shard.
        shard: ShardNumber,
        /// The oldest record that is left; `u64::MAX`: the shard is gone.
        before: u64,
    },
    /// A process came up.
    Started {
        /// Which process.
        process: Process,
        /// Under which name.
        name: Name,
        /// Its clock, in permille of the true rate: at 1100 everything takes it a tenth longer.
        clock: u64,
        /// Whether it plays by the rules of the KCL.
        is_kcl: bool,
    },
    /// A process was killed.
    Crashed {
        /// Which.
        process: Process,
    },
    /// A process was asked to end.
    StopAsked {
        /// Which.
        process: Process,
    },
    /// A process ended by itself.
    Ended {
        /// Which.
        process: Process,
        /// What it said about it.
        how: String,
    },
    /// The start of a process failed, and it is started again.
    StartFailed {
        /// Which.
        process: Process,
        /// Why.
        why: String,
    },
    /// A fault that makes this process (all without one) lose leases or answers for some time began.
    Disturbed {
        /// Which.
        process: Option<Process>,
        /// How long, in milliseconds.
        for_millis: u64,
        /// What it is.
        what: String,
    },
    /// A process began to work on a shard.
    Began {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// The counter of its lease.
        token: u64,
        /// Where it starts.
        start: Place,
    },
    /// A reader of a shard was made anew. It knows nothing of those before it.
    Opened {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
    },
    /// A subscription to a shard takes a step.
    Subscription {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// Which subscription; 0 while there is none.
        session: u64,
        /// The step.
        step: SubscriptionStep,
    },
    /// Records were read that are new for the reader.
    Read {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// How many.
        count: usize,
        /// Whether the end was seen.
        is_end: bool,
    },
    /// A batch was handed to the application.
    Delivered(Batch),
    /// The application acknowledged a batch.
    Acknowledged(Batch),
    /// The application failed on a batch.
    Refused(Batch, &'static str),
    /// The application was cut off in the middle of a batch.
    CutOff(Batch),
    /// The application was told that the lease is lost.
    LossTold {
        /// The process.
        process: Process,
        /// The shard.
        shard: ShardNumber,
        /// The counter of its lease.
        token: u64,
    },
    /// A write stands in the table.
    Written {
        /// Who.
        by: Writer,
        /// The row.
        shard: ShardNumber,
        /// The kind.
        kind: WriteKind,
        /// The row before.
        before: Option<Row>,
        /// The row after.
        after: Option<Row>,
        /// When it was asked for, in milliseconds.
        asked_at: u64,
    },
    /// A write whose condition did not hold.
    Lost {
        /// Who.
        by: Writer,
        /// The row.
        shard: ShardNumber,
        /// The kind.
        kind: WriteKind,
    },
    /// The faults are over.
    Quiet,
    /// Anything else worth a line.
    Note(String),
}

/// What happens to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionStep {
    /// The service is asked for one.
    Asked,
    /// The service refuses, with this code.
    Refused(&'static str),
    /// The service accepts.
    Accepted,
    /// From now on nothing comes, though the connection stays.
    Silent,
    /// It has ended, in this way.
    Over(&'static str),
}

/// A batch in the hands of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The process.
    pub process: Process,
    /// The shard.
    pub shard: ShardNumber,
    /// The counter of the lease.
    pub token: u64,
    /// The first record.
    pub first: At,
    /// The last record.
    pub last: At,
    /// How many.
    pub count: usize,
    /// Whether its records come one after another as their numbers do.
    pub is_sorted: bool,
    /// Which attempt it is, where the application acknowledges late; 0 where it does not.
    pub late_attempt: u32,
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Milliseconds since the start, in virtual time.
    pub at: u64,
    /// What happened.
    pub what: What,
}
