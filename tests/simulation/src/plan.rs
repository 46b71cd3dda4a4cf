//! A simulation as plain data: the fleet, the stream, and the faults with their times. Everything else follows from
//! it.

use fastrand::Rng;

use crate::scenario::Scenario;

/// A complete simulation: the same plan gives the same trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Seed of every generator.
    pub seed: u64,
    /// Scenario that the plan was drawn for.
    pub scenario: Scenario,
    /// Number of workers at the start.
    pub workers: u64,
    /// Number of additional workers that follow the rules of the KCL.
    pub kcl_workers: u64,
    /// Number of shards at the start.
    pub shards: u64,
    /// Average time between two records, in milliseconds.
    pub record_interval: u64,
    /// Percentage of records that are aggregates.
    pub aggregates: u64,
    /// Largest deviation of a process clock from the true rate, in permille.
    pub clock_spread: u64,
    /// Earliest time at which the faults count as over, in milliseconds.
    pub quiet_from: u64,
    /// Faults in order of time.
    pub faults: Vec<Fault>,
    /// Initial position of the application.
    pub start: Start,
    /// When the first worker can start, in milliseconds: the stream is older than the fleet.
    pub workers_from: u64,
    /// All of the first workers start within this many milliseconds.
    pub workers_within: u64,
    /// Whether `kinesis-asl` reads the shards, most of them by fan-out.
    pub is_fan_out: bool,
    /// Whether KCL workers call over the faulty network and can be paused.
    pub kcl_can_fail: bool,
    /// Whether the applications acknowledge late and out of order.
    pub acknowledges_late: bool,
    /// Whether one call of a hundred takes five seconds.
    pub has_long_tails: bool,
    /// When the services are back after the start, in milliseconds: by a minute later every worker must run.
    pub back_at: Option<u64>,
    /// The table that a fleet of the KCL leaves to an operator who adopts it.
    pub former_fleet: Option<FormerFleet>,
    /// Whether the workers read a second stream too, as one consumer of several streams. No scenario draws it.
    pub has_second_stream: bool,
    /// A seeded defect that a check must find. Only the simulator's own tests set one.
    pub defect: Option<Defect>,
}

/// A table as a fleet of the KCL leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerFleet {
    /// Whether a leader assigns the leases: our workers are refused until the mode is pinned, and workers of the KCL report
    /// about themselves, also those without leases.
    pub is_led: bool,
    /// Whether the rows begin at `LATEST` without an instant. Only where our workers wait for the operator.
    pub is_latest: bool,
}

/// Initial position of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    TrimHorizon,
    /// At the tip.
    Latest,
    /// At this time, in milliseconds of the simulation.
    AtTimestamp(u64),
}

/// A fault or a change, with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it happens, in milliseconds.
    pub at: u64,
    /// The fault.
    pub kind: FaultKind,
}

