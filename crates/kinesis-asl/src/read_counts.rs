//! Counts of the reads of a stream in this process.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of the `GetRecords` calls of a stream in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadCounts {
    /// All calls that have ended.
    pub reads: u64,
    /// Those that were refused because a limit of the shard or of the account was exceeded.
    pub throttled: u64,
    /// Those without a whole answer in time. Each retires the connection that it happened on, if the HTTP client reports it.
    pub timed_out: u64,
    /// Those that failed for another reason, such as an expired iterator.
    pub failed: u64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    Answered,
    Throttled,
    TimedOut,
    Failed,
}

/// The counts behind [`ReadCounts`]: one addition for each call, which has at least a fifth of a second.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters {
    reads: AtomicU64,
    throttled: AtomicU64,
    timed_out: AtomicU64,
    failed: AtomicU64,
}

impl ReadCounters {
    /// Counts a call.
    pub(crate) fn add(&self, end: ReadEnd) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let of_end = match end {
            ReadEnd::Answered => return,
            ReadEnd::Throttled => &self.throttled,
            ReadEnd::TimedOut => &self.timed_out,
            ReadEnd::Failed => &self.failed,
        };
        of_end.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub(crate) fn get(&self) -> ReadCounts {
        ReadCounts {
            reads: self.reads.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_counted_once() {
        let counters = ReadCounters::default();
        for end in
            [ReadEnd::Answered, ReadEnd::Throttled, ReadEnd::TimedOut, ReadEnd::Failed, ReadEnd::Failed]
        {
            counters.add(end);
        }
        assert_eq!(counters.get(), ReadCounts { reads: 5, throttled: 1, timed_out: 1, failed: 2 });
    }
}
