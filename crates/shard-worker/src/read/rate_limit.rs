//! How fast records are delivered: a fixed limit for all shards together, and an adaptive one for each shard.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The number of parts of a second; a batch holds at most the records of one part, so that the delivery is even.
const PARTS_PER_SECOND: u64 = 10;

/// A fixed limit to the delivery rate, shared by all shards that own a clone of it.
///
/// Sub-records count one by one. The delivery is even: an unused part of the limit is not made up for later.
#[derive(Debug, Clone, Default)]
pub struct RateLimit {
    records: Option<SharedPace>,
    payload_bytes: Option<SharedPace>,
}

#[derive(Debug, Clone)]
struct SharedPace {
    per_second: NonZeroU64,
    pace: Arc<Mutex<Pace>>,
}

impl RateLimit {
    /// Limits the records, each sub-record of an aggregate counted, and the payload bytes delivered in a second; `None`: no
    /// limit. The rate is even: a batch takes at most a tenth of a second's share.
    pub fn new(records_per_second: Option<NonZeroU64>, payload_bytes_per_second: Option<NonZeroU64>) -> Self {
        let shared = |per_second: NonZeroU64| SharedPace { per_second, pace: Arc::default() };
        Self { records: records_per_second.map(shared), payload_bytes: payload_bytes_per_second.map(shared) }
    }

    /// The most records of one batch.
    pub(crate) fn records_at_once(&self) -> Option<NonZeroUsize> {
        let records = self.records.as_ref()?.per_second.get() / PARTS_PER_SECOND;
        NonZeroUsize::new(usize::try_from(records).unwrap_or(usize::MAX).max(1))
    }

    /// The most payload bytes of one batch.
    pub(crate) fn payload_bytes_at_once(&self) -> Option<NonZeroU64> {
        NonZeroU64::new((self.payload_bytes.as_ref()?.per_second.get() / PARTS_PER_SECOND).max(1))
    }

    /// Counts a batch; returns when it may be delivered.
    pub(crate) fn take(&self, records: u64, payload_bytes: u64, now: Instant) -> Instant {
        let at = |shared: &Option<SharedPace>, amount| {
            shared.as_ref().map_or(now, |shared| {
                let mut pace = shared.pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.take(amount, shared.per_second.get() as f64, now)
            })
        };
        at(&self.records, records).max(at(&self.payload_bytes, payload_bytes))
    }
}

/// Spaces batches: each follows the one before it after the time that one takes at the rate.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    free_at: Option<Instant>,
}

impl Pace {
    fn take(&mut self, amount: u64, per_second: f64, now: Instant) -> Instant {
        let at = self.free_at.map_or(now, |free_at| free_at.max(now));
        self.free_at = Some(at + Duration::from_secs_f64(amount as f64 / per_second));
        at
    }
}

/// A limit for one shard that adapts to the systems behind the application: a failure halves the rate, and each batch that
/// succeeds raises it a little, until there is no limit again.
///
/// Without failures there is no limit: the next batch waits for the one before it anyway.
#[derive(Debug, Default)]
pub(crate) struct AdaptiveRate {
    pace: Pace,
    /// Records a second; `None`: no limit.
    limit: Option<Limit>,
    /// How many records a second the application has processed recently.
    speed: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    per_second: f64,
    /// The rise after each success.
    step: f64,
    /// The rate at which the limit ends.
    until: f64,
}

impl AdaptiveRate {
    /// The lowest limit, in records a second.
    const LOWEST: f64 = 1.0;
    /// The number of successes that undo a halving.
    const STEPS_BACK: f64 = 20.0;
    /// The limit ends at this multiple of the speed before the failure.
    const ENDS_AT: f64 = 2.0;
    /// The weight of the newest batch in the speed.
    const WEIGHT: f64 = 0.3;

    pub(crate) fn failed(&mut self) {
        let before = match (self.limit, self.speed) {
            (Some(limit), speed) => limit.per_second.min(speed.unwrap_or(f64::INFINITY)),
            (None, Some(speed)) => speed,
            // The speed is not known yet; the wait before the retry has to suffice.
            (None, None) => return,
        };
        let per_second = (before / 2.0).max(Self::LOWEST);
        let until =
            self.limit.map_or(before * Self::ENDS_AT, |limit| limit.until).max(Self::LOWEST * Self::ENDS_AT);
        self.limit = Some(Limit { per_second, step: (before / 2.0 / Self::STEPS_BACK).max(0.1), until });
    }

