//! Decides when the next checkpoint is due.

use std::num::NonZeroU64;

use tokio::time::{Duration, Instant};

/// The cadence of checkpoints: after an interval or a number of records, whichever comes first.
///
/// The interval counts from the last attempt to write, so an idle period is followed by one write, not by a burst. It is a
/// timer, so the last record before an idle period is checkpointed too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// The time between two writes, unless enough records are acknowledged earlier.
    pub interval: Duration,
    /// Write as soon as this many records are acknowledged and not checkpointed; `None` uses the interval only.
    pub records: Option<NonZeroU64>,
}

impl Default for Cadence {
    /// Every 5 seconds, whatever the number of records.
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), records: None }
    }
}

/// The acknowledged records that are not checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unwritten {
    /// The number of records; 0 when there is nothing to write.
    pub(crate) records: u64,
    /// The time of the last attempt to write, or the start of the checkpointer.
    pub(crate) last_write_at: Instant,
}

/// The result of [`Cadence::due`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Write now.
    Now,
    /// Write at this time, or earlier once enough records are acknowledged.
    At(Instant),
    /// Never: every acknowledged position is written.
    Never,
}

impl Cadence {
    /// Decides when the next write is due.
    pub(crate) fn due(&self, now: Instant, unwritten: Unwritten) -> Due {
        let due_at = unwritten.last_write_at + self.interval;
        let enough = self.records.is_some_and(|limit| unwritten.records >= limit.get());
        match unwritten.records {
            0 => Due::Never,
            _ if enough || now >= due_at => Due::Now,
            _ => Due::At(due_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CADENCE: Cadence = Cadence { interval: Duration::from_secs(10), records: NonZeroU64::new(100) };

    fn due(records: u64, seconds_since_write: u64) -> Due {
        let last_write_at = Instant::now();
        let now = last_write_at + Duration::from_secs(seconds_since_write);
        match CADENCE.due(now, Unwritten { records, last_write_at }) {
            Due::At(at) => {
                assert_eq!(at, last_write_at + CADENCE.interval);
                Due::At(at)
            }
            other => other,
        }
    }

    #[test]
    fn a_write_is_due_after_the_interval_or_enough_records() {
        assert!(matches!(due(1, 0), Due::At(_)));
        assert!(matches!(due(99, 9), Due::At(_)));
        assert_eq!(due(1, 10), Due::Now);
        assert_eq!(due(100, 0), Due::Now);
    }

    #[test]
    fn without_acknowledged_records_nothing_is_due() {
        assert_eq!(due(0, 3600), Due::Never);
    }
}
