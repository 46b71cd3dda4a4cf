//! Promises about the start: what arrived since the instant that the table keeps is read, and nothing before it.

use super::Checks;
use crate::event::Row;
use crate::plan::Start;

/// The service tells its time in whole seconds.
const CLOCK_RESOLUTION_MILLIS: u64 = 1_000;

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
        let from = self.asked_from();
        for facts in self.shards.values_mut() {
            facts.from = from;
            facts.advance();
        }
    }

    /// From when on everything is to be read. The tip is told in whole seconds: what arrived in the second that was cut off
    /// may be read or not.
    pub(super) fn asked_from(&self) -> u64 {
        let cut = if self.start == Some(Start::Latest) { CLOCK_RESOLUTION_MILLIS } else { 0 };
        self.starts_at.map_or(u64::MAX, |starts_at| starts_at.saturating_add(cut))
    }

    /// Whether what arrived at a time is from before the start.
    pub(super) fn is_early(&self, arrived: u64) -> bool {
        self.starts_at.is_none_or(|starts_at| arrived < starts_at)
    }
}
