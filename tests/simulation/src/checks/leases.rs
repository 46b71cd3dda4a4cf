//! Promises about rows: one committed owner, everything moves forward, the leases tile the hash-key space.

use super::{Checks, FAILOVER_MILLIS, Promise, RowFacts, Verdict};
use crate::event::{Name, Place, Row, ShardNumber, WriteKind, Writer};

/// How long an owner may leave a request unanswered, in milliseconds of a clock of the true rate.
const HAND_OVER_MILLIS: u64 = 10_000;

/// What whole milliseconds round away.
const ROUNDING_MILLIS: u64 = 3;

/// How long after a listing shows a child it may have been overlooked: the look was under way.
const LOOK_MILLIS: u64 = 3_000;

/// A write that stands in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) by: Writer,
    pub(super) shard: ShardNumber,
    pub(super) kind: WriteKind,
    pub(super) asked_at: u64,
}

impl Checks {
    pub(super) fn written(&mut self, write: &Write, before: Option<Row>, after: Option<Row>) -> Verdict {
        let verdict = self.check_write(write, before, after);
        let now = self.now;
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
            match after {
                None => facts.row_gone_at = Some(now),
                // It was under way for longer than the shard lived, so to say.
                Some(_) if old.is_none() => {
                    facts.is_back_late |= facts.row_gone_at.is_some_and(|gone_at| write.asked_at < gone_at);
                }
                Some(_) => {}
            }
            if write.by == Writer::Stranger {
                facts.deleted_at = Some(now);
                self.deleted_at = Some(now);
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
                *confirmed = (*confirmed).max(write.asked_at);
            }
        }
        verdict
    }

    fn check_write(&self, write: &Write, before: Option<Row>, after: Option<Row>) -> Verdict {
        let Write { by, shard, kind, .. } = *write;
        match (before, after) {
            (Some(before), Some(after)) => {
                self.check_forward(shard, kind, before, after)?;
                self.check_owner(write, before, after)?;
                self.check_checkpoint(shard, before.checkpoint, after.checkpoint)?;
                if after.checkpoint == Place::End && before.checkpoint != Place::End {
                    self.check_children(write)?;
                }
                if matches!(kind, WriteKind::Take | WriteKind::HandOver) {
                    self.check_rest(write, before, after)?;
                }
                Ok(())
            }
            (None, Some(after)) => self.check_checkpoint(shard, Place::Start, after.checkpoint),
            (Some(before), None) if by != Writer::Stranger && before.checkpoint != Place::End => {
                let why = format!("s{shard}: the row of a shard that is not read to its end is deleted");
                self.broken(Promise::Tiling, why)
            }
            _ => Ok(()),
        }
    }

    fn check_forward(&self, shard: ShardNumber, kind: WriteKind, before: Row, after: Row) -> Verdict {
        let may_stand = matches!(kind, WriteKind::Request | WriteKind::Withdraw | WriteKind::Release);
        let is_forward = after.counter > before.counter || (may_stand && after.counter == before.counter);
        if !is_forward {
            let why =
                format!("s{shard}: {kind} takes the counter from {} to {}", before.counter, after.counter);
            return self.broken(Promise::Forward, why);
        }
        if after.checkpoint < before.checkpoint {
            let why = format!(
                "s{shard}: {kind} takes the checkpoint from {} to {}",
                before.checkpoint, after.checkpoint
            );
            return self.broken(Promise::Forward, why);
        }
        Ok(())
    }

    fn check_owner(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let Write { by, shard, kind, .. } = *write;
        let Some(name) = self.name_of(by) else { return Ok(()) };
        let is_owner = before.owner == Some(name);
        let is_fine = match kind {
            WriteKind::Renew
            | WriteKind::Checkpoint
            | WriteKind::Offer
            | WriteKind::Release
            | WriteKind::Other => is_owner,
            WriteKind::Request => after.requested_by == Some(name) && after.owner == before.owner,
            WriteKind::Withdraw => before.requested_by == Some(name) && after.owner == before.owner,
            WriteKind::HandOver => is_owner && after.owner == before.requested_by,
            WriteKind::Take => after.owner == Some(name) && (is_owner || self.may_take(write, name, before)),
            WriteKind::Create | WriteKind::Delete => true,
        };
        if is_fine {
            return Ok(());
        }
        self.broken(
            Promise::OneOwner,
            format!("s{shard}: {by:?} may not {kind} the lease: {before:?} became {after:?}"),
        )
    }

    /// Whether a lease that belongs to somebody else may be taken: it is free, has expired, or was asked for in vain.
    fn may_take(&self, write: &Write, name: Name, before: Row) -> bool {
        let Writer::Ours(process) = write.by else { return true };
        let (Some(process), Some(facts)) = (self.process(process), self.shards.get(&write.shard)) else {
            return true;
        };
        let Some(row) = facts.row else { return true };
        let has_passed = |since: u64, millis: u64| {
            write.asked_at + ROUNDING_MILLIS >= since + millis * process.clock / 1000
        };
        before.owner.is_none()
            || has_passed(row.changed_at, FAILOVER_MILLIS)
            || (before.requested_by == Some(name) && has_passed(row.requested_at, HAND_OVER_MILLIS))
    }

    /// A checkpoint passes only what is acknowledged.
    fn check_checkpoint(&self, shard: ShardNumber, from: Place, to: Place) -> Verdict {
        let Some(facts) = self.shards.get(&shard).filter(|_| to > from) else { return Ok(()) };
        if to == Place::End && !(facts.is_closed || facts.is_gone) {
            return self
                .broken(Promise::NothingSkipped, format!("s{shard} is open and counts as read to its end"));
        }
        match facts.first_open(facts.index_after(from), facts.index_after(to)) {
            Some(at) => {
                let why = format!("s{shard}: the checkpoint passes {at}, which nobody acknowledged, to {to}");
                self.broken(Promise::NothingSkipped, why)
            }
            None => Ok(()),
        }
    }

    /// The children have leases before the row of the parent says that it is done.
    fn check_children(&self, write: &Write) -> Verdict {
        let shard = write.shard;
        for (child, facts) in &self.shards {
            let is_visible = facts.visible_at + LOOK_MILLIS < write.asked_at;
            if facts.parents.contains(&shard) && is_visible && !facts.had_row && !facts.is_gone {
                let why = format!("s{shard} has ended, but its child s{child} has no lease");
                return self.broken(Promise::Tiling, why);
            }
        }
        Ok(())
    }

    fn check_rest(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let is_resting = self.rest_from.is_some_and(|from| self.now >= from);
        if is_resting && before.owner.is_some() && before.owner != after.owner {
            return self.broken(Promise::Rest, format!("s{} changes hands in a fleet at rest", write.shard));
        }
        Ok(())
    }

    /// The unfinished leases cover every hash key, and at rest each only once.
    pub(super) fn check_tiling(&self) -> Verdict {
        let mut ranges: Vec<(u128, u128, ShardNumber)> = self
            .shards
            .iter()
            .filter(|(_, facts)| facts.row.is_some_and(|row| row.row.checkpoint != Place::End))
            .map(|(shard, facts)| (facts.range.0, facts.range.1, *shard))
            .collect();
        ranges.sort_unstable();
        let mut next = Some(0);
        for (start, end, shard) in ranges {
            if next != Some(start) {
                let why = format!("s{shard} starts at {start}, but {next:?} comes next");
                return self.broken(Promise::Tiling, why);
            }
            next = end.checked_add(1);
        }
        match next {
            None => Ok(()),
            Some(next) => self.broken(Promise::Tiling, format!("no lease covers {next}")),
        }
    }
}
