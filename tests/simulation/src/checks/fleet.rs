//! Promises about the fleet: it comes to balance and to rest, children begin, every process ends when asked to.

use std::collections::BTreeMap;

use super::{Checks, ProcessFacts, Promise, Verdict};
use crate::event::{Event, Name, Place, Process, What};

/// How long after the faults the fleet has to come to balance, in milliseconds: shard syncs come every minute.
pub const SETTLE_MILLIS: u64 = 180_000;

/// How long a process may take to end: the drain time, the time to cut off, and what its calls take.
const END_MILLIS: u64 = 30_000 + 5_000 + 10_000;

/// The same while its calls are not answered.
const DISTURBED_END_MILLIS: u64 = END_MILLIS + 60_000;

impl Checks {
    pub(super) fn see_fleet(&mut self, event: &Event) -> Verdict {
        match &event.what {
            What::Started { name, clock, is_kcl, .. } => {
                self.has_kcl |= is_kcl;
                self.processes.push(ProcessFacts {
                    name: *name,
                    clock: *clock,
                    is_kcl: *is_kcl,
                    crashed_at: None,
                    stop_asked_at: None,
                    is_over: false,
                    disturbed: Vec::new(),
                });
                Ok(())
            }
            What::Crashed { process } => {
                if let Some(facts) = self.processes.get_mut(*process as usize) {
                    facts.crashed_at = Some(event.at);
                    facts.is_over = true;
                }
                Ok(())
            }
            What::StopAsked { process } => {
                if self.quiet_at.is_some() {
                    self.rest_from = None;
                }
                if let Some(facts) = self.processes.get_mut(*process as usize) {
                    facts.stop_asked_at.get_or_insert(event.at);
                }
                Ok(())
            }
            What::Ended { process, .. } => self.ended(*process),
            What::Quiet => {
                self.quiet_at = Some(event.at);
                // The two sets of rules need not agree on what is even.
                self.rest_from = (!self.has_kcl).then_some(event.at + SETTLE_MILLIS);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn ended(&mut self, process: Process) -> Verdict {
        if let Some(facts) = self.processes.get_mut(process as usize) {
            facts.is_over = true;
        }
        self.check_end(process)
    }

    /// Whether a process that was asked to end has done so in time, or still has time.
    fn check_end(&self, process: Process) -> Verdict {
        let Some(facts) = self.process(process) else { return Ok(()) };
        let Some(asked_at) = facts.stop_asked_at else {
            return self.broken(Promise::Ends, format!("process {process} ended and nobody asked it to"));
        };
        let paused: u64 = facts.disturbed.iter().map(|(from, to)| to - from).sum();
        let limit = if self.is_disturbed(process, asked_at, self.now) {
            DISTURBED_END_MILLIS + paused
        } else {
            END_MILLIS
        };
        let limit = limit * facts.clock.max(1000) / 1000;
        if self.now > asked_at + limit {
            let why = format!("process {process} was asked to end at {asked_at} ms");
            return self.broken(Promise::Ends, why);
        }
        Ok(())
    }

    /// What holds when the faults have been over for long.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn settled(&mut self, now: u64) -> Verdict {
        self.now = now;
        self.check_silence()?;
        self.check_begun()?;
        self.check_tiling()?;
        if self.has_kcl { Ok(()) } else { self.check_balance() }
    }

    /// Every shard is done or has an owner.
    fn check_begun(&self) -> Verdict {
        for (shard, facts) in &self.shards {
            let owner = facts.row.and_then(|row| row.row.owner);
            let is_finished = facts.row.map_or(facts.had_row, |row| row.row.checkpoint == Place::End);
            // What closed before the application started is not asked for.
            let is_past = facts.is_closed && facts.closed_at < facts.from;
            if (facts.is_gone || is_past) && facts.row.is_none() {
                continue;
            }
            if facts.is_closed && !is_finished {
                let why = format!("s{shard} is closed and not read to its end: {:?}", facts.row);
                return self.broken(Promise::ChildrenBegin, why);
            }
            if !facts.is_closed && owner.is_none() {
                return self
                    .broken(Promise::ChildrenBegin, format!("nobody reads s{shard}: {:?}", facts.row));
            }
        }
        Ok(())
    }

    fn check_balance(&self) -> Verdict {
        let live = self.processes.iter().filter(|facts| !facts.is_over);
        let mut loads: BTreeMap<Name, u64> = live.map(|facts| (facts.name, 0)).collect();
        for facts in self.shards.values() {
            if let Some(row) = facts.row.filter(|row| row.row.checkpoint != Place::End)
                && let Some(owner) = row.row.owner
            {
                *loads.entry(owner).or_default() += 1;
            }
        }
        let (least, most) = (loads.values().min(), loads.values().max());
        if most.copied().unwrap_or(0) > least.copied().unwrap_or(0) + 1 {
            return self.broken(Promise::Balance, format!("the leases by worker: {loads:?}"));
        }
        Ok(())
    }

    /// What holds when everybody has ended.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn over(&mut self, now: u64) -> Verdict {
        self.now = now;
        self.check_silence()?;
        for (process, facts) in (0..).zip(&self.processes) {
            if !facts.is_over && !facts.is_kcl {
                return self.broken(Promise::Ends, format!("process {process} has not ended"));
            }
        }
        for (shard, facts) in &self.shards {
            if let Some(at) = facts.first_open(0, facts.log.len()) {
                return self.broken(Promise::NothingSkipped, format!("s{shard}: nobody acknowledged {at}"));
            }
            let Some(row) = facts.row else { continue };
            let mut unread = facts.index_after(row.row.checkpoint)..facts.log.len();
            let is_asked_for = unread.any(|index| facts.arrived[index] >= facts.from);
            if is_asked_for && !self.has_kcl && !facts.is_gone {
                let why = format!("s{shard} was stopped and would be read again from {}", row.row.checkpoint);
                return self.broken(Promise::Repeats, why);
            }
        }
        Ok(())
    }
}