    /// A batch of `records` was processed in `time`.
    pub(crate) fn succeeded(&mut self, records: usize, time: Duration) {
        let newest = records as f64 / time.as_secs_f64().max(0.001);
        self.speed = Some(self.speed.map_or(newest, |speed| speed + Self::WEIGHT * (newest - speed)));
        if let Some(limit) = &mut self.limit {
            limit.per_second += limit.step;
            if limit.per_second >= limit.until {
                self.limit = None;
            }
        }
    }

    /// Records a second; `None`: no limit.
    pub(crate) fn per_second(&self) -> Option<f64> {
        self.limit.map(|limit| limit.per_second)
    }

    /// The most records of one batch.
    pub(crate) fn records_at_once(&self) -> Option<NonZeroUsize> {
        // Rates are at least one, and a float too large becomes the largest integer.
        let at_once = self.per_second()? / PARTS_PER_SECOND as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        NonZeroUsize::new((at_once as usize).max(1))
    }

    /// Counts a batch; returns when it may be delivered.
    pub(crate) fn take(&mut self, records: usize, now: Instant) -> Instant {
        match self.per_second() {
            Some(per_second) => self.pace.take(records as u64, per_second, now),
            None => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_time_span_sees_more_than_the_rate_and_one_batch(
            rate in 1..10_000_u64,
            steps in prop::collection::vec((1..500_u64, 0..300_u64), 1..100),
        ) {
            let limit = RateLimit::new(NonZeroU64::new(rate), None);
            let (mut now, mut counted) = (Instant::now(), Vec::new());
            for (records, wait) in steps {
                now += Duration::from_millis(wait);
                now = now.max(limit.take(records, 0, now));
                counted.push((now, records));
            }
            for (at, (from, _)) in counted.iter().enumerate() {
                let mut sum = 0;
                for (to, records) in &counted[at..] {
                    // The last batch only starts at the end of the span, so it does not count.
                    let allowed = (*to - *from).as_secs_f64() * rate as f64;
                    prop_assert!(sum as f64 <= allowed + 0.01, "{} in {:?}", sum, *to - *from);
                    sum += records;
                }
            }
        }
    }

    #[test]
    fn shards_share_the_limits_of_records_and_bytes() {
        let limit = RateLimit::new(NonZeroU64::new(100), NonZeroU64::new(1000));
        assert_eq!(limit.records_at_once().map(NonZeroUsize::get), Some(10));
        assert_eq!(limit.payload_bytes_at_once().map(NonZeroU64::get), Some(100));
        let (now, other_shard) = (Instant::now(), limit.clone());
        assert_eq!(limit.take(10, 10, now), now);
        assert_eq!(
            other_shard.take(1, 1000, now),
            now + Duration::from_millis(100),
            "waits for the records of the first batch"
        );
        assert_eq!(
            limit.take(1, 1, now),
            now + Duration::from_millis(1010),
            "waits for the bytes of the second batch"
        );
        let unlimited = RateLimit::default();
        assert_eq!((unlimited.take(u64::MAX, u64::MAX, now), unlimited.records_at_once()), (now, None));
    }

    #[test]
    fn a_failure_halves_the_rate_and_successes_restore_it() {
        let mut rate = AdaptiveRate::default();
        rate.failed();
        assert_eq!(rate.per_second(), None, "the speed is not known yet");
        rate.succeeded(1000, Duration::from_secs(1));
        assert_eq!(rate.per_second(), None);
        rate.failed();
        assert_eq!(rate.per_second(), Some(500.0));
        rate.failed();
        assert_eq!(rate.per_second(), Some(250.0));
        assert_eq!(rate.records_at_once().map(NonZeroUsize::get), Some(25));
        let now = Instant::now();
        assert_eq!(rate.take(25, now), now);
        assert_eq!(rate.take(25, now), now + Duration::from_millis(100));
        let mut successes = 0;
        let mut before = 250.0;
        while let Some(per_second) = rate.per_second() {
            assert!(per_second >= before);
            before = per_second;
            rate.succeeded(100, Duration::from_millis(100));
            successes += 1;
        }
        assert!((100..300).contains(&successes), "{successes}");
        for _ in 0..100 {
            rate.failed();
        }
        assert_eq!(rate.per_second(), Some(AdaptiveRate::LOWEST));
    }
}
