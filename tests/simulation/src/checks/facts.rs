//! The facts that the checks collect from events, and the questions that several checks ask of them.

use std::collections::{BTreeMap, BTreeSet};

use super::promise::{Promise, Verdict, Violation};
use crate::event::{Name, Process, ReadPosition, RecordPosition, Row, ShardNumber, Writer};
use crate::plan::{FormerFleet, Start};

/// The fail-over time of every simulated fleet, in milliseconds of a true clock.
pub(super) const FAILOVER_MILLIS: u64 = 10_000;

/// Tolerance for whole milliseconds and for the latency of answers.
pub(super) const SLACK_MILLIS: u64 = 100;

/// How long a disturbance has effects after its end: delayed writes, and leases that expire later.
pub(super) const AFTERMATH_MILLIS: u64 = 40_000;

/// The service reports its time in whole seconds.
pub(super) const CLOCK_RESOLUTION_MILLIS: u64 = 1_000;

/// The streams so far.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The newest stream, and when it was created.
    pub(super) newest: (u32, u64),
}

impl Streams {
    pub(super) fn created(&mut self, life: u32, at: u64) {
        self.newest = (life, at);
    }
}

/// The rows that an outsider deleted at one time.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) at: u64,
    pub(super) shards: BTreeSet<ShardNumber>,
    /// Whether no row with an owner was left: a worker that starts then knows of no other one.
    pub(super) is_whole: bool,
}

/// An edit of a row by an operator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edit {
    pub(super) at: u64,
    pub(super) from: ReadPosition,
    pub(super) to: ReadPosition,
    /// The owner of the lease at the time of the edit. While it holds the lease, the edit has no effect.
    pub(super) owner: Option<Name>,
    /// Whether the operator incremented the counter, so that the holder loses the lease.
    pub(super) fences: bool,
    /// Whether that owner has stored a position of its own since, or another writer a later one.
    pub(super) is_replaced: bool,
}

/// The state of all checks.
#[derive(Debug, Default)]
pub struct Checks {
    /// Initial position of the application.
    pub(super) start: Option<Start>,
    /// The earliest and latest start time in milliseconds, once known.
    pub(super) starts_at: Option<(u64, u64)>,
    /// When the first row with a start time was written.
    pub(super) first_row_at: Option<u64>,
    pub(super) subscriptions: Subscriptions,
    pub(super) now: u64,
    pub(super) processes: Vec<ProcessFacts>,
    pub(super) shards: BTreeMap<ShardNumber, ShardFacts>,
    /// Times at which any process may lose leases or answers.
    pub(super) disturbances: Vec<(u64, u64)>,
    pub(super) has_kcl: bool,
    /// The fleet that leaves its table to an operator who adopts it.
    pub(super) former_fleet: Option<FormerFleet>,
    /// The leases of a second stream, which count for the balance and are not checked.
    pub(super) second_stream_leases: u64,
    /// When an outsider deleted rows.
    pub(super) deletions: Vec<Deletion>,
    /// When an outsider deleted the table, and when it was created again.
    pub(super) table_gone: Vec<(u64, Option<u64>)>,
    pub(super) streams: Streams,
    /// Whether the checks on long-tailed calls apply.
    pub(super) has_long_tails: bool,
    /// Shards whose holder crashed, with the time from which the fail-over counts.
    pub(super) orphans: BTreeMap<ShardNumber, u64>,
    /// How long each fail-over took.
    pub(super) failovers: Vec<u64>,
    pub(super) quiet_from: Option<u64>,
    /// From this time on an undisturbed fleet must move no lease.
    pub(super) stable_from: Option<u64>,
}

#[derive(Debug)]
pub(super) struct ProcessFacts {
    pub(super) name: Name,
    /// Permille of the true rate.
    pub(super) clock: u64,
    pub(super) is_kcl: bool,
    pub(super) started_at: u64,
    pub(super) crashed_at: Option<u64>,
    pub(super) over_at: Option<u64>,
    pub(super) start_failed_at: Option<u64>,
    /// The stream that the running receiver of the process belongs to, and since when.
    pub(super) stream: Option<(u32, u64)>,
    pub(super) stop_requested_at: Option<u64>,
    pub(super) is_over: bool,
    /// Times at which the process may lose leases or answers.
    pub(super) disturbed: Vec<(u64, u64)>,
}

