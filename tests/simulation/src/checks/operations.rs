//! What an operator may cause who carries out plans on a running fleet: a reset moves the position of one shard as far as it
//! was asked, no live owner is passed over, and no worker reads a paused shard.

use super::facts::{Checks, Edit, FAILOVER_MILLIS};
use super::leases::Write;
use super::promise::{Promise, Verdict};
use crate::event::{ReadPosition, Row, ShardNumber, WriteKind, Writer};

/// How long an owner may go on after its shard was paused, in milliseconds: a renewal, its drain time, a late answer, all by
/// the slowest clock.
const STOP_MILLIS: u64 = 45_000;

impl Checks {
    /// Notes a reset and a pause.
    pub(super) fn note_operation(&mut self, write: &Write, before: Option<Row>, after: Option<Row>) {
        let now = self.now;
        let Some(facts) = self.shards.get_mut(&write.shard) else { return };
        if write.kind == WriteKind::Take
            && let (Some(before), Some(after)) = (before, after)
            && before.paused_until.is_some_and(|until| now < until)
        {
            facts.paused_takes.push(after.counter);
        }
        let paused_until = after.and_then(|row| row.paused_until);
        facts.paused = match (facts.paused, paused_until) {
            (Some((since, until)), Some(new)) if until == new => Some((since, until)),
            (_, Some(until)) => Some((now, until)),
            (_, None) => None,
        };
        let is_created = write.by == Writer::Operator && write.kind == WriteKind::Create;
        let (Some(after), true) = (after, write.kind == WriteKind::Reset || is_created) else { return };
        // The row of a shard that was read to its end may be gone.
        let from = match (before.map(|row| row.checkpoint), facts.starts_at_index) {
            (None, _) if facts.had_row => ReadPosition::End,
            (Some(ReadPosition::Start), Some(index)) if index > 0 => {
                ReadPosition::After(facts.log[index - 1])
            }
            (None, _) => ReadPosition::Start,
            (Some(checkpoint), _) => checkpoint,
        };
        let at_instant = |millis: u64| facts.arrived.partition_point(|arrived| *arrived < millis);
        facts.starts_at_index = match after.checkpoint {
            ReadPosition::Start => after.starts_at.map(at_instant),
            _ => None,
        };
        let to = match facts.starts_at_index {
            Some(0) | None => after.checkpoint,
            Some(index) => ReadPosition::After(facts.log[index - 1]),
        };
        facts.edits.push(Edit { at: now, from, to, owner: None, fences: true, is_replaced: false });
        facts.advance();
    }

    /// Checks that an operator changes nothing behind the back of a live owner: it only leaves notes and requests.
    pub(super) fn check_operator(&self, write: &Write, before: Option<Row>) -> Verdict {
        let Some(before) = before.filter(|before| before.owner.is_some()) else { return Ok(()) };
        let is_note = matches!(write.kind, WriteKind::Note | WriteKind::Request);
        let unchanged_since = self.shards.get(&write.shard).and_then(|facts| facts.row);
        let is_expired = unchanged_since.is_some_and(|row| row.changed_at + FAILOVER_MILLIS <= self.now);
        if write.by != Writer::Operator || is_note || is_expired || before.checkpoint == ReadPosition::End {
            return Ok(());
        }
        let why = format!("s{}: an operator may not {} the lease of a live owner", write.shard, write.kind);
        self.broken(Promise::OneOwner, why)
    }

    /// Checks that an owner stores exactly the position that it was asked for.
    pub(super) fn check_reset(&self, write: &Write, before: Row, after: Row) -> Verdict {
        let is_of_owner = write.kind == WriteKind::Reset && write.by != Writer::Operator;
        if is_of_owner && before.asked != Some((after.checkpoint, after.starts_at)) {
            let why = format!(
                "s{}: the owner was asked for {:?} and stores {} of {:?}",
                write.shard, before.asked, after.checkpoint, after.starts_at
            );
            return self.broken(Promise::NothingSkipped, why);
        }
        Ok(())
    }

    /// Checks that no worker starts to read a paused shard.
    pub(super) fn check_start_of_paused(&self, shard: ShardNumber, token: u64) -> Verdict {
        let facts = self.shards.get(&shard);
        if facts.is_some_and(|facts| facts.paused_takes.contains(&token)) {
            return self.broken(Promise::PauseKept, format!("s{shard} is paused, and its reading starts"));
        }
        Ok(())
    }

    /// Checks that no worker goes on reading a paused shard.
    pub(super) fn check_paused(&self, shard: ShardNumber) -> Verdict {
        let paused = self.shards.get(&shard).and_then(|facts| facts.paused);
        let Some((since, until)) = paused else { return Ok(()) };
        if self.now >= since + STOP_MILLIS && self.now < until {
            let why = format!("s{shard} is paused since {since} ms until {until} ms, and read");
            return self.broken(Promise::PauseKept, why);
        }
        Ok(())
    }
}
