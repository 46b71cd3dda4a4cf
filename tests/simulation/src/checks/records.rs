//! Promises about records: none is skipped, they are in order, parents come first, and redelivery needs a fault.

use super::facts::{Acknowledged, Checks, FAILOVER_MILLIS, LeaseTerm, SLACK_MILLIS};
use super::failover::LONG_CALLS_MILLIS;
use super::promise::{Promise, Verdict};
use crate::event::{Batch, Process, ReadPosition, RecordPosition, ShardNumber};

/// A crash loses the acknowledgements of the last checkpoint interval and of a checkpoint write in flight.
const LOST_BY_CRASH_MILLIS: u64 = 5_000 + 3_000;

impl Checks {
    /// A process may start only where all earlier records are done.
    pub(super) fn shard_started(
        &mut self,
        process: Process,
        shard: ShardNumber,
        token: u64,
        start: ReadPosition,
    ) -> Verdict {
        self.check_start_of_paused(shard, token)?;
        let Some(facts) = self.shards.get_mut(&shard) else { return Ok(()) };
        let next = match (start, facts.starts_at_index) {
            (ReadPosition::Start, Some(index)) => index,
            _ => facts.index_after(start),
        };
        let open = facts.first_unacknowledged(0, next);
        facts.terms.push(LeaseTerm { process, token, next, last: None, has_failed: false });
        match open {
            Some(at) => self.broken(
                Promise::NothingSkipped,
                format!("s{shard} starts at {start}, but {at} is not acknowledged"),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn delivered(&mut self, batch: &Batch) -> Verdict {
        if !batch.is_sorted {
            return self.broken(
                Promise::Order,
                format!("s{}: the records of a batch are out of order: {batch:?}", batch.shard),
            );
        }
        self.check_stream_of_batch(batch)?;
        self.check_paused(batch.shard)?;
        self.check_parents_first(batch.shard)?;
        self.check_lease_valid(batch)?;
        let Some(facts) = self.shards.get_mut(&batch.shard) else { return Ok(()) };
        let found =
            facts.terms.iter().rposition(|term| term.process == batch.process && term.token == batch.token);
        let Some(index) = found else { return Ok(()) };
        let first = facts.log.partition_point(|at| *at < batch.first);
        let last = facts.log.partition_point(|at| *at <= batch.last);
        let term = &mut facts.terms[index];
        if term.last == Some((first, last)) {
            return Ok(()); // redelivered after a failure
        }
        if batch.late_attempt > 1 {
            // Part of its earlier records, unacknowledged; the records in between may be in progress.
            let is_open = |at: usize| facts.acknowledged[at].is_none_or(|before| before.term != index);
            let open = (first..last).filter(|index| is_open(*index)).count();
            if last <= term.next && is_open(first) && is_open(last - 1) && batch.count <= open {
                return Ok(());
            }
            let why = format!("s{}: redelivered records are not the failed ones: {batch:?}", batch.shard);
            return self.broken(Promise::Redelivery, why);
        }
        let next = term.next;
        term.last = Some((first, last));
        term.next = last;
        let arrived = facts.arrived.get(first).copied();
        let is_known = facts.log.get(first) == Some(&batch.first) && last - first == batch.count;
        let is_required = |index: &usize| {
            facts.log[*index].record >= facts.trimmed_before && facts.arrived[*index] >= facts.required_from
        };
        let missing = (next..first).find(is_required).map(|index| facts.log[index]);
        if let Some(at) = missing {
            let why = format!("s{}: {at} was not delivered before {}", batch.shard, batch.first);
            return self.broken(Promise::NothingSkipped, why);
        }
        if first < next {
            let why = format!("s{}: {} was delivered after a later record", batch.shard, batch.first);
            return self.broken(Promise::Order, why);
        }
        if !is_known {
            let why = format!("s{}: the batch differs from the stream: {batch:?}", batch.shard);
            return self.broken(Promise::NothingSkipped, why);
        }
        if arrived.is_some_and(|arrived| self.arrived_before_start(arrived)) {
            let why = format!("s{}: {} arrived before the initial position", batch.shard, batch.first);
            return self.broken(Promise::InitialPosition, why);
        }
        self.check_repeats(batch.shard, index, first, last)
    }

    fn check_repeats(&self, shard: ShardNumber, term: usize, first: usize, last: usize) -> Verdict {
        let Some(facts) = self.shards.get(&shard) else { return Ok(()) };
        if self.is_recreated_late(shard) {
            return Ok(());
        }
        for index in first..last {
            let Some(before) = facts.acknowledged[index] else { continue };
            let by = facts.terms[before.term].process;
            if before.term == term {
                return self.broken(
                    Promise::Redelivery,
                    format!("s{shard}: {} was redelivered under the same lease", facts.log[index]),
                );
            }
            // A holder that does not know yet that it was replaced repeats the work of its successor.
            if facts.terms[before.term].has_failed {
                continue;
            }
            let is_replaced = self.is_disturbed(facts.terms[term].process, before.at, self.now);
            let is_of_kcl = self.is_of_kcl(shard, facts.terms[term].process, by, before.at);
            if self.had_slow_writes(shard, by, before.at.saturating_sub(FAILOVER_MILLIS)) {
                continue;
            }
            let readers = (by, facts.terms[term].process);
            let is_unknown = self.may_be_unknown(shard, index, before.at, readers)
                || self.is_rewound_by_hand(shard, index, before.at);
            if !is_replaced && !is_of_kcl && !is_unknown && !self.may_repeat(by, before.at) {
                let why = format!(
                    "s{shard}: {} was redelivered without a fault; process {by} acknowledged it at {} ms",
                    facts.log[index], before.at
                );
                return self.broken(Promise::Redelivery, why);
            }
        }
        Ok(())
    }

    fn is_recreated_late(&self, shard: ShardNumber) -> bool {
        self.shards.get(&shard).is_some_and(|facts| {
            facts.is_recreated_late || facts.parents.iter().any(|parent| self.is_recreated_late(*parent))
        })
    }

    /// Whether the rules of the KCL explain a redelivery. KCL workers steal leases without notice, and may repeat any
    /// record themselves.
    fn is_of_kcl(&self, shard: ShardNumber, now: Process, before: Process, acknowledged_at: u64) -> bool {
        let is_kcl = |process| self.process(process).is_none_or(|facts| facts.is_kcl);
        let clock = self.process(before).map_or(1000, |facts| facts.clock.max(1000));
        let takes = self.shards.get(&shard).map_or(&[][..], |facts| &facts.kcl_takes);
        let is_taken = |taken_at: &u64| {
            acknowledged_at + LOST_BY_CRASH_MILLIS * clock / 1000 >= *taken_at
                && acknowledged_at <= taken_at + FAILOVER_MILLIS * clock / 1000 + SLACK_MILLIS
        };
        is_kcl(now) || is_kcl(before) || takes.iter().any(is_taken)
    }

    /// Whether records that a process acknowledged at a time may be redelivered now.
    fn may_repeat(&self, process: Process, acknowledged_at: u64) -> bool {
        let Some(facts) = self.process(process) else { return true };
        // The write of a checkpoint may take ten seconds more.
        let slow_write = if self.has_long_tails { LONG_CALLS_MILLIS } else { 0 };
        // A receiver that stops at the border of its stream stores nothing more, like a process that crashes.
        let is_lost_by_crash = facts.crashed_at.into_iter().chain(facts.start_failed_at).any(|crashed_at| {
            let lost = slow_write + LOST_BY_CRASH_MILLIS * facts.clock.max(1000) / 1000;
            acknowledged_at + lost >= crashed_at
        });
        is_lost_by_crash || self.is_disturbed(process, acknowledged_at, self.now)
    }

    fn check_parents_first(&self, shard: ShardNumber) -> Verdict {
        let Some(facts) = self.shards.get(&shard) else { return Ok(()) };
        for parent in &facts.parents {
            let Some(parent_facts) = self.shards.get(parent) else { continue };
            if parent_facts.done < parent_facts.log.len() {
                let at = parent_facts.log[parent_facts.done];
                let why = format!("s{shard} is read, but {at} of its parent s{parent} is not acknowledged");
                return self.broken(Promise::ParentsFirst, why);
            }
        }
        Ok(())
    }

    /// Checks that a holder stops within the fail-over time after it sent its newest applied write.
    fn check_lease_valid(&self, batch: &Batch) -> Verdict {
        let Some(process) = self.process(batch.process).filter(|process| !process.is_kcl) else {
            return Ok(());
        };
        let confirmed = self.shards.get(&batch.shard).and_then(|facts| facts.confirmed.get(&batch.process));
        let Some(confirmed) = confirmed else {
            let why =
                format!("s{}: process {} processes records without a lease", batch.shard, batch.process);
            return self.broken(Promise::OneOwner, why);
        };
        if self.now > confirmed + FAILOVER_MILLIS * process.clock / 1000 + SLACK_MILLIS {
            let why = format!(
                "s{}: process {} continues, but its lease was last confirmed at {confirmed} ms",
                batch.shard, batch.process
            );
            return self.broken(Promise::OneOwner, why);
        }
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, batch: &Batch) -> Verdict {
        let at = self.now;
        let Some(facts) = self.shards.get_mut(&batch.shard) else { return Ok(()) };
        let found =
            facts.terms.iter().rposition(|term| term.process == batch.process && term.token == batch.token);
        let Some(term) = found else { return Ok(()) };
        let range = if batch.late_attempt > 0 {
            let range =
                |at: &RecordPosition| facts.log.binary_search(at).ok().map(|index| (index, index + 1));
            range(&batch.first)
        } else {
            facts.terms[term].last.take()
        };
        if let Some((first, last)) = range {
            for index in first..last {
                facts.acknowledged[index] = Some(Acknowledged { term, at });
            }
            facts.advance();
        }
        Ok(())
    }

    /// The application failed on records.
    pub(super) fn batch_failed(&mut self, batch: &Batch) {
        let Some(facts) = self.shards.get_mut(&batch.shard).filter(|_| batch.late_attempt > 0) else {
            return;
        };
        let term =
            facts.terms.iter_mut().rfind(|term| term.process == batch.process && term.token == batch.token);
        if let Some(term) = term {
            term.has_failed = true;
        }
    }
}
