//! Counts in a sliding window of arrival times.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lease_store::BoxError;
use serde::{Deserialize, Serialize};
use shard_worker::Record;

use crate::error::{StateError, StateErrorKind};
use crate::keyed_state::StateChanges;
use crate::state_logic::{StateLogic, StateSchema};

/// A sliding window of arrival times, with a length and a slide. Time is divided into panes as long as the slide; a window
/// is a whole number of panes.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use processor_state::SlidingWindow;
///
/// // Ten minutes, moved every minute: the panes are minutes.
/// let window = SlidingWindow::new(Duration::from_secs(600), Duration::from_secs(60))?;
/// assert_eq!(window.pane_of(SystemTime::UNIX_EPOCH + Duration::from_secs(150)), 2);
/// assert!(SlidingWindow::new(Duration::from_secs(60), Duration::ZERO).is_err());
/// # Ok::<(), processor_state::StateError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    slide_millis: u64,
    panes: u64,
}

impl SlidingWindow {
    /// A window of this length that moves by this slide, both in whole milliseconds.
    ///
    /// # Errors
    /// `Invalid` when the length is not a multiple of the slide, or one of them is 0.
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

    /// The number of the pane that contains an instant, counted from 1970.
    pub fn pane_of(&self, instant: SystemTime) -> u64 {
        let since = instant.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX) / self.slide_millis
    }

    /// Whether a pane is kept when the newest arrival is `watermark`: it is in the window that ends with the watermark's pane,
    /// or in the last complete window, which ends one pane earlier.
    fn is_kept(&self, pane: u64, watermark: SystemTime) -> bool {
        pane.saturating_add(self.panes) >= self.pane_of(watermark)
    }
}

/// The counts of one key, by pane.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaneCounts(BTreeMap<u64, u64>);

impl PaneCounts {
    /// Adds `count` to the count of a pane. `pane` is the number of the pane since 1970, as [`SlidingWindow::pane_of`] returns
    /// it. The sum ends at `u64::MAX` instead of overflowing.
    pub fn add(&mut self, pane: u64, count: u64) {
        let total = self.0.entry(pane).or_default();
        *total = total.saturating_add(count);
    }

    /// The count in the window that ends with the pane of `instant`.
    pub fn count(&self, window: &SlidingWindow, instant: SystemTime) -> u64 {
        let last = window.pane_of(instant);
        let first = (last + 1).saturating_sub(window.panes);
        self.0.range(first..=last).map(|(_, count)| count).sum()
    }

    /// Adds the counts of the same key in another shard, pane by pane: after a merge of shards, and for totals.
    pub fn merge(&mut self, other: Self) {
        for (pane, count) in other.0 {
            self.add(pane, count);
        }
    }

    /// Drops the panes that are neither in the window that ends with the pane of `watermark`, the newest arrival, nor in the
    /// last complete window.
    pub fn expire(&mut self, window: &SlidingWindow, watermark: SystemTime) {
        self.0.retain(|pane, _| window.is_kept(*pane, watermark));
    }

    /// The counts by pane.
    pub fn panes(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.0.iter().map(|(pane, count)| (*pane, *count))
    }
}

/// Counts keys in a sliding window of arrival times. A late record counts in its own pane while that pane is kept. The newest
/// arrival of the shard decides which panes are kept: those of its window and of the last complete one.
///
/// ```
/// use std::time::Duration;
/// use processor_state::{SlidingWindow, SlidingWindowCount, StateLogic, StateSchema};
///
/// let window = SlidingWindow::new(Duration::from_secs(600), Duration::from_secs(60))?;
/// let logic = SlidingWindowCount::new(StateSchema::new("words", 1), window, |record: &shard_worker::Record| {
///     let text = String::from_utf8_lossy(&record.data);
///     Ok(text.split_whitespace().map(|word| (word.to_owned(), 1)).collect::<Vec<_>>())
/// });
/// assert_eq!(logic.schema().version, 1);
/// # Ok::<(), processor_state::StateError>(())
/// ```
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
    /// Counts in a window; `extract` returns the keys of a record, each with its count.
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
            record.approximate_arrival.ok_or("the record has no arrival time and belongs to no window")?;
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
