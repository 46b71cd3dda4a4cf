//! When to write a checkpoint.

use std::num::NonZeroU64;

use tokio::time::{Duration, Instant};

/// How often the newest position is written: after a time or after a number of records, whichever comes first.
///
/// The time counts from the last write, so an idle stretch earns no burst; and it is a timer, so the last record
/// before an idle stretch is written too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// At least this long between two writes, unless the number of records asks for one earlier.
    pub interval: Duration,
    /// Write as soon as so many records are acknowledged and not written; `None`: only time counts.
    pub records: Option<NonZeroU64>,
}

impl Default for Cadence {
    /// Every 5 seconds, whatever the number of records.
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), records: None }
    }
}

/// What is acknowledged and not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritten {
    /// The number of records; 0 when there is nothing to write.
    pub records: u64,
    /// When the last write was tried, or the shard was opened.
    pub last_write_at: Instant,
}

/// What [`Cadence::due`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Write now.
    Now,
    /// Write at this time, unless the number of records asks for it earlier.
    At(Instant),
    /// There is nothing to write.
    Never,
}

impl Cadence {
    /// When the next write is due.
    pub fn due(&self, now: Instant, unwritten: Unwritten) -> Due {
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
    fn time_or_records_whichever_comes_first() {
        assert!(matches!(due(1, 0), Due::At(_)));
        assert!(matches!(due(99, 9), Due::At(_)));
        assert_eq!(due(1, 10), Due::Now);
        assert_eq!(due(100, 0), Due::Now);
    }

    #[test]
    fn nothing_acknowledged_is_never_due() {
        assert_eq!(due(0, 3600), Due::Never);
    }
}
