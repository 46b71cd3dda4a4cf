//! Promises about the start: what arrived since the instant that the table keeps is read, and nothing before it.

use super::Checks;
use crate::event::Row;
use crate::plan::Start;

/// The instant that a plan starts at, where the plan says it.
pub(super) fn of_plan(start: Start) -> Option<u64> {
    match start {
        Start::TrimHorizon => Some(0),
        Start::AtTimestamp(millis) => Some(millis),
        Start::Latest => None,
    }
}

impl Checks {
    /// At the tip, the earliest instant that a row keeps says where that was, for all shards: from then on nothing may be
    /// missing, whoever creates the other rows.
    pub(super) fn note_start(&mut self, after: Option<Row>) {
        let Some(starts_at) = after.and_then(|row| row.starts_at) else { return };
        if self.start != Some(Start::Latest) || self.starts_at.is_some_and(|known| known <= starts_at) {
            return;
        }
        self.starts_at = Some(starts_at);
        for facts in self.shards.values_mut() {
            facts.from = starts_at;
            facts.advance();
        }
    }
}
