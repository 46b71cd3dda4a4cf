//! A simulation as plain data: the fleet, the stream, and what goes wrong when. Everything else follows from it.

use fastrand::Rng;

use crate::scenario::Scenario;

/// The whole of a simulation: the same plan gives the same trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The seed of every generator.
    pub seed: u64,
    /// What it was made for.
    pub scenario: Scenario,
    /// How many workers start.
    pub workers: u64,
    /// How many workers of the KCL's kind start besides.
    pub kcl_workers: u64,
    /// How many shards there are at first.
    pub shards: u64,
    /// Milliseconds between two records, on average.
    pub record_interval: u64,
    /// How many of a hundred records are aggregates.
    pub aggregates: u64,
    /// The clocks differ by up to so many permille from the true rate.
    pub clock_spread: u64,
    /// When the faults are over, in milliseconds.
    pub quiet_at: u64,
    /// What goes wrong, in the order of the time.
    pub faults: Vec<Fault>,
    /// Where the application starts.
    pub start: Start,
    /// When the first worker starts, in milliseconds: the stream is older.
    pub workers_from: u64,
    /// Within how many milliseconds from then on all of the first workers start.
    pub workers_within: u64,
    /// Whether the shards are read by `kinesis-asl`, most of them by fan-out.
    pub is_fan_out: bool,
    /// Whether the calls of the KCL's workers go over a network, and their processes pause.
    pub kcl_can_fail: bool,
    /// Whether the applications acknowledge late and out of order.
    pub acknowledges_late: bool,
    /// A defect that a check must find; only the simulator's own tests set one.
    pub planted: Option<Planted>,
}

/// Where the application starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    TrimHorizon,
    /// At the tip.
    Latest,
    /// At this time, in milliseconds of the simulation.
    AtTimestamp(u64),
}

/// Something goes wrong, or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, in milliseconds.
    pub at: u64,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong. Workers and shards are chosen among those that are there, by a number of any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A process is killed and comes back.
    Crash {
        /// Which worker.
        worker: u64,
        /// After so many milliseconds.
        back_after: u64,
        /// Whether under its old name.
        same_name: bool,
    },
    /// A process gets no answers and sends nothing.
    Pause {
        /// Which worker.
        worker: u64,
        /// For so many milliseconds.
        for_millis: u64,
    },
    /// A process does not reach a service.
    Partition {
        /// Which worker.
        worker: u64,
        /// For so many milliseconds.
        for_millis: u64,
        /// The table is out of reach.
        table: bool,
        /// The stream is out of reach.
        stream: bool,
        /// What it sends arrives; only the answers are lost.
        is_one_way: bool,
    },
    /// The table behaves badly towards all.
    TableStorm {
        /// For so many milliseconds.
        for_millis: u64,
        /// How.
        weather: Weather,
    },
    /// The stream behaves badly towards all.
    StreamStorm {
        /// For so many milliseconds.
        for_millis: u64,
        /// How.
        weather: Weather,
    },
    /// A shard is split, or two neighbours are merged.
    Reshard {
        /// Which shard.
        shard: u64,
        /// Merge it with its neighbour.
        is_merge: bool,
        /// For so many milliseconds no listing shows the children.
        hidden_for: u64,
    },
    /// Records older than this are removed.
    Trim {
        /// In milliseconds.
        older_than: u64,
    },
    /// Somebody deletes a row.
    DeleteRow {
        /// Which one.
        row: u64,
    },
    /// The application of one worker misbehaves.
    Handler {
        /// Which worker.
        worker: u64,
        /// For so many milliseconds.
        for_millis: u64,
        /// How.
        mood: Mood,
    },
    /// A worker joins.
    Join,
    /// A worker is asked to stop.
    Leave {
        /// Which worker.
        worker: u64,
    },
    /// A worker is started, and an old one asked to stop when it runs.
    Replace {
        /// Which worker.
        worker: u64,
        /// So many milliseconds later.
        after: u64,
        /// The new one has the name of the old one, which is stopped first.
        same_name: bool,
    },
    /// Somebody deregisters the consumer of the fleet.
    Deregister,
    /// A worker of the KCL's kind joins.
    KclJoin,
    /// A worker of the KCL's kind is killed, which is how it always ends.
    KclLeave {
        /// Which one.
        worker: u64,
    },
}

