//! Promises about the fleet: it balances and then moves no lease, children are read, and every process stops in time.

use std::collections::BTreeMap;

use super::facts::{Checks, ProcessFacts};
use super::promise::{Promise, Verdict};
use crate::event::{Event, EventKind, Name, Process, ReadPosition};

/// How long after the faults the fleet may take to balance, in milliseconds. Shard syncs run every minute.
pub const SETTLE_MILLIS: u64 = 180_000;

/// How long a process may take to stop: drain time, cancellation and the latency of its calls.
const END_MILLIS: u64 = 30_000 + 5_000 + 10_000;

/// The same while its calls get no answers.
const DISTURBED_END_MILLIS: u64 = END_MILLIS + 60_000;

impl Checks {
    pub(super) fn observe_fleet(&mut self, event: &Event) -> Verdict {
        match &event.kind {
            EventKind::ProcessStarted { name, clock, is_kcl, .. } => {
                self.has_kcl |= is_kcl;
                self.processes.push(ProcessFacts {
                    name: *name,
                    clock: *clock,
                    is_kcl: *is_kcl,
                    started_at: event.at,
                    crashed_at: None,
                    over_at: None,
                    start_failed_at: None,
                    stream: None,
                    stop_requested_at: None,
                    is_over: false,
                    disturbed: Vec::new(),
                });
                Ok(())
            }
            EventKind::ProcessCrashed { process } => {
                if let Some(facts) = self.processes.get_mut(*process as usize) {
                    facts.crashed_at = Some(event.at);
                    facts.over_at = Some(event.at);
                    facts.is_over = true;
                }
                Ok(())
            }
            EventKind::StopRequested { process } => {
                if self.quiet_from.is_some() {
                    self.stable_from = None;
                }
                if let Some(facts) = self.processes.get_mut(*process as usize) {
                    facts.stop_requested_at.get_or_insert(event.at);
                }
                Ok(())
            }
            EventKind::ProcessEnded { process, .. } => self.ended(*process),
            EventKind::StartFailed { process, .. } => {
                if let Some(facts) = self.processes.get_mut(*process as usize) {
                    facts.start_failed_at = Some(event.at);
                    facts.stream = None;
                }
                Ok(())
            }
            EventKind::FaultsOver => {
                self.quiet_from = Some(event.at);
                // KCL workers and ours may disagree on a balanced distribution.
                self.stable_from = (!self.has_kcl).then_some(event.at + SETTLE_MILLIS);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn ended(&mut self, process: Process) -> Verdict {
        if let Some(facts) = self.processes.get_mut(process as usize) {
            facts.is_over = true;
            facts.over_at = Some(self.now);
        }
        self.check_stop_time(process)
    }

    /// Whether a process that was asked to stop did so in time, or still has time.
    fn check_stop_time(&self, process: Process) -> Verdict {
        let Some(facts) = self.process(process) else { return Ok(()) };
        let Some(requested_at) = facts.stop_requested_at else {
            return self
                .broken(Promise::StopsInTime, format!("process {process} ended without a request to stop"));
        };
        let paused: u64 = facts.disturbed.iter().map(|(from, to)| to - from).sum();
        let is_disturbed =
            self.is_disturbed(process, requested_at, self.now) || self.is_table_gone(requested_at, self.now);
        let limit = if is_disturbed { DISTURBED_END_MILLIS + paused } else { END_MILLIS };
        let limit = limit * facts.clock.max(1000) / 1000;
        if self.now > requested_at + limit {
            let why = format!("process {process} stopped too late: requested at {requested_at} ms");
            return self.broken(Promise::StopsInTime, why);
        }
        Ok(())
    }

    /// Checks the promises that hold once the fleet has settled after the faults.
    ///
    /// # Errors
    /// The broken promise.
    pub fn check_settled(&mut self, now: u64) -> Verdict {
        self.now = now;
        self.check_silence()?;
        self.check_all_read()?;
        self.check_coverage()?;
        if self.has_kcl { Ok(()) } else { self.check_balance() }
    }

    /// Checks that every shard is finished or has an owner.
    fn check_all_read(&self) -> Verdict {
        for (shard, facts) in &self.shards {
            let owner = facts.row.and_then(|row| row.row.owner);
            let is_finished = facts.row.map_or(facts.had_row, |row| row.row.checkpoint == ReadPosition::End);
            // Shards that were closed before the start need not be read.
            let is_past = facts.is_closed && facts.closed_at < facts.required_from;
            if (facts.is_removed || is_past) && facts.row.is_none() {
                continue;
            }
            if facts.is_closed && !is_finished {
                let why = format!("s{shard} is closed and not finished: {:?}", facts.row);
                return self.broken(Promise::ChildrenRead, why);
            }
            if !facts.is_closed && owner.is_none() {
                return self.broken(Promise::ChildrenRead, format!("s{shard} has no owner: {:?}", facts.row));
            }
        }
        Ok(())
    }

    fn check_balance(&self) -> Verdict {
        let live = self.processes.iter().filter(|facts| !facts.is_over);
        let mut loads: BTreeMap<Name, u64> = live.map(|facts| (facts.name, 0)).collect();
        for facts in self.shards.values() {
            if let Some(row) = facts.row.filter(|row| row.row.checkpoint != ReadPosition::End)
                && let Some(owner) = row.row.owner
            {
                *loads.entry(owner).or_default() += 1;
            }
        }
        let (least, most) = (loads.values().min(), loads.values().max());
        if most.copied().unwrap_or(0) > least.copied().unwrap_or(0) + 1 + self.second_stream_leases {
            return self.broken(Promise::Balance, format!("leases by worker: {loads:?}"));
        }
        Ok(())
    }

    /// Checks the promises that hold once all processes have ended.
    ///
    /// # Errors
    /// The broken promise.
    pub fn check_final(&mut self, now: u64) -> Verdict {
        self.now = now;
        self.check_silence()?;
        for (process, facts) in (0..).zip(&self.processes) {
            if !facts.is_over && !facts.is_kcl {
                return self.broken(Promise::StopsInTime, format!("process {process} has not ended"));
            }
        }
        for (shard, facts) in &self.shards {
            if let Some(at) = facts.first_unacknowledged(0, facts.log.len()) {
                return self
                    .broken(Promise::NothingSkipped, format!("s{shard}: {at} was never acknowledged"));
            }
            let Some(row) = facts.row else { continue };
            let mut unread = facts.index_after(row.row.checkpoint)..facts.log.len();
            let is_required = unread.any(|index| facts.arrived[index] >= facts.required_from);
            // An idle holder writes no checkpoint that would replace an edit.
            let is_edited = facts.is_position_of_edit(row.row.checkpoint);
            if is_required && !self.has_kcl && !facts.is_removed && !is_edited {
                let why = format!(
                    "s{shard}: a restart would redeliver acknowledged records after {}",
                    row.row.checkpoint
                );
                return self.broken(Promise::Redelivery, why);
            }
        }
        Ok(())
    }
}
