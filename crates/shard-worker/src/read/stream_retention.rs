//! How long the stream keeps records, by all descriptions so far.
//!
//! An operator may change the retention period while a shard is read. Two readings then differ, and the stricter one wins:
//! the horizon is never earlier than under the newest period, nor than it was under an earlier one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::time::{Duration, Instant};

use super::data_loss::RetentionWindow;
use super::stream_clock::StreamClock;
use crate::error::SourceError;
use crate::source::StreamSource;

/// A description is believed for this time, so that many shards with gaps do not describe the stream all the time.
const FRESH_FOR: Duration = Duration::from_secs(60);

/// How long a description of the stream may take. Sources have shorter time-outs of their own.
const DESCRIBE_TIME_LIMIT: Duration = Duration::from_secs(120);

/// The shortest retention period of a Kinesis stream.
const SHORTEST_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// How long the stream keeps records. Clones share it: all shards of a receiver do.
#[derive(Debug, Clone, Default)]
pub struct StreamRetention {
    history: Arc<Mutex<RetentionHistory>>,
    /// One shard describes the stream at a time.
    describing: Arc<tokio::sync::Mutex<()>>,
}

/// The retention periods so far, as pure data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RetentionHistory {
    /// The newest period.
    period: Option<Duration>,
    /// The last horizon under an earlier, shorter period. Records before it are gone for good.
    floor: Option<SystemTime>,
    described_at: Option<Instant>,
}

impl RetentionHistory {
    /// Adds a description; `now` is the time of the stream. A period that is not reported changes nothing.
    fn describe(&mut self, period: Option<Duration>, now: Option<SystemTime>, at: Instant) {
        self.described_at = Some(at);
        let Some(period) = period else { return };
        if let (Some(earlier), Some(now)) = (self.period, now)
            && earlier < period
        {
            self.floor = self.floor.max(now.checked_sub(earlier));
        }
        self.period = Some(period);
    }

    fn window(&self, now: SystemTime) -> Option<RetentionWindow> {
        let retention = self.period?;
        let horizon = now.checked_sub(retention)?;
        Some(RetentionWindow { horizon: self.floor.map_or(horizon, |floor| floor.max(horizon)), retention })
    }

    /// The window under the shortest possible period, in case the operator has shortened it. `None`: the known period
    /// is recent, or cannot be shorter.
    fn shortest_window(&self, now: SystemTime, at: Instant) -> Option<RetentionWindow> {
        let is_fresh = self.described_at.is_some_and(|described| at < described + FRESH_FOR);
        let can_be_shorter = self.period? > SHORTEST_RETENTION;
        let horizon = now.checked_sub(SHORTEST_RETENTION)?;
        (!is_fresh && can_be_shorter).then_some(RetentionWindow { horizon, retention: SHORTEST_RETENTION })
    }
}

impl StreamRetention {
    /// The retention period of a description made just now. `None`: not reported.
    pub fn described(period: Option<Duration>) -> Self {
        let retention = Self::default();
        retention.history().describe(period, None, Instant::now());
        retention
    }

    fn history(&self) -> MutexGuard<'_, RetentionHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest known period.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.history().period
    }

    /// Which records the stream keeps at this time by its own clock.
    pub(crate) fn window(&self, now: SystemTime) -> Option<RetentionWindow> {
        self.history().window(now)
    }

    /// See [`RetentionHistory::shortest_window`].
    pub(crate) fn shortest_window(&self, now: SystemTime, at: Instant) -> Option<RetentionWindow> {
        self.history().shortest_window(now, at)
    }

    /// Describes the stream again, unless another shard has just done so.
    ///
    /// # Errors
    /// A throttled or unavailable stream: ask again. After any other failure the known period stays.
    pub(crate) async fn describe_again(
        &self,
        source: &dyn StreamSource,
        clock: Option<StreamClock>,
    ) -> Result<(), SourceError> {
        let asked_at = Instant::now();
        let _turn = self.describing.lock().await;
        if self.history().described_at.is_some_and(|described| described >= asked_at) {
            return Ok(());
        }
        let described = tokio::time::timeout(DESCRIBE_TIME_LIMIT, source.describe()).await;
        let period = match described {
            Ok(Ok(description)) => description.retention,
            Ok(Err(error)) if error.is_retryable() => return Err(error),
            Ok(Err(error)) => {
                tracing::warn!(%error, "describing the stream failed, the retention period may have changed");
                None
            }
            Err(_) => {
                tracing::warn!(
                    time_limit = ?DESCRIBE_TIME_LIMIT,
                    "the stream was not described in time, the retention period may have changed"
                );
                None
            }
        };
        let before = self.period();
        let now = Instant::now();
        self.history().describe(period, clock.map(|clock| clock.at(now)), now);
        if period.is_some() && before != period {
            tracing::warn!(?before, ?period, "the retention period of the stream has changed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
    }

    proptest! {
        /// Whatever the operator does, the horizon never moves back, and is never earlier than by the newest period.
        #[test]
        fn horizon_never_moves_back(changes in prop::collection::vec((1..1000u64, 1..5000u64), 1..20)) {
            let start = Instant::now();
            let mut history = RetentionHistory::default();
            let (mut second, mut newest) = (0, SystemTime::UNIX_EPOCH);
            for (wait, period) in changes {
                second += wait;
                let period = Duration::from_secs(period);
                history.describe(Some(period), Some(at(second)), start + Duration::from_secs(second));
                let window = history.window(at(second)).unwrap();
                prop_assert!(window.horizon >= newest);
                prop_assert!(window.horizon >= at(second) - period);
                newest = window.horizon;
            }
        }
    }
}
