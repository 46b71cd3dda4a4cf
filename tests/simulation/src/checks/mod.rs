//! The promises, as checks that run along with the simulation: over events alone, each knowing nothing of the crates.

mod fleet;
mod leases;
mod records;
mod starts;
mod subscriptions;

use std::collections::BTreeMap;
use std::fmt;

pub use fleet::SETTLE_MILLIS;

use crate::event::{At, Event, Name, Place, Process, Row, ShardNumber, What, Writer};
use crate::plan::Start;
use subscriptions::Subscriptions;

/// The fail-over time of every fleet here, in milliseconds of a clock of the true rate.
const FAILOVER_MILLIS: u64 = 10_000;

/// What is allowed to be late because time is counted in whole milliseconds and answers take a few.
const SLACK_MILLIS: u64 = 100;

/// How long after a disturbance its consequences may show: writes that arrive late, and leases that expire then.
const AFTERMATH_MILLIS: u64 = 40_000;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A record is acknowledged before a checkpoint passes it, and in the end each one is.
    NothingSkipped,
    /// Records come in the order of the shard.
    Order,
    /// A child begins when its parents are done.
    ParentsFirst,
    /// Only the owner writes; ownership changes only when it is free, given, or not answered for; nobody goes on
    /// beyond its time.
    OneOwner,
    /// Counters and checkpoints move forward only.
    Forward,
    /// The unfinished leases cover the hash-key space.
    Tiling,
    /// Shards behind a reshard are read.
    ChildrenBegin,
    /// What was acknowledged comes again only as far as a fault allows it.
    Repeats,
    /// The fleet shares the shards evenly.
    Balance,
    /// A fleet left alone moves nothing.
    Rest,
    /// Every process ends when it is asked to.
    Ends,
    /// No task panics.
    NoPanic,
    /// Nothing is delivered that arrived before the application starts.
    StartsThere,
    /// Two subscriptions to a shard keep their distance.
    Distance,
    /// A silent subscription is noticed.
    Silence,
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::NothingSkipped => "nothing is skipped",
            Self::Order => "order within a shard",
            Self::ParentsFirst => "parents first",
            Self::OneOwner => "one committed owner",
            Self::Forward => "counters and checkpoints move forward",
            Self::Tiling => "the leases tile the hash-key space",
            Self::ChildrenBegin => "children begin",
            Self::Repeats => "repeats are bounded by the faults",
            Self::Balance => "the fleet comes to balance",
            Self::Rest => "the fleet comes to rest",
            Self::Ends => "every process ends when asked to",
            Self::NoPanic => "nothing panics",
            Self::StartsThere => "a start is where it was asked for",
            Self::Distance => "subscriptions keep their distance",
            Self::Silence => "a silent subscription is noticed",
        })
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// When, in milliseconds.
    pub at: u64,
    /// What was seen.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at {} ms: {}: {}", self.at, self.promise, self.why)
    }
}

type Verdict = Result<(), Violation>;

/// What the checks know.
#[derive(Debug, Default)]
pub struct Checks {
    /// Where the application starts.
    start: Option<Start>,
    /// The instant that is, in milliseconds, once it is known: the earliest and the latest.
    starts_at: Option<(u64, u64)>,
    /// When the first row was written that keeps one.
    first_row_at: Option<u64>,
    subscriptions: Subscriptions,
    now: u64,
    processes: Vec<ProcessFacts>,
    shards: BTreeMap<ShardNumber, ShardFacts>,
    /// Times in which any process may lose leases or answers.
    storms: Vec<(u64, u64)>,
    has_kcl: bool,
    /// When somebody last deleted a row behind our back.
    deleted_at: Option<u64>,
    quiet_at: Option<u64>,
    /// From when on a fleet that is left alone moves nothing.
    rest_from: Option<u64>,
}

#[derive(Debug)]
struct ProcessFacts {
    name: Name,
    /// Permille of the true rate.
    clock: u64,
    is_kcl: bool,
    crashed_at: Option<u64>,
    stop_asked_at: Option<u64>,
    is_over: bool,
    /// Times in which it may lose leases or answers.
    disturbed: Vec<(u64, u64)>,
}

/// What became of one record.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    tenure: usize,
    at: u64,
}

/// What is known of one shard.
#[derive(Debug)]
struct ShardFacts {
    parents: Vec<ShardNumber>,
    range: (u128, u128),
    visible_at: u64,
    is_closed: bool,
    closed_at: u64,
    is_gone: bool,
    /// Everything that is to be delivered, in order.
    log: Vec<At>,
    /// When each of them arrived, in milliseconds.
    arrived: Vec<u64>,
    acknowledged: Vec<Option<Acknowledged>>,
    /// What arrived before this is not asked for.
    from: u64,
    /// Records before this one are past the retention period.
    trimmed_before: u64,
    /// Everything before this index is acknowledged or trimmed.
    done: usize,
    tenures: Vec<Tenure>,
    row: Option<RowFacts>,
    had_row: bool,
    row_gone_at: Option<u64>,
    /// A write that creates the row was asked for before the row was deleted, and arrived after that. Then it is read again, and
    /// so may be what came out of it.
    is_back_late: bool,
    /// When somebody deleted the row behind our back.
    deleted_at: Option<u64>,
    /// The newest write of each process that was applied: when it was asked for.
    confirmed: BTreeMap<Process, u64>,
    /// When workers of the KCL's kind took it.
    kcl_takes: Vec<u64>,
}

