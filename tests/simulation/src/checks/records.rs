//! Promises about records: nothing is skipped, order, parents first, repeats only as far as a fault allows.

use super::{Acknowledged, Checks, FAILOVER_MILLIS, Promise, SLACK_MILLIS, Tenure, Verdict};
use crate::event::{At, Batch, Place, Process, ShardNumber};

/// A crash takes what was not checkpointed: what was acknowledged within the checkpoint interval before it, and while
/// the write was under way.
const LOST_BY_CRASH_MILLIS: u64 = 5_000 + 3_000;

/// A row that was deleted behind our back may make the fleet read its whole line again, from the oldest shard that the
/// stream keeps: the rows of its ancestors may have been cleaned up before. How long a holder may not notice that its row was deleted: until its next write.
const DELETION_UNNOTICED_MILLIS: u64 = FAILOVER_MILLIS;

impl Checks {
    /// A process begins where everything before is done.
    pub(super) fn began(
        &mut self,
        process: Process,
        shard: ShardNumber,
        token: u64,
        start: Place,
    ) -> Verdict {
        let Some(facts) = self.shards.get_mut(&shard) else { return Ok(()) };
        let next = facts.index_after(start);
        let open = facts.first_open(0, next);
        facts.tenures.push(Tenure { process, token, next, last: None, has_refused: false });
        match open {
            Some(at) => self.broken(
                Promise::NothingSkipped,
                format!("s{shard} begins at {start}, but {at} is not acknowledged"),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn delivered(&mut self, batch: &Batch) -> Verdict {
        if !batch.is_sorted {
            return self
                .broken(Promise::Order, format!("s{}: a batch is out of order: {batch:?}", batch.shard));
        }
        self.parents_are_done(batch.shard)?;
        self.is_within_its_time(batch)?;
        let Some(facts) = self.shards.get_mut(&batch.shard) else { return Ok(()) };
        let found = facts
            .tenures
            .iter()
            .rposition(|tenure| tenure.process == batch.process && tenure.token == batch.token);
        let Some(index) = found else { return Ok(()) };
        let first = facts.log.partition_point(|at| *at < batch.first);
        let last = facts.log.partition_point(|at| *at <= batch.last);
        let tenure = &mut facts.tenures[index];
        if tenure.last == Some((first, last)) {
            return Ok(()); // again, after it was refused
        }
        if batch.late_attempt > 1 {
            // Some of what it had before and has not acknowledged; whatever lies between may be under way.
            let is_open = |at: usize| facts.acknowledged[at].is_none_or(|before| before.tenure != index);
            let open = (first..last).filter(|index| is_open(*index)).count();
            if last <= tenure.next && is_open(first) && is_open(last - 1) && batch.count <= open {
                return Ok(());
            }
            let why = format!("s{}: {batch:?} comes again, and is not what was given up", batch.shard);
            return self.broken(Promise::Repeats, why);
        }
        let next = tenure.next;
        tenure.last = Some((first, last));
        tenure.next = last;
        let arrived = facts.arrived.get(first).copied();
        let is_known = facts.log.get(first) == Some(&batch.first) && last - first == batch.count;
        let is_asked_for = |index: &usize| {
            facts.log[*index].record >= facts.trimmed_before && facts.arrived[*index] >= facts.from
        };
        let missing = (next..first).find(is_asked_for).map(|index| facts.log[index]);
        if let Some(at) = missing {
            let why = format!("s{}: {at} was not delivered before {}", batch.shard, batch.first);
            return self.broken(Promise::NothingSkipped, why);
        }
        if first < next {
            let why = format!("s{}: {} came after what lies behind it", batch.shard, batch.first);
            return self.broken(Promise::Order, why);
        }
        if !is_known {
            let why = format!("s{}: the batch is not what stands in the stream: {batch:?}", batch.shard);
            return self.broken(Promise::NothingSkipped, why);
        }
        if arrived.is_some_and(|arrived| self.is_early(arrived)) {
            let why = format!("s{}: {} arrived before the start", batch.shard, batch.first);
            return self.broken(Promise::StartsThere, why);
        }
        self.check_repeats(batch.shard, index, first, last)
    }

    fn check_repeats(&self, shard: ShardNumber, tenure: usize, first: usize, last: usize) -> Verdict {
        let Some(facts) = self.shards.get(&shard) else { return Ok(()) };
        if self.is_back_late(shard) {
            return Ok(());
        }
        for index in first..last {
            let Some(before) = facts.acknowledged[index] else { continue };
            let by = facts.tenures[before.tenure].process;
            if before.tenure == tenure {
                return self.broken(
                    Promise::Repeats,
                    format!("s{shard}: {} comes twice in one tenure", facts.log[index]),
                );
            }
            // A holder that cannot know yet that it was replaced reads what its heir has done.
            if facts.tenures[before.tenure].has_refused {
                continue;
            }
            let is_replaced = self.is_disturbed(facts.tenures[tenure].process, before.at, self.now);
            let is_of_kcl = self.is_of_kcl(shard, facts.tenures[tenure].process, by, before.at);
            if !is_replaced && !is_of_kcl && !self.may_repeat(by, before.at) {
                let why = format!(
                    "s{shard}: {} comes again, which process {by} acknowledged at {} ms, and no fault explains it",
                    facts.log[index], before.at
                );
                return self.broken(Promise::Repeats, why);
            }
        }
        Ok(())
    }

    fn is_back_late(&self, shard: ShardNumber) -> bool {
        self.shards.get(&shard).is_some_and(|facts| {
            facts.is_back_late || facts.parents.iter().any(|parent| self.is_back_late(*parent))
        })
    }

    /// Whether the rules of the KCL explain that something comes again: it takes leases from live workers without a word, and
    /// its own may do what they like.
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

    /// Whether what a process acknowledged at a time may come again by now.
    fn may_repeat(&self, process: Process, acknowledged_at: u64) -> bool {
        let Some(facts) = self.process(process) else { return true };
        let is_lost_by_crash = facts.crashed_at.is_some_and(|crashed_at| {
            let lost = LOST_BY_CRASH_MILLIS * facts.clock.max(1000) / 1000;
            acknowledged_at + lost >= crashed_at
        });
        is_lost_by_crash
            || self
                .deleted_at
                .is_some_and(|deleted_at| deleted_at + DELETION_UNNOTICED_MILLIS >= acknowledged_at)
            || self.is_disturbed(process, acknowledged_at, self.now)
    }

    fn parents_are_done(&self, shard: ShardNumber) -> Verdict {
        let Some(facts) = self.shards.get(&shard) else { return Ok(()) };
        for parent in &facts.parents {
            let Some(parent_facts) = self.shards.get(parent) else { continue };
            if parent_facts.done < parent_facts.log.len() && parent_facts.deleted_at.is_none() {
                let at = parent_facts.log[parent_facts.done];
                let why = format!("s{shard} is read, but {at} of its parent s{parent} is not acknowledged");
                return self.broken(Promise::ParentsFirst, why);
            }
        }
        Ok(())
    }

    /// A holder goes on for the fail-over time, counted from before its newest applied write.
    fn is_within_its_time(&self, batch: &Batch) -> Verdict {
        let Some(process) = self.process(batch.process).filter(|process| !process.is_kcl) else {
            return Ok(());
        };
        let confirmed = self.shards.get(&batch.shard).and_then(|facts| facts.confirmed.get(&batch.process));
        let Some(confirmed) = confirmed else {
            let why = format!("s{}: process {} works without a lease", batch.shard, batch.process);
            return self.broken(Promise::OneOwner, why);
        };
        if self.now > confirmed + FAILOVER_MILLIS * process.clock / 1000 + SLACK_MILLIS {
            let why = format!(
                "s{}: process {} goes on, but its lease was last confirmed at {confirmed} ms",
                batch.shard, batch.process
            );
            return self.broken(Promise::OneOwner, why);
        }
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, batch: &Batch) -> Verdict {
        let at = self.now;
        let Some(facts) = self.shards.get_mut(&batch.shard) else { return Ok(()) };
        let found = facts
            .tenures
            .iter()
            .rposition(|tenure| tenure.process == batch.process && tenure.token == batch.token);
        let Some(tenure) = found else { return Ok(()) };
        let range = if batch.late_attempt > 0 {
            let range = |at: &At| facts.log.binary_search(at).ok().map(|index| (index, index + 1));
            range(&batch.first)
        } else {
            facts.tenures[tenure].last.take()
        };
        if let Some((first, last)) = range {
            for index in first..last {
                facts.acknowledged[index] = Some(Acknowledged { tenure, at });
            }
            facts.advance();
        }
        Ok(())
    }

    /// The application gave records up.
    pub(super) fn refused(&mut self, batch: &Batch) {
        let Some(facts) = self.shards.get_mut(&batch.shard).filter(|_| batch.late_attempt > 0) else {
            return;
        };
        let tenure = facts
            .tenures
            .iter_mut()
            .rfind(|tenure| tenure.process == batch.process && tenure.token == batch.token);
        if let Some(tenure) = tenure {
            tenure.has_refused = true;
        }
    }
}
