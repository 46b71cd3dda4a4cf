//! The time of a look: by the clock of this machine, unless that of the stream shows that it is wrong. Pure.
//!
//! Times of a plan reach the stream: `LATEST` is stored with its instant, and the clock of the stream ends a pause. With a
//! machine whose clock is ahead, records that arrive after a reset would be skipped.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::wall_clock::millis_of;

/// How far the clock of this machine may be ahead of a reading of the stream's clock, in milliseconds: the reading has whole
/// seconds, and is as old as its answer was under way.
const MAX_AHEAD_MILLIS: u64 = 3_000;

/// A reading of the stream's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamTime {
    at_millis: u64,
    read_at: Instant,
}

impl StreamTime {
    /// A reading: the time of a call or a little earlier, and when its answer had arrived.
    pub(crate) fn new(now: SystemTime, read_at: Instant) -> Self {
        Self { at_millis: millis_of(now), read_at }
    }

    /// The time at an instant, where the clock of this machine shows `own_millis`. It is never later than that of the stream by
    /// more than the reading is early.
    pub(crate) fn correct(self, own_millis: u64, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.read_at).as_millis();
        let of_stream = self.at_millis.saturating_add(u64::try_from(since).unwrap_or(u64::MAX));
        let is_right = own_millis >= of_stream && own_millis - of_stream <= MAX_AHEAD_MILLIS;
        if is_right { own_millis } else { of_stream }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wrong_clock_is_replaced_by_that_of_the_stream() {
        let read_at = Instant::now();
        let time = StreamTime::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000), read_at);
        let a_second_later = read_at + Duration::from_secs(1);
        for (own, expected) in [
            (1_001_000, 1_001_000),
            (1_002_900, 1_002_900),
            (1_241_000, 1_001_000),
            (761_000, 1_001_000),
            (1_000_999, 1_001_000),
        ] {
            assert_eq!(time.correct(own, a_second_later), expected, "{own}");
        }
    }
}