/// The kinds of faults. A number of any size selects a worker or shard among the existing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A process is killed and restarted.
    Crash {
        /// Selects the worker.
        worker: u64,
        /// Milliseconds until the restart.
        back_after: u64,
        /// Whether it restarts under its old name.
        same_name: bool,
    },
    /// A process gets no answers and sends nothing.
    Pause {
        /// Selects the worker.
        worker: u64,
        /// Duration in milliseconds.
        for_millis: u64,
    },
    /// A process is cut off from a service.
    Partition {
        /// Selects the worker.
        worker: u64,
        /// Duration in milliseconds.
        for_millis: u64,
        /// Whether the table is unreachable.
        table: bool,
        /// Whether the stream is unreachable.
        stream: bool,
        /// Whether requests still arrive and only answers are lost.
        is_one_way: bool,
    },
    /// The table returns faults to all processes.
    TableFaults {
        /// Duration in milliseconds.
        for_millis: u64,
        /// The fault rates.
        rates: FaultRates,
    },
    /// The stream returns faults to all processes.
    StreamFaults {
        /// Duration in milliseconds.
        for_millis: u64,
        /// The fault rates.
        rates: FaultRates,
    },
    /// A shard is split, or two neighbours are merged.
    Reshard {
        /// Selects the shard.
        shard: u64,
        /// Whether to merge it with its neighbour.
        is_merge: bool,
        /// For this many milliseconds no listing shows the children.
        hidden_for: u64,
    },
    /// Records older than this are removed.
    Trim {
        /// Age in milliseconds.
        older_than: u64,
    },
    /// An outsider deletes a row of the lease table.
    DeleteRow {
        /// Selects the row.
        row: u64,
    },
    /// An outsider deletes several rows of the lease table at once.
    DeleteRows {
        /// Selects the first row.
        first: u64,
        /// Number of rows; the table may have fewer.
        count: u64,
    },
    /// An operator changes the position in a row of the lease table.
    EditRow {
        /// Selects the row.
        row: u64,
        /// The new position.
        edit: RowEdit,
        /// Whether the operator increments the counter, as a conditional write does. The holder then loses the lease.
        raises_counter: bool,
    },
    /// An operator sets all rows back to `TRIM_HORIZON`.
    RewindAll,
    /// An outsider deletes the lease table. It is created again, without rows, after a while or by a worker that starts.
    RemoveTable {
        /// Milliseconds until it is created again.
        for_millis: u64,
    },
    /// The stream is deleted and created again under its name. The operator deletes the rows of the old stream.
    RecreateStream {
        /// Milliseconds until it exists again.
        gone_for: u64,
        /// Number of shards of the new stream.
        shards: u64,
        /// Milliseconds from then on until the operator acts.
        operator_after: u64,
    },
    /// The application of one worker misbehaves.
    Handler {
        /// Selects the worker.
        worker: u64,
        /// Duration in milliseconds.
        for_millis: u64,
        /// The misbehaviour.
        handler_fault: HandlerFault,
    },
    /// A worker joins.
    Join,
    /// Another process starts under the name of a live worker.
    Clone {
        /// Selects the worker.
        worker: u64,
    },
    /// A worker is asked to stop.
    Leave {
        /// Selects the worker.
        worker: u64,
    },
    /// A new worker starts, and an old one is asked to stop.
    Replace {
        /// Selects the worker.
        worker: u64,
        /// Milliseconds between the two.
        after: u64,
        /// Whether the new worker reuses the old name. The old worker then stops first.
        same_name: bool,
    },
    /// An outsider deregisters the consumer of the fleet.
    Deregister,
    /// A worker that follows the rules of the KCL joins.
    KclJoin,
    /// An operator changes the fleet by the plans of `fleet-view`.
    Operate {
        /// Selects the row.
        row: u64,
        /// What the operator wants.
        operation: Operation,
    },
    /// The leader of a KCL fleet begins to hand a lease over to a worker that never takes it.
    KclHandOver {
        /// Selects the row.
        row: u64,
    },
    /// A KCL worker is killed. These workers never stop gracefully.
    KclLeave {
        /// Selects the worker.
        worker: u64,
    },
}

/// What an operator wants of a running fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Other positions.
    Reset {
        /// Which ones.
        kind: ResetKind,
        /// Of all shards instead of one and its descendants.
        all: bool,
    },
    /// Another owner, whichever it is.
    Release,
    /// This owner.
    Assign {
        /// The number in the name of the worker.
        worker: u64,
    },
    /// No reading for a while.
    PauseShard {
        /// Duration in milliseconds.
        for_millis: u64,
        /// Of all shards instead of one.
        all: bool,
    },
    /// The end of all pauses.
    Resume,
    /// The table of a KCL fleet for our workers. A refused operator comes back.
    Adopt,
}

/// The positions of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetKind {
    /// The oldest records.
    TrimHorizon,
    /// The tip.
    Latest,
    /// The records of the newest time span, in milliseconds.
    Ago(u64),
    /// The stored positions, moved by a number of records.
    Moved {
        /// How many.
        records: u64,
        /// Whether records are skipped instead of read again.
        is_forward: bool,
    },
}

/// The position that an operator writes into a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEdit {
    /// This many records before the stored one.
    Back(u64),
    /// This many records after the stored one.
    Forward(u64),
    /// `TRIM_HORIZON`.
    Start,
}

/// Fault rates of a service, in permille of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates {
    /// Calls that are throttled.
    pub throttled: u64,
    /// Calls that fail as unavailable.
    pub unavailable: u64,
    /// Writes that are applied and get no answer. Reads: an empty page.
    pub answer_lost: u64,
    /// Writes that are lost and get no answer. Reads: an expired iterator.
    pub request_lost: u64,
    /// Writes that are applied much later and get no answer.
    pub delayed: u64,
    /// Answers that take between 0.3 and 3 seconds.
    pub slow: u64,
    /// Answers of the stream that say nothing: without content, without a continuation, or with another body.
    pub odd: u64,
}

/// How a handler misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandlerFault {
    /// Half of the batches fail.
    Errors,
    /// Half of the batches panic.
    Panics,
    /// Each batch takes this many milliseconds.
    Slow(u64),
    /// A batch does not end before the fault does.
    Hangs,
}