/// The acknowledgement of one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) term: usize,
    pub(super) at: u64,
}

/// The facts about one shard.
#[derive(Debug)]
pub(super) struct ShardFacts {
    pub(super) parents: Vec<ShardNumber>,
    pub(super) range: (u128, u128),
    pub(super) visible_at: u64,
    pub(super) is_closed: bool,
    pub(super) closed_at: u64,
    pub(super) is_removed: bool,
    /// The records to deliver, in order.
    pub(super) log: Vec<RecordPosition>,
    /// When each record arrived, in milliseconds.
    pub(super) arrived: Vec<u64>,
    pub(super) acknowledged: Vec<Option<Acknowledged>>,
    /// Records that arrived before this time need not be read.
    pub(super) required_from: u64,
    /// Retention removed the records before this one.
    pub(super) trimmed_before: u64,
    /// Every record before this index is acknowledged or trimmed.
    pub(super) done: usize,
    pub(super) terms: Vec<LeaseTerm>,
    pub(super) row: Option<RowFacts>,
    pub(super) had_row: bool,
    pub(super) row_gone_at: Option<u64>,
    /// A write that creates the row was sent before the row was deleted and applied afterwards. The shard and its
    /// descendants may then be read again.
    pub(super) is_recreated_late: bool,
    /// The checkpoints of the row, with the time of each write.
    pub(super) saved: Vec<(u64, ReadPosition)>,
    /// Calls for the row that took seconds where calls have long tails, with the process and the time.
    pub(super) slow_calls: Vec<(Process, u64)>,
    /// The process that created the row, and when.
    pub(super) created_by: Option<(Process, u64)>,
    /// When each process sent its newest applied write.
    pub(super) confirmed: BTreeMap<Process, u64>,
    /// When KCL workers took the lease.
    pub(super) kcl_takes: Vec<u64>,
    /// The edits of the row by operators, and their resets.
    pub(super) edits: Vec<Edit>,
    /// The index at which reading begins after a reset to an instant.
    pub(super) starts_at_index: Option<usize>,
    /// The pause in the row: since when, and its end.
    pub(super) paused: Option<(u64, u64)>,
    /// The counters of the takes of the paused row.
    pub(super) paused_takes: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct LeaseTerm {
    pub(super) process: Process,
    pub(super) token: u64,
    /// Index of the next record.
    pub(super) next: usize,
    /// The batch that is in progress or failed.
    pub(super) last: Option<(usize, usize)>,
    /// The application failed on a record. Acknowledged records after it may then be delivered again elsewhere.
    pub(super) has_failed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RowFacts {
    pub(super) row: Row,
    pub(super) changed_at: u64,
    pub(super) requested_at: u64,
}

/// The facts about subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// When the current reader of a shard last asked for a subscription.
    pub(super) requested_at: BTreeMap<(Process, ShardNumber), u64>,
    /// The silent subscriptions, with their owner and the start of the silence.
    pub(super) silent: BTreeMap<u64, (Process, ShardNumber, u64)>,
}

impl ShardFacts {
    /// Number of records up to and including a position.
    pub(super) fn index_after(&self, position: ReadPosition) -> usize {
        match position {
            ReadPosition::Start => 0,
            ReadPosition::After(after) => self.log.partition_point(|at| *at <= after),
            ReadPosition::End => self.log.len(),
        }
    }

    pub(super) fn is_done(&self, index: usize) -> bool {
        self.acknowledged[index].is_some()
            || self.log[index].record < self.trimmed_before
            || self.arrived[index] < self.required_from
            || self.is_passed_by_hand(index)
    }

    /// Advances `done` over acknowledged and trimmed records.
    pub(super) fn advance(&mut self) {
        while self.done < self.log.len() && self.is_done(self.done) {
            self.done += 1;
        }
    }

