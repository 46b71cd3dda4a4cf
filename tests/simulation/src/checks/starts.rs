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
    /// At the tip, the rows say where that was. Workers that start while there is no row yet have an instant each, none of them
    /// later than the first row: whatever arrives after the latest of these must be read, whoever creates the other rows.
    pub(super) fn note_start(&mut self, after: Option<Row>) {
        let Some(starts_at) = after.and_then(|row| row.starts_at) else { return };
        let first_row_at = *self.first_row_at.get_or_insert(self.now);
        if self.start != Some(Start::Latest) || starts_at > first_row_at {
            return;
        }
        let (earliest, latest) = self.starts_at.unwrap_or((starts_at, starts_at));
        self.starts_at = Some((earliest.min(starts_at), latest.max(starts_at)));
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
        self.starts_at.map_or(u64::MAX, |(_, latest)| latest.saturating_add(cut))
    }

    /// Whether what arrived at a time is from before the start.
    pub(super) fn is_early(&self, arrived: u64) -> bool {
        self.starts_at.is_none_or(|(earliest, _)| arrived < earliest)
    }
}