/// How a service behaves; shares in permille of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Refused for the load.
    pub throttled: u64,
    /// Refused for no reason.
    pub unavailable: u64,
    /// Writes: done, but the answer never comes. Reads: an empty page.
    pub applied: u64,
    /// Writes: lost, and no answer comes. Reads: the iterator has expired.
    pub dropped: u64,
    /// Writes: done much later, and no answer comes.
    pub late: u64,
    /// Slow answers, from a third of a second to three seconds.
    pub slow: u64,
}

/// How an application behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Half of the batches fail.
    Errors,
    /// Half of the batches panic.
    Panics,
    /// Each batch takes so many milliseconds.
    Slow(u64),
    /// A batch does not end until this time is over.
    Hangs,
}

/// A defect of the world that must break one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The stream leaves records out.
    StreamSkips,
    /// The application sees batches back to front.
    BackToFront,
    /// Listings show unfinished parents as finished.
    ParentsLookDone,
    /// The table does not look at conditions.
    Unconditional,
    /// The table puts an older row back now and then.
    RowsGoBack,
    /// The table confirms new rows behind a reshard and does not keep them.
    ChildrenForgotten,
    /// Listings show the rows of children as finished.
    ChildrenLookDone,
    /// The table confirms positions and does not keep them.
    CheckpointsForgotten,
    /// One worker takes no more than one lease.
    OneLeaseOnly,
    /// Somebody takes leases from live workers, as if they had expired, when the fleet is at rest.
    Restless,
    /// Requests to stop do not reach the processes.
    Deaf,
    /// The table panics.
    TablePanics,
    /// The table keeps for some lines that they start later than they do.
    InstantsDiffer,
    /// The stream takes no notice of the time that a reader asks for, and begins at the oldest record.
    TimesIgnored,
    /// A subscription that is silent is not given up for five minutes.
    SilenceUnnoticed,
    /// Readers subscribe anew whenever they like.
    Impatient,
}

impl Plan {
    /// The plan of a scenario for a seed.
    pub fn of(scenario: Scenario, seed: u64) -> Self {
        scenario.plan(seed)
    }

    /// When the last fault is over, in milliseconds.
    pub fn calm_at(&self) -> u64 {
        let over = |fault: &Fault| fault.at + fault.kind.duration();
        self.faults.iter().map(over).max().unwrap_or(0).max(self.quiet_at)
    }

    /// A generator for one part of the simulation, independent of all other parts.
    pub fn rng(&self, part: &str, number: u64) -> Rng {
        // FNV-1a: any stable hash will do.
        let hash = part.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Rng::with_seed(self.seed ^ hash.rotate_left(17) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl FaultKind {
    /// How long it takes, in milliseconds.
    pub fn duration(&self) -> u64 {
        match *self {
            Self::Crash { back_after, .. } => back_after,
            Self::Pause { for_millis, .. }
            | Self::Partition { for_millis, .. }
            | Self::TableStorm { for_millis, .. }
            | Self::StreamStorm { for_millis, .. }
            | Self::Handler { for_millis, .. } => for_millis,
            Self::Reshard { hidden_for, .. } => hidden_for,
            // A stop takes the drain time at most.
            Self::Replace { after, .. } => after + 45_000,
            Self::Trim { .. }
            | Self::DeleteRow { .. }
            | Self::Deregister
            | Self::Join
            | Self::Leave { .. }
            | Self::KclJoin
            | Self::KclLeave { .. } => 0,
        }
    }
}
