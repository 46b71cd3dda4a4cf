//! Promises about leases: one committed owner, forward progress only, and coverage of the hash-key space.

use super::facts::{Checks, FAILOVER_MILLIS, RowFacts};
use super::fleet::SETTLE_MILLIS;
use super::promise::{Promise, Verdict};
use crate::event::{Name, ReadPosition, Row, ShardNumber, WriteKind, Writer};

/// How long an owner may leave a request unanswered, in milliseconds of a true clock.
const HAND_OVER_MILLIS: u64 = 10_000;

/// Tolerance for rounding to whole milliseconds.
const ROUNDING_MILLIS: u64 = 3;

/// How long after a listing shows a child a shard sync in flight may still miss it.
const SYNC_TOLERANCE_MILLIS: u64 = 3_000;

/// A write that was applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) by: Writer,
    pub(super) shard: ShardNumber,
    pub(super) kind: WriteKind,
    pub(super) sent_at: u64,
}

impl Checks {
    pub(super) fn lease_written(
        &mut self,
        write: &Write,
        before: Option<Row>,
        after: Option<Row>,
    ) -> Verdict {
        if let (Some(before), Some(after)) = (before, after) {
            self.note_edit(write.by, write.shard, write.kind, (before, after));
        }
        self.note_operation(write, before, after);
        let verdict = self
            .check_stream_of_write(write)
            .and_then(|()| self.check_operator(write, before))
            .and_then(|()| self.check_write(write, before, after));
        let now = self.now;
        let mut is_deleted = false;
        if let Some(facts) = self.shards.get_mut(&write.shard) {
            let old = facts.row;
            let is_same_version =
                |old: &RowFacts, row: &Row| old.row.counter == row.counter && old.row.owner == row.owner;
            facts.row = after.map(|row| RowFacts {
                row,
                changed_at: old.filter(|old| is_same_version(old, &row)).map_or(now, |old| old.changed_at),
                requested_at: old
                    .filter(|old| old.row.requested_by == row.requested_by && old.row.owner == row.owner)
                    .map_or(now, |old| old.requested_at),
            });
            facts.had_row |= after.is_some();
            if let (Writer::Ours(process), None, Some(_)) = (write.by, before, after) {
                facts.created_by = Some((process, now));
            }
            match after {
                None => facts.row_gone_at = Some(now),
                // The write was sent while the previous row still existed.
                Some(_) if old.is_none() => {
                    facts.is_recreated_late |=
                        facts.row_gone_at.is_some_and(|gone_at| write.sent_at < gone_at);
                }
                Some(_) => {}
            }
            if write.by == Writer::Outsider {
                is_deleted = after.is_none();
            }
            if let Some(row) = after
                && facts.saved.last().is_none_or(|(_, saved)| *saved != row.checkpoint)
            {
                facts.saved.push((now, row.checkpoint));
            }
            if matches!(write.by, Writer::Kcl(_)) && write.kind == WriteKind::Take {
                facts.kcl_takes.push(now);
            }
            let confirms = matches!(
                write.kind,
                WriteKind::Renew | WriteKind::Checkpoint | WriteKind::Offer | WriteKind::Take
            );
            if let Writer::Ours(process) = write.by
                && confirms
            {
                let confirmed = facts.confirmed.entry(process).or_default();
                *confirmed = (*confirmed).max(write.sent_at);
            }
        }
        if is_deleted {
            self.row_deleted(write.shard);
        }
        if self.is_lost_to_slow_calls(write) && self.stable_from.is_some_and(|from| now >= from) {
            // The fleet has to balance itself again.
            self.stable_from = Some(now + SETTLE_MILLIS);
        }
        verdict
    }

    fn check_write(&self, write: &Write, before: Option<Row>, after: Option<Row>) -> Verdict {
        let Write { by, shard, kind, .. } = *write;
        match (before, after) {
            // An operator may write anything.
            (Some(_), Some(_)) if by == Writer::Outsider && kind == WriteKind::Other => Ok(()),
            (Some(before), Some(after)) => {
                self.check_forward(shard, kind, before, after)?;
                self.check_owner(write, before, after)?;
                self.check_reset(write, before, after)?;
                self.check_adopted(write, before, after)?;
                if kind == WriteKind::Reset && after.checkpoint != ReadPosition::End {
                    return Ok(());
                }
                self.check_checkpoint(shard, before.checkpoint, after.checkpoint)?;
                if after.checkpoint == ReadPosition::End && before.checkpoint != ReadPosition::End {
                    self.check_children(write)?;
                }
                if matches!(kind, WriteKind::Take | WriteKind::HandOver) {
                    self.check_stability(write, before, after)?;
                }
                Ok(())
            }
            (None, Some(after)) => self.check_checkpoint(shard, ReadPosition::Start, after.checkpoint),
            (Some(before), None) if by != Writer::Outsider && before.checkpoint != ReadPosition::End => {
                let why = format!("s{shard}: the row of an unfinished shard was deleted");
                self.broken(Promise::Coverage, why)
            }
            _ => Ok(()),
        }
    }

    fn check_forward(&self, shard: ShardNumber, kind: WriteKind, before: Row, after: Row) -> Verdict {
        let may_stand =
            matches!(kind, WriteKind::Request | WriteKind::Withdraw | WriteKind::Release | WriteKind::Note);
        let is_forward = after.counter > before.counter || (may_stand && after.counter == before.counter);
        if !is_forward {
            let why =
                format!("s{shard}: {kind} changes the counter from {} to {}", before.counter, after.counter);
            return self.broken(Promise::Forward, why);
        }
        if kind != WriteKind::Reset
            && after.checkpoint < before.checkpoint
            && !self.replaces_edit(shard, before)
        {
            let why = format!(
                "s{shard}: {kind} changes the checkpoint from {} to {}",
                before.checkpoint, after.checkpoint
            );
            return self.broken(Promise::Forward, why);
        }
        Ok(())
    }

