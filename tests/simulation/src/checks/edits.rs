//! What an operator who edits rows of the lease table may cause. An edit moves the position of one shard; every other
//! promise about other records stands.

use super::facts::{Checks, Edit, ShardFacts};
use crate::event::{ReadPosition, Row, ShardNumber, WriteKind, Writer};

impl ShardFacts {
    /// Whether a position in force, set forward by an operator, passes a record.
    pub(super) fn is_passed_by_hand(&self, index: usize) -> bool {
        self.edits.iter().any(|edit| {
            !edit.is_replaced && self.index_after(edit.from) <= index && index < self.index_after(edit.to)
        })
    }

    /// Whether an operator has set the position of the shard back before a record that was acknowledged at a time, or fenced
    /// a holder that had not stored its acknowledgement.
    fn is_set_back_by_hand(&self, index: usize, acknowledged_at: u64) -> bool {
        self.edits.iter().any(|edit| {
            let is_after = index >= self.index_after(edit.to) && acknowledged_at <= edit.at + UNSTORED_MILLIS;
            let is_unstored = edit.fences && acknowledged_at + UNSTORED_MILLIS >= edit.at;
            is_after && (is_unstored || edit.to < edit.from && !edit.is_replaced)
        })
    }

    /// Whether the position in the row is the one of an edit.
    pub(super) fn is_position_of_edit(&self, position: ReadPosition) -> bool {
        self.edits.iter().any(|edit| edit.to == position)
    }
}

/// How long after an edit the holder may acknowledge records before its next checkpoint, in milliseconds: the interval of
/// checkpoints and a slow write.
const UNSTORED_MILLIS: u64 = 20_000;

impl Checks {
    /// Records a write to a row: an edit by an operator, or a checkpoint that replaces one.
    pub(super) fn note_edit(&mut self, by: Writer, shard: ShardNumber, kind: WriteKind, rows: (Row, Row)) {
        let (before, after) = rows;
        let (now, writer) = (self.now, self.name_of(by));
        let Some(facts) = self.shards.get_mut(&shard) else { return };
        let is_edit = before.checkpoint != after.checkpoint || before.counter != after.counter;
        if by == Writer::Outsider && is_edit {
            facts.edits.push(Edit {
                at: now,
                from: before.checkpoint,
                to: after.checkpoint,
                owner: before.owner,
                fences: after.counter > before.counter,
                is_replaced: false,
            });
        } else if kind == WriteKind::Take {
            // A worker that takes the lease has read the edit, also under the name of the holder at the time.
            facts.edits.iter_mut().for_each(|edit| edit.owner = None);
        } else if kind == WriteKind::Checkpoint {
            // Only the holder at the time of the edit does not know of it.
            for edit in facts.edits.iter_mut().filter(|edit| edit.owner.is_some() && edit.owner == writer) {
                edit.is_replaced |= before.checkpoint == edit.to && after.checkpoint != edit.to;
            }
        }
    }

    /// Whether an edit explains that an acknowledged record is delivered again: the operator set the shard back, or rewound
    /// a descendant, whose parents are then read again.
    pub(super) fn is_rewound_by_hand(&self, shard: ShardNumber, index: usize, acknowledged_at: u64) -> bool {
        let Some(facts) = self.shards.get(&shard) else { return false };
        facts.is_set_back_by_hand(index, acknowledged_at)
            || self.shards.iter().any(|(other, facts)| {
                let is_rewound = |edit: &Edit| {
                    edit.to == ReadPosition::Start && acknowledged_at <= edit.at + UNSTORED_MILLIS
                };
                *other != shard && facts.edits.iter().any(is_rewound) && self.descends(*other, shard)
            })
    }

    /// Whether an operator has edited a row.
    pub(super) fn has_edits(&self) -> bool {
        self.shards.values().any(|facts| !facts.edits.is_empty())
    }

    /// Whether a checkpoint may be behind the one before: the holder replaces an edit with its own position.
    pub(super) fn replaces_edit(&self, shard: ShardNumber, before: Row) -> bool {
        let facts = self.shards.get(&shard);
        facts.is_some_and(|facts| facts.is_position_of_edit(before.checkpoint))
    }
}