/// A seeded defect, which must break one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The stream leaves records out.
    StreamSkips,
    /// Batches reach the application in reverse order.
    BatchesReversed,
    /// Listings show unfinished parents as finished.
    ParentsLookFinished,
    /// The table ignores the conditions of writes.
    ConditionsIgnored,
    /// The table sets the counter of a row back now and then.
    CountersGoBack,
    /// The table confirms the rows of children and does not store them.
    ChildrenNotStored,
    /// Listings show the rows of children as finished.
    ChildrenLookFinished,
    /// The table confirms checkpoints and does not store them.
    CheckpointsNotStored,
    /// One worker holds at most one lease.
    OneLeaseOnly,
    /// An outsider takes leases from live workers while the fleet is balanced.
    LeasesStolen,
    /// Requests to stop do not reach the processes.
    StopsIgnored,
    /// The table panics.
    TablePanics,
    /// The table stores a start time for some rows that is later than the true one.
    StartTimesDiffer,
    /// The stream ignores `AT_TIMESTAMP` and starts at the oldest record.
    TimestampsIgnored,
    /// Listings show every position as the oldest record.
    ListingsForget,
    /// Descriptions of a stream that was created again show the identity of the old one.
    IdentityStays,
    /// Listings of leases take nine seconds longer.
    ListingsLate,
    /// The account allows no description of the stream for three minutes more.
    DescriptionsRefused,
    /// A reader waits five minutes before it replaces a silent subscription.
    SilenceTolerated,
    /// Readers resubscribe without waiting for the minimum interval.
    ResubscribesTooSoon,
    /// An edit of a row also moves the other rows, to a position beyond the newest record.
    EditsSpill,
    /// The continuation of an answer without records passes the records that it left out.
    OddAnswersSkip,
    /// Listings and answers show workers no pauses.
    PausesHidden,
    /// A reset passes more records than were asked for.
    ResetsSpill,
    /// The looks of an operator show each counter as at the first one.
    RenewalsHidden,
}

/// The longest that an operation on the running fleet takes without its pause, in milliseconds: the looks, the changes, and the
/// drain time of an asked owner.
pub const OPERATION_MILLIS: u64 = 140_000;

/// The longest that an operator tries to adopt a table, in milliseconds. Each try takes one time of looks.
pub const ADOPTION_MILLIS: u64 = 480_000;

/// How long the operator watches a stream that was created again, in milliseconds.
pub const OPERATOR_MILLIS: u64 = 150_000;

impl Plan {
    /// When the last fault ends, in milliseconds.
    pub fn last_fault_end(&self) -> u64 {
        let over = |fault: &Fault| fault.at + fault.kind.duration();
        self.faults.iter().map(over).max().unwrap_or(0).max(self.quiet_from)
    }

    /// Creates a generator for one part of the simulation, independent of all other parts.
    pub fn rng(&self, part: &str, number: u64) -> Rng {
        // FNV-1a: any stable hash works.
        let hash = part.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Rng::with_seed(self.seed ^ hash.rotate_left(17) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl FaultKind {
    /// How long it lasts, in milliseconds.
    pub fn duration(&self) -> u64 {
        match *self {
            Self::Crash { back_after, .. } => back_after,
            Self::Pause { for_millis, .. }
            | Self::Partition { for_millis, .. }
            | Self::TableFaults { for_millis, .. }
            | Self::StreamFaults { for_millis, .. }
            | Self::RemoveTable { for_millis }
            | Self::Handler { for_millis, .. } => for_millis,
            Self::Reshard { hidden_for, .. } => hidden_for,
            Self::RecreateStream { gone_for, operator_after, .. } => {
                gone_for + operator_after + OPERATOR_MILLIS
            }
            // A stop takes at most the drain time.
            Self::Replace { after, .. } => after + 45_000,
            Self::Operate { operation: Operation::PauseShard { for_millis, .. }, .. } => {
                OPERATION_MILLIS + for_millis
            }
            Self::Operate { operation: Operation::Adopt, .. } => ADOPTION_MILLIS,
            Self::Operate { .. } => OPERATION_MILLIS,
            Self::Trim { .. }
            | Self::DeleteRow { .. }
            | Self::DeleteRows { .. }
            | Self::EditRow { .. }
            | Self::RewindAll
            | Self::Deregister
            | Self::Join
            | Self::Clone { .. }
            | Self::Leave { .. }
            | Self::KclJoin
            | Self::KclHandOver { .. }
            | Self::KclLeave { .. } => 0,
        }
    }
}
