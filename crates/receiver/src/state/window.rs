//! Counts in a window that slides over the arrival times of records.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lease_store::BoxError;
use serde::{Deserialize, Serialize};
use shard_worker::Record;

use super::{StateChanges, StateError, StateErrorKind, StateLogic, StateSchema};

/// A window that slides over arrival times: its length, and by how much it slides. Time is divided into panes of the length
/// of a slide; a window is a whole number of panes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    slide_millis: u64,
    panes: u64,
}

impl SlidingWindow {
    /// A window of this length that moves by this much, both in whole milliseconds.
    ///
    /// # Errors
    /// `Invalid` when the length is no multiple of the slide, or one of them is 0.
    pub fn new(length: Duration, slide: Duration) -> Result<Self, StateError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (length_millis, slide_millis) = (millis(length), millis(slide));
        if slide_millis == 0 || length_millis == 0 || length_millis % slide_millis != 0 {
            return Err(StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "a window of {length:?} cannot slide by {slide:?}; its length must be a multiple of the slide"
                ),
            ));
        }
        Ok(Self { slide_millis, panes: length_millis / slide_millis })
    }

    /// The pane that an instant lies in, counted from 1970.
    pub fn pane_of(&self, instant: SystemTime) -> u64 {
        let since = instant.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX) / self.slide_millis
    }

    /// Whether a pane can be asked for when the newest arrival is `watermark`: it is in the window that ends with the pane of
    /// the watermark, or in the last complete one, which ends just before it.
    fn is_kept(&self, pane: u64, watermark: SystemTime) -> bool {
        pane.saturating_add(self.panes) >= self.pane_of(watermark)
    }
}

/// The counts of one key, by pane.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaneCounts(BTreeMap<u64, u64>);

impl PaneCounts {
    /// Adds to the count of a pane.
    pub fn add(&mut self, pane: u64, count: u64) {
        let total = self.0.entry(pane).or_default();
        *total = total.saturating_add(count);
    }

    /// The count in the window that ends with the pane of an instant.
    pub fn count(&self, window: &SlidingWindow, instant: SystemTime) -> u64 {
        let last = window.pane_of(instant);
        let first = (last + 1).saturating_sub(window.panes);
        self.0.range(first..=last).map(|(_, count)| count).sum()
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: Self) {
        for (pane, count) in other.0 {
            self.add(pane, count);
        }
    }

    /// Lets go of the panes that are in no window that can still be asked for when the newest arrival is `watermark`: neither
    /// in the one that ends with its pane, nor in the last complete one.
    pub fn expire(&mut self, window: &SlidingWindow, watermark: SystemTime) {
        self.0.retain(|pane, _| window.is_kept(*pane, watermark));
    }

    /// The counts by pane.
    pub fn panes(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.0.iter().map(|(pane, count)| (*pane, *count))
    }
}

/// Counts keys in a window that slides over arrival times. A record that arrives late is counted in its pane as long as that
/// is in a window that can still be asked for; panes before that are let go of, by the newest arrival of the shard.
#[derive(Debug, Clone)]
pub struct SlidingWindowCount<Extract> {
    schema: StateSchema,
    window: SlidingWindow,
    extract: Extract,
}

impl<Extract> SlidingWindowCount<Extract>
where
    Extract: Fn(&Record) -> Result<Vec<(String, u64)>, BoxError> + Send + Sync + 'static,
{
    /// Counts in a window; `extract` takes from a record its keys, each with how often it counts.
    pub fn new(schema: StateSchema, window: SlidingWindow, extract: Extract) -> Self {
        Self { schema, window, extract }
    }
}

impl<Extract> StateLogic for SlidingWindowCount<Extract>
where
    Extract: Fn(&Record) -> Result<Vec<(String, u64)>, BoxError> + Send + Sync + 'static,
{
    type State = PaneCounts;

    fn schema(&self) -> StateSchema {
        self.schema.clone()
    }

    fn update(&self, record: &Record, state: &mut StateChanges<'_, PaneCounts>) -> Result<(), BoxError> {
        let arrival =
            record.approximate_arrival.ok_or("the record has no arrival time, so it is in no window")?;
        let pane = self.window.pane_of(arrival);
        let watermark = state.watermark().unwrap_or(arrival);
        if !self.window.is_kept(pane, watermark) {
            return Ok(());
        }
        for (key, count) in (self.extract)(record)? {
            state.update_by_key(&key, |counts| {
                let mut counts = counts.unwrap_or_default();
                counts.add(pane, count);
                Some(counts)
            });
        }
        Ok(())
    }

    fn merge(&self, _key: &str, mut one: PaneCounts, other: PaneCounts) -> PaneCounts {
        one.merge(other);
        one
    }

    fn expire(&self, state: &mut PaneCounts, watermark: SystemTime) -> bool {
        state.expire(&self.window, watermark);
        !state.0.is_empty()
    }
}