#[derive(Debug)]
struct Tenure {
    process: Process,
    token: u64,
    /// The index of the record that comes next.
    next: usize,
    /// The batch that is under way or was refused.
    last: Option<(usize, usize)>,
    /// A record was given up, so that those after it that are done may come again elsewhere.
    has_refused: bool,
}

#[derive(Debug, Clone, Copy)]
struct RowFacts {
    row: Row,
    changed_at: u64,
    requested_at: u64,
}

impl ShardFacts {
    /// How many records lie at or before a place.
    fn index_after(&self, place: Place) -> usize {
        match place {
            Place::Start => 0,
            Place::After(after) => self.log.partition_point(|at| *at <= after),
            Place::End => self.log.len(),
        }
    }

    fn is_done(&self, index: usize) -> bool {
        self.acknowledged[index].is_some()
            || self.log[index].record < self.trimmed_before
            || self.arrived[index] < self.from
    }

    /// Moves `done` forward.
    fn advance(&mut self) {
        while self.done < self.log.len() && self.is_done(self.done) {
            self.done += 1;
        }
    }

    /// The first record before an index that is neither acknowledged nor trimmed.
    fn first_open(&self, from: usize, to: usize) -> Option<At> {
        (from.max(self.done)..to).find(|index| !self.is_done(*index)).map(|index| self.log[index])
    }
}

impl Checks {
    /// Nothing seen yet.
    pub fn new(start: Start) -> Self {
        Self { start: Some(start), starts_at: starts::of_plan(start).map(|at| (at, at)), ..Self::default() }
    }

    fn broken(&self, promise: Promise, why: impl Into<String>) -> Verdict {
        Err(Violation { promise, at: self.now, why: why.into() })
    }

    fn shard(&mut self, shard: ShardNumber) -> Option<&mut ShardFacts> {
        self.shards.get_mut(&shard)
    }

    fn process(&self, process: Process) -> Option<&ProcessFacts> {
        self.processes.get(process as usize)
    }

    /// Whether a fault could have taken leases or answers from a process at some time between two.
    fn is_disturbed(&self, process: Process, from: u64, to: u64) -> bool {
        let own = self.process(process).map_or(&[][..], |facts| &facts.disturbed);
        self.storms.iter().chain(own).any(|(began, ended)| *began <= to && *ended >= from)
    }

    /// Takes an event into account.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn see(&mut self, event: &Event) -> Verdict {
        self.now = event.at;
        match &event.what {
            What::Born { shard, parents, range, visible_at } => {
                self.born(*shard, parents.clone(), *range, *visible_at);
                Ok(())
            }
            What::Closed { shard } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.is_closed = true;
                    facts.closed_at = event.at;
                }
                Ok(())
            }
            What::Put { shard, record, subs } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.log.extend(subs.iter().map(|sub| At { record: *record, sub: *sub }));
                    facts.acknowledged.resize(facts.log.len(), None);
                    facts.arrived.resize(facts.log.len(), event.at);
                    facts.advance();
                }
                Ok(())
            }
            What::Trimmed { shard, before } => {
                if let Some(facts) = self.shard(*shard) {
                    facts.trimmed_before = *before;
                    facts.is_gone = *before == u64::MAX;
                    facts.advance();
                }
                Ok(())
            }
            What::Began { process, shard, token, start } => self.began(*process, *shard, *token, *start),
            What::Delivered(batch) => self.delivered(batch),
            What::Acknowledged(batch) => self.acknowledged(batch),
            What::Refused(batch, _) => {
                self.refused(batch);
                Ok(())
            }
            What::Opened { process, shard } => {
                self.subscriptions.opened(*process, *shard);
                Ok(())
            }
            What::Subscription { process, shard, session, step } => {
                self.subscription(*process, *shard, *session, *step)
            }
            What::Written { by, shard, kind, before, after, asked_at } => {
                self.note_start(*after);
                let write = leases::Write { by: *by, shard: *shard, kind: *kind, asked_at: *asked_at };
                self.written(&write, *before, *after)
            }
            What::Disturbed { process, for_millis, .. } => {
                let time = (event.at, event.at + for_millis + AFTERMATH_MILLIS);
                match process.and_then(|process| self.processes.get_mut(process as usize)) {
                    Some(facts) => facts.disturbed.push(time),
                    None => self.storms.push(time),
                }
                Ok(())
            }
            _ => self.see_fleet(event),
        }
    }

    fn born(&mut self, shard: ShardNumber, parents: Vec<ShardNumber>, range: (u128, u128), visible_at: u64) {
        let facts = ShardFacts {
            parents,
            range,
            visible_at,
            is_closed: false,
            closed_at: 0,
            is_gone: false,
            log: Vec::new(),
            arrived: Vec::new(),
            from: self.asked_from(),
            acknowledged: Vec::new(),
            trimmed_before: 0,
            done: 0,
            tenures: Vec::new(),
            row: None,
            had_row: false,
            row_gone_at: None,
            is_back_late: false,
            deleted_at: None,
            confirmed: BTreeMap::new(),
            kcl_takes: Vec::new(),
        };
        self.shards.insert(shard, facts);
    }

    /// Whether the writer is a process of this name.
    fn name_of(&self, writer: Writer) -> Option<Name> {
        match writer {
            Writer::Ours(process) | Writer::Kcl(process) => self.process(process).map(|facts| facts.name),
            Writer::Stranger => None,
        }
    }
}
