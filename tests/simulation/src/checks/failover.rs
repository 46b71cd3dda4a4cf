//! Promises where calls have long tails: fail-over in time, no lease lost without a reason, and true stop reports.

use super::facts::{Checks, FAILOVER_MILLIS};
use super::promise::{Promise, Verdict};
use crate::event::{Name, Process, Row, ShardNumber, WriteKind, Writer};

/// How long after the fail-over time a lease of a crashed process has a new owner, in milliseconds: the bound of the docs for
/// 99 of 100 leases.
pub(super) const FAILOVER_LATENESS_MILLIS: u64 = 3_000;

/// Additional time for the rest, in milliseconds: three calls in a row that take five seconds each.
pub(super) const LONG_CALLS_MILLIS: u64 = 15_000;

/// Number of slow calls for one row that may cost its lease.
const SLOW_CALLS_THAT_COST: usize = 2;

/// Time within which these calls explain that a lease was lost, in milliseconds: it expires, and is then taken.
const SLOW_WRITES_MILLIS: u64 = 2 * FAILOVER_MILLIS + FAILOVER_LATENESS_MILLIS;

/// A worker knows the age of leases after this time, in milliseconds.
const READY_MILLIS: u64 = 20_000;

impl Checks {
    /// Returns the times that fail-overs took.
    pub fn take_failovers(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.failovers)
    }

    /// The process that wrote a lease last, among those of a name.
    fn holder(&self, shard: ShardNumber, name: Name) -> Option<Process> {
        let confirmed = self.shards.get(&shard)?.confirmed.iter();
        let of_name =
            confirmed.filter(|(process, _)| self.process(**process).is_some_and(|facts| facts.name == name));
        of_name.max_by_key(|(_, sent_at)| **sent_at).map(|(process, _)| *process)
    }

    /// A process crashed: others must take its leases.
    pub(super) fn leases_orphaned(&mut self, crashed: Process) {
        // Another one may have been about to take a lease.
        self.orphans.clear();
        let now = self.now;
        let is_ready = |(process, facts): (Process, &super::facts::ProcessFacts)| {
            let is_up = !facts.is_over && facts.stop_requested_at.is_none();
            process != crashed && is_up && facts.started_at + READY_MILLIS <= now
        };
        if !self.has_long_tails || !(0..).zip(&self.processes).any(is_ready) {
            return;
        }
        let held = self.shards.iter().filter(|(shard, facts)| {
            let owner = facts.row.and_then(|row| row.row.owner);
            owner.is_some_and(|owner| self.holder(**shard, owner) == Some(crashed))
        });
        self.orphans = held.map(|(shard, _)| (*shard, now)).collect();
    }

    /// Checks a write that gives a lease another owner, or renews the lease of a crashed process late.
    pub(super) fn check_taken_over(
        &mut self,
        by: Writer,
        shard: ShardNumber,
        kind: WriteKind,
        before: Option<Row>,
        after: Option<Row>,
    ) -> Verdict {
        if !self.has_long_tails {
            return Ok(());
        }
        if let Some(since) = self.orphans.get(&shard).copied() {
            let is_late = matches!(by, Writer::Ours(process) if self.process(process).is_some_and(|facts| facts.is_over));
            match after {
                // A write of the crashed process arrived late.
                Some(_) if is_late => drop(self.orphans.insert(shard, self.now)),
                Some(_) if kind != WriteKind::Take => {}
                None => drop(self.orphans.remove(&shard)),
                Some(_) => {
                    self.orphans.remove(&shard);
                    let took = self.now - since;
                    self.failovers.push(took);
                    if took > FAILOVER_MILLIS + FAILOVER_LATENESS_MILLIS + LONG_CALLS_MILLIS {
                        let why = format!("s{shard}: no new owner for {took} ms after a crash");
                        return self.broken(Promise::FailOver, why);
                    }
                }
            }
            return Ok(());
        }
        self.check_kept(by, shard, kind, before)
    }

    /// Checks that a live process loses a lease only by a request.
    fn check_kept(&self, by: Writer, shard: ShardNumber, kind: WriteKind, before: Option<Row>) -> Verdict {
        let Some((before, owner)) = before.and_then(|before| Some((before, before.owner?))) else {
            return Ok(());
        };
        let Some(holder) = self.holder(shard, owner) else { return Ok(()) };
        let taker = self.name_of(by);
        let is_up =
            self.process(holder).is_some_and(|facts| !facts.is_over && facts.stop_requested_at.is_none());
        let is_asked = before.requested_by.is_some() && before.requested_by == taker;
        let is_slow = self.had_slow_writes(shard, holder, self.now.saturating_sub(SLOW_WRITES_MILLIS));
        if kind != WriteKind::Take || taker == Some(owner) || !is_up || is_asked || is_slow {
            return Ok(());
        }
        let why = format!("s{shard}: {by:?} takes the lease of process {holder}, which lives");
        self.broken(Promise::LeaseKept, why)
    }

    /// Whether a holder had two slow calls for one row since a time: a lease is renewed three times in the fail-over time, and
    /// two slow calls in a row use that up.
    pub(super) fn had_slow_writes(&self, shard: ShardNumber, holder: Process, since: u64) -> bool {
        let Some(facts) = self.shards.get(&shard) else { return false };
        facts.slow_calls.iter().filter(|(process, at)| *process == holder && *at >= since).count()
            >= SLOW_CALLS_THAT_COST
    }

    /// Checks that a process that reports that it is drained left no acknowledged record behind.
    pub(super) fn check_report(&self, process: Process, is_drained: bool) -> Verdict {
        let Some(name) = self.process(process).map(|facts| facts.name) else { return Ok(()) };
        if !self.has_long_tails || !is_drained {
            return Ok(());
        }
        for (shard, facts) in &self.shards {
            let Some(row) = facts.row.map(|row| row.row) else { continue };
            let is_last = facts.terms.last().is_some_and(|term| term.process == process);
            let is_of_other = row.owner.is_some_and(|owner| owner != name);
            let mut unstored = facts.index_after(row.checkpoint)..facts.log.len();
            let is_own = |index: usize| {
                facts.acknowledged[index].is_some_and(|by| facts.terms[by.term].process == process)
            };
            if is_last && !is_of_other && unstored.any(is_own) {
                let why =
                    format!("s{shard}: process {process} is drained, but its position is {}", row.checkpoint);
                return self.broken(Promise::StopReport, why);
            }
        }
        Ok(())
    }
}