    fn check_owner(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let Write { by, shard, kind, .. } = *write;
        let Some(name) = self.name_of(by) else { return Ok(()) };
        let is_owner = before.owner == Some(name) || before.handed_over_by == Some(name);
        let is_fine = match kind {
            WriteKind::Renew
            | WriteKind::Checkpoint
            | WriteKind::Offer
            | WriteKind::Release
            | WriteKind::Reset
            | WriteKind::Other => is_owner || self.is_restored(write, after),
            WriteKind::Request => after.requested_by == Some(name) && after.owner == before.owner,
            WriteKind::Withdraw => before.requested_by == Some(name) && after.owner == before.owner,
            // A leader of the KCL has begun the hand-over.
            WriteKind::HandOver if before.handed_over_by == Some(name) => after.owner == before.owner,
            WriteKind::HandOver => is_owner && after.owner == before.requested_by,
            WriteKind::Take => after.owner == Some(name) && (is_owner || self.may_take(write, name, before)),
            WriteKind::Create | WriteKind::Delete | WriteKind::Note => true,
        };
        if is_fine {
            return Ok(());
        }
        self.broken(
            Promise::OneOwner,
            format!("s{shard}: {by:?} had no right to {kind}: {before:?} became {after:?}"),
        )
    }

    /// Whether a checkpoint may restore the position of a row that was deleted and created again, or the end of a parent whose row
    /// came back after its child was set back by hand.
    fn is_restored(&self, write: &Write, after: Row) -> bool {
        let saved = self.shards.get(&write.shard).map_or(&[][..], |facts| &facts.saved);
        write.kind == WriteKind::Checkpoint
            // Also without a deletion by an outsider: a late write may create the row of an ended shard again.
            && (after.checkpoint == ReadPosition::End || !self.deletions.is_empty() || self.has_edits())
            && saved.iter().any(|(_, position)| *position == after.checkpoint)
    }

    /// Whether a lease of another worker may be taken: it is free, it has expired, or its owner ignored a request.
    fn may_take(&self, write: &Write, name: Name, before: Row) -> bool {
        let Writer::Ours(process) = write.by else { return true };
        let (Some(process), Some(facts)) = (self.process(process), self.shards.get(&write.shard)) else {
            return true;
        };
        let Some(row) = facts.row else { return true };
        let has_passed = |since: u64, millis: u64| {
            write.sent_at + ROUNDING_MILLIS >= since + millis * process.clock / 1000
        };
        before.owner.is_none()
            || has_passed(row.changed_at, FAILOVER_MILLIS)
            || (before.requested_by == Some(name) && has_passed(row.requested_at, HAND_OVER_MILLIS))
    }

    /// Checks that a checkpoint passes acknowledged records only.
    fn check_checkpoint(&self, shard: ShardNumber, from: ReadPosition, to: ReadPosition) -> Verdict {
        let Some(facts) = self.shards.get(&shard).filter(|_| to > from) else { return Ok(()) };
        if to == ReadPosition::End && !(facts.is_closed || facts.is_removed) {
            return self
                .broken(Promise::NothingSkipped, format!("s{shard} is open, but its row is finished"));
        }
        match facts.first_unacknowledged(facts.index_after(from), facts.index_after(to)) {
            Some(at) => {
                let why = format!("s{shard}: the checkpoint {to} passes {at}, which is not acknowledged");
                self.broken(Promise::NothingSkipped, why)
            }
            None => Ok(()),
        }
    }

    /// Checks that the children have leases before the parent's row is finished.
    fn check_children(&self, write: &Write) -> Verdict {
        let shard = write.shard;
        for (child, facts) in &self.shards {
            let is_visible = facts.visible_at + SYNC_TOLERANCE_MILLIS < write.sent_at;
            if facts.parents.contains(&shard) && is_visible && !facts.had_row && !facts.is_removed {
                let why = format!("s{shard} has ended, but its child s{child} has no lease");
                return self.broken(Promise::Coverage, why);
            }
        }
        Ok(())
    }

    fn check_stability(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let is_stable = self.stable_from.is_some_and(|from| self.now >= from);
        if is_stable
            && before.owner.is_some()
            && before.owner != after.owner
            && !self.is_lost_to_slow_calls(write)
        {
            return self.broken(
                Promise::Stability,
                format!("s{} changes its owner in a balanced fleet", write.shard),
            );
        }
        Ok(())
    }

    /// Slow calls may cost a lease at any time; another check looks for them.
    fn is_lost_to_slow_calls(&self, write: &Write) -> bool {
        self.has_long_tails && write.kind == WriteKind::Take
    }

    /// Checks that the unfinished leases cover every hash key exactly once.
    pub(super) fn check_coverage(&self) -> Verdict {
        let mut ranges: Vec<(u128, u128, ShardNumber)> = self
            .shards
            .iter()
            .filter(|(_, facts)| facts.row.is_some_and(|row| row.row.checkpoint != ReadPosition::End))
            .map(|(shard, facts)| (facts.range.0, facts.range.1, *shard))
            .collect();
        ranges.sort_unstable();
        let mut next = Some(0);
        for (start, end, shard) in ranges {
            if next != Some(start) {
                let why = format!("s{shard} starts at {start}; expected {next:?}");
                return self.broken(Promise::Coverage, why);
            }
            next = end.checked_add(1);
        }
        match next {
            None => Ok(()),
            Some(next) => self.broken(Promise::Coverage, format!("no lease covers {next}")),
        }
    }
}
