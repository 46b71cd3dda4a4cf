//! The lag that a holder reports in its row: how old the first record after the stored position is, by the progress of its worker.

use std::sync::{Mutex, PoisonError};

use lease_store::LagReport;
use shard_worker::{ShardProgress, StreamClock};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::lease::orders::millis_of;

/// How old the newest answered read may be for its word that no record waits: the longest idle time between two reads, and a
/// half of it for the read itself.
const MAX_READ_AGE: Duration = Duration::from_secs(90);

/// The shortest time over which bytes per second are measured.
const MIN_RATE_TIME: Duration = Duration::from_secs(1);

/// Measures the lag of a shard for its row. `None` without a clock of the stream: a reader could not tell how old the report is.
pub(crate) fn lag_of(
    progress: watch::Receiver<ShardProgress>,
    clock: Option<StreamClock>,
) -> impl Fn() -> Option<LagReport> + Send + Sync {
    let rate = Mutex::new(Rate::new(Instant::now()));
    move || {
        let measured_at_millis = millis_of(clock)?;
        let (behind, bytes) = {
            let progress = progress.borrow();
            (behind(&progress)?, progress.acknowledged_bytes)
        };
        let processed_bytes_per_second =
            rate.lock().unwrap_or_else(PoisonError::into_inner).add(bytes, Instant::now());
        // A record that waits is at least a millisecond old, so 0 means that none does.
        let at_least = u64::from(!behind.is_zero());
        let behind_millis = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX).max(at_least);
        Some(LagReport { behind_millis, measured_at_millis, processed_bytes_per_second })
    }
}

/// The age of the first record that is not acknowledged; zero if none waits. `None`: the source does not report how far a read
/// lies behind the tip, or the worker reads no further.
fn behind(progress: &ShardProgress) -> Option<Duration> {
    if progress.has_reached_bound {
        return None;
    }
    let read = progress.read_up_to?.now();
    match progress.oldest_unacknowledged {
        Some(oldest) => Some(oldest.now().max(read)),
        None if progress.millis_behind_latest == Some(0) && read <= MAX_READ_AGE => Some(Duration::ZERO),
        None => Some(read),
    }
}

/// Bytes per second, between two measurements.
#[derive(Debug)]
struct Rate {
    since: Instant,
    bytes: u64,
    newest: Option<u64>,
}

impl Rate {
    fn new(since: Instant) -> Self {
        Self { since, bytes: 0, newest: None }
    }

    /// Adds a count and returns the newest rate.
    fn add(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= MIN_RATE_TIME {
            let added = u128::from(bytes.saturating_sub(self.bytes)) * 1_000;
            let rate = added / passed.as_millis().max(1);
            *self = Self { since: now, bytes, newest: Some(u64::try_from(rate).unwrap_or(u64::MAX)) };
        }
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use shard_worker::Age;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn progress(read: u64, behind_latest: u64, oldest: Option<u64>) -> ShardProgress {
        let age = |age| Age::new(seconds(age), Instant::now());
        let mut progress = ShardProgress::default();
        progress.read_up_to = Some(age(read));
        progress.millis_behind_latest = Some(behind_latest * 1_000);
        progress.oldest_unacknowledged = oldest.map(age);
        progress
    }

    #[tokio::test(start_paused = true)]
    async fn first_unacknowledged_record_is_the_lag() {
        assert_eq!(behind(&ShardProgress::default()), None, "nothing was read");
        assert_eq!(behind(&progress(2, 0, None)), Some(Duration::ZERO), "read and acknowledged to the tip");
        assert_eq!(behind(&progress(2, 0, Some(7))), Some(seconds(7)));
        assert_eq!(behind(&progress(50, 50, None)), Some(seconds(50)), "unread records");
        assert_eq!(behind(&progress(91, 0, None)), Some(seconds(91)), "it cannot be read");
        let mut bounded = progress(50, 50, None);
        bounded.has_reached_bound = true;
        assert_eq!(behind(&bounded), None);
    }

    #[tokio::test(start_paused = true)]
    async fn report_has_time_and_rate_and_needs_a_clock() {
        let (sender, receiver) = watch::channel(progress(0, 0, None));
        assert_eq!(lag_of(receiver.clone(), None)(), None);
        let clock = StreamClock::new(SystemTime::UNIX_EPOCH + seconds(100), Instant::now());
        let measure = lag_of(receiver, Some(clock));
        let first = measure().unwrap();
        assert_eq!((first.behind_millis, first.measured_at_millis), (0, 100_000));
        assert_eq!(first.processed_bytes_per_second, None, "no time has passed");
        tokio::time::advance(seconds(2)).await;
        sender.send_modify(|progress| progress.acknowledged_bytes = 4_096);
        let second = measure().unwrap();
        assert_eq!((second.measured_at_millis, second.processed_bytes_per_second), (102_000, Some(2_048)));
    }
}
