//! Which positions the fleet must still know after an outsider deleted rows of the lease table.

use std::collections::BTreeSet;

use super::facts::{Checks, Deletion, FAILOVER_MILLIS};
use crate::event::{Process, ShardNumber};

/// How long a holder may not notice that an outsider deleted its row: until its next write. It may acknowledge records
/// for that time, and these are lost with its position.
const UNNOTICED_MILLIS: u64 = FAILOVER_MILLIS;

/// A worker knows the rows of the table after this time: it has started and made several rounds.
const READY_MILLIS: u64 = 20_000;

/// Every worker knows a checkpoint this long after it was stored: it has made several rounds.
const KNOWN_MILLIS: u64 = 10_000;

/// How long the fleet may take to restore rows, from the time at which there is a table.
const RESTORED_MILLIS: u64 = 30_000;

/// How long a worker that starts into an emptied table reads from the initial position, until a worker that knows better
/// restores the positions and the newcomer notices.
const NEWCOMER_MILLIS: u64 = 15_000;

impl Checks {
    /// An outsider deleted a row.
    pub(super) fn row_deleted(&mut self, shard: ShardNumber) {
        match self.deletions.last_mut().filter(|last| last.at == self.now) {
            Some(last) => drop(last.shards.insert(shard)),
            None => self.deletions.push(Deletion {
                at: self.now,
                shards: BTreeSet::from([shard]),
                is_whole: false,
            }),
        }
        let is_owned = self.shards.values().any(|facts| facts.row.is_some_and(|row| row.row.owner.is_some()));
        if let Some(last) = self.deletions.last_mut() {
            last.is_whole = !is_owned;
        }
    }

    /// An outsider deleted the table.
    pub(super) fn table_removed(&mut self) {
        self.table_gone.push((self.now, None));
    }

    /// The table was created again.
    pub(super) fn table_created(&mut self) {
        if let Some((_, until)) = self.table_gone.last_mut() {
            *until = Some(self.now);
        }
    }

    /// Whether the table was missing within a time range.
    pub(super) fn is_table_gone(&self, from: u64, to: u64) -> bool {
        self.table_gone.iter().any(|(began, ended)| *began <= to && ended.is_none_or(|ended| ended >= from))
    }

    /// Whether a deletion explains that an acknowledged record is delivered again: no worker that lives on knew a
    /// position after it, or one of its two readers had just started into an emptied table.
    pub(super) fn may_be_unknown(
        &self,
        shard: ShardNumber,
        index: usize,
        acknowledged_at: u64,
        (before, reader): (Process, Process),
    ) -> bool {
        self.deletions.iter().any(|deletion| {
            self.concerns(deletion, shard)
                && (self.is_newcomer(deletion, reader, self.now)
                    || self.is_newcomer(deletion, before, acknowledged_at)
                    || deletion.at + UNNOTICED_MILLIS >= acknowledged_at
                        && !(index < self.known_before(deletion, shard) && self.has_witness(deletion)))
        })
    }

    /// Whether a process has just started into the table that this deletion emptied.
    fn is_newcomer(&self, deletion: &Deletion, process: Process, at: u64) -> bool {
        let Some(facts) = self.process(process) else { return true };
        let began = facts.start_failed_at.unwrap_or(0).max(facts.started_at).max(self.back_at(deletion));
        deletion.is_whole && facts.started_at + READY_MILLIS > deletion.at && at <= began + NEWCOMER_MILLIS
    }

    /// When there was a table again after a deletion.
    fn back_at(&self, deletion: &Deletion) -> u64 {
        let gone = self.table_gone.iter().find(|(at, _)| *at == deletion.at);
        gone.map_or(deletion.at, |(_, until)| until.unwrap_or(self.now))
    }

    /// Whether a deletion may set the position of a shard back: its own row was deleted, or that of an ancestor or
    /// descendant, from which the fleet knows that the shard is done.
    fn concerns(&self, deletion: &Deletion, shard: ShardNumber) -> bool {
        let is_related = |other: &ShardNumber| self.descends(shard, *other) || self.descends(*other, shard);
        deletion.shards.iter().any(is_related)
    }

    /// Whether a shard is another one or descends from it.
    pub(super) fn descends(&self, shard: ShardNumber, from: ShardNumber) -> bool {
        shard == from
            || self
                .shards
                .get(&shard)
                .is_some_and(|facts| facts.parents.iter().any(|parent| self.descends(*parent, from)))
    }

    /// Number of records of a shard that every worker knew to be done before a deletion. A row that was restored before it at an
    /// earlier position tells that those who knew better were gone by then; that restoring is judged by its own deletion.
    fn known_before(&self, deletion: &Deletion, shard: ShardNumber) -> usize {
        let Some(facts) = self.shards.get(&shard) else { return 0 };
        let Some(known) = facts.saved.iter().rposition(|(at, _)| at + KNOWN_MILLIS <= deletion.at) else {
            return 0;
        };
        let until_deletion = facts.saved.iter().skip(known).take_while(|(at, _)| *at <= deletion.at);
        let indices = until_deletion.map(|(_, position)| facts.index_after(*position));
        indices.min().unwrap_or(0)
    }

    /// Whether a worker knew the rows before a deletion and lived until they were restored.
    fn has_witness(&self, deletion: &Deletion) -> bool {
        let restored_at = self.now.min(self.back_at(deletion) + RESTORED_MILLIS);
        (0..).zip(&self.processes).any(|(process, facts)| {
            let began = facts.start_failed_at.unwrap_or(0).max(facts.started_at);
            let ended = facts.over_at.into_iter().chain(facts.stop_requested_at).min();
            began + READY_MILLIS <= deletion.at
                && ended.is_none_or(|ended| ended > restored_at)
                && !self.is_disturbed(process, began, restored_at)
        })
    }
}
