//! The promises, and the report of a broken one.

use std::fmt;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Every record is acknowledged in the end, and before a checkpoint passes it.
    NothingSkipped,
    /// Records are delivered in the order of their shard.
    Order,
    /// A child is read after its parents are done.
    ParentsFirst,
    /// Only the owner writes. A lease changes its owner only when it is free, handed over, expired, or its owner
    /// ignored a request. No holder works beyond its lease.
    OneOwner,
    /// Counters and checkpoints only move forward.
    Forward,
    /// The unfinished leases cover the hash-key space.
    Coverage,
    /// Shards created by a reshard are read.
    ChildrenRead,
    /// Acknowledged records are redelivered only where a fault explains it.
    Redelivery,
    /// The fleet shares the shards evenly.
    Balance,
    /// An undisturbed fleet moves no lease.
    Stability,
    /// Every process stops in time when asked.
    StopsInTime,
    /// No task panics.
    NoPanic,
    /// No record is delivered that arrived before the initial position.
    InitialPosition,
    /// Workers of a stream that was deleted and created again stop, and nothing crosses to the new stream.
    OneStream,
    /// A lease of a crashed process has a new owner in time.
    FailOver,
    /// No lease is lost by a live process that nothing disturbs.
    LeaseKept,
    /// A process that reports that it is drained leaves nothing behind.
    StopReport,
    /// Every worker runs within a minute after the services are back.
    StartsInTime,
    /// A reader keeps the minimum interval between two subscriptions to a shard.
    SubscribeInterval,
    /// A reader detects a silent subscription.
    SilenceDetected,
    /// No worker reads a paused shard.
    PauseKept,
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::NothingSkipped => "no record is skipped",
            Self::Order => "records are in order within a shard",
            Self::ParentsFirst => "parents are read before their children",
            Self::OneOwner => "a lease has one committed owner",
            Self::Forward => "counters and checkpoints move forward",
            Self::Coverage => "the leases cover the hash-key space",
            Self::ChildrenRead => "children of a reshard are read",
            Self::Redelivery => "redelivery needs a fault",
            Self::Balance => "the fleet balances its leases",
            Self::Stability => "a balanced fleet moves no lease",
            Self::StopsInTime => "every process stops in time",
            Self::NoPanic => "no task panics",
            Self::InitialPosition => "reading starts at the initial position",
            Self::OneStream => "nothing crosses from one stream to another",
            Self::FailOver => "a lease of a crashed process has a new owner in time",
            Self::LeaseKept => "no lease is lost without a reason",
            Self::StopReport => "stop reports are true",
            Self::StartsInTime => "a fleet starts in time",
            Self::SubscribeInterval => "subscriptions keep the minimum interval",
            Self::SilenceDetected => "a silent subscription is detected",
            Self::PauseKept => "no paused shard is read",
        })
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub promise: Promise,
    /// When it was broken, in milliseconds.
    pub at: u64,
    /// The observation.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at {} ms: {}: {}", self.at, self.promise, self.why)
    }
}

pub(super) type Verdict = Result<(), Violation>;