    /// Returns the first record of an index range that is neither acknowledged nor trimmed.
    pub(super) fn first_unacknowledged(&self, from: usize, to: usize) -> Option<RecordPosition> {
        (from.max(self.done)..to).find(|index| !self.is_done(*index)).map(|index| self.log[index])
    }
}

impl Subscriptions {
    /// A new reader does not know the subscriptions of earlier ones.
    pub(super) fn opened(&mut self, process: Process, shard: ShardNumber) {
        self.requested_at.remove(&(process, shard));
    }
}

impl Checks {
    /// Creates the state before the first event.
    pub fn new(start: Start, has_long_tails: bool, second_stream_leases: u64) -> Self {
        let starts_at = start_of_plan(start).map(|at| (at, at));
        Self { start: Some(start), starts_at, has_long_tails, second_stream_leases, ..Self::default() }
    }

    pub(super) fn add_shard(
        &mut self,
        shard: ShardNumber,
        parents: Vec<ShardNumber>,
        range: (u128, u128),
        visible_at: u64,
    ) {
        let facts = ShardFacts {
            parents,
            range,
            visible_at,
            is_closed: false,
            closed_at: 0,
            is_removed: false,
            log: Vec::new(),
            arrived: Vec::new(),
            required_from: self.required_from(),
            acknowledged: Vec::new(),
            trimmed_before: 0,
            done: 0,
            terms: Vec::new(),
            row: None,
            had_row: false,
            row_gone_at: None,
            is_recreated_late: false,
            saved: Vec::new(),
            slow_calls: Vec::new(),
            created_by: None,
            confirmed: BTreeMap::new(),
            kcl_takes: Vec::new(),
            edits: Vec::new(),
            starts_at_index: None,
            paused: None,
            paused_takes: Vec::new(),
        };
        self.shards.insert(shard, facts);
    }

    pub(super) fn broken(&self, promise: Promise, why: impl Into<String>) -> Verdict {
        Err(Violation { promise, at: self.now, why: why.into() })
    }

    pub(super) fn shard(&mut self, shard: ShardNumber) -> Option<&mut ShardFacts> {
        self.shards.get_mut(&shard)
    }

    pub(super) fn process(&self, process: Process) -> Option<&ProcessFacts> {
        self.processes.get(process as usize)
    }

    /// Whether a fault may have cost the process leases or answers within a time range.
    pub(super) fn is_disturbed(&self, process: Process, from: u64, to: u64) -> bool {
        let own = self.process(process).map_or(&[][..], |facts| &facts.disturbed);
        self.disturbances.iter().chain(own).any(|(began, ended)| *began <= to && *ended >= from)
    }

    /// Returns the worker name of a writer.
    pub(super) fn name_of(&self, writer: Writer) -> Option<Name> {
        match writer {
            Writer::Ours(process) | Writer::Kcl(process) => self.process(process).map(|facts| facts.name),
            Writer::Outsider | Writer::Operator => None,
        }
    }

    /// Records the start time that a row stores for `LATEST`. Workers that start before the first row each have their
    /// own time, none later than that row. Records after the latest of these times must be read.
    pub(super) fn record_start(&mut self, after: Option<Row>) {
        let Some(starts_at) = after.and_then(|row| row.starts_at) else { return };
        let first_row_at = *self.first_row_at.get_or_insert(self.now);
        if self.start != Some(Start::Latest) || starts_at > first_row_at {
            return;
        }
        let (earliest, latest) = self.starts_at.unwrap_or((starts_at, starts_at));
        self.starts_at = Some((earliest.min(starts_at), latest.max(starts_at)));
        let from = self.required_from();
        for facts in self.shards.values_mut() {
            facts.required_from = from;
            facts.advance();
        }
    }

    /// Returns the time from which all records must be read. For `LATEST` it is rounded up to whole seconds, like the
    /// service's clock.
    pub(super) fn required_from(&self) -> u64 {
        let cut = if self.start == Some(Start::Latest) { CLOCK_RESOLUTION_MILLIS } else { 0 };
        self.starts_at.map_or(u64::MAX, |(_, latest)| latest.saturating_add(cut))
    }

    /// Whether a record arrived before the start time.
    pub(super) fn arrived_before_start(&self, arrived: u64) -> bool {
        self.starts_at.is_none_or(|(earliest, _)| arrived < earliest)
    }
}

/// Returns the start time that the plan itself fixes.
fn start_of_plan(start: Start) -> Option<u64> {
    match start {
        Start::TrimHorizon => Some(0),
        Start::AtTimestamp(millis) => Some(millis),
        Start::Latest => None,
    }
}
