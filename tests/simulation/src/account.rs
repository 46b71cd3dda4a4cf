//! The limits of an account: calls per second that all processes share.

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

/// Calls of `DescribeStreamSummary` per second (Kinesis API).
const DESCRIPTIONS_PER_SECOND: u64 = 20;

/// Calls of `ListShards` per second; the API's limit counts per stream.
const SHARD_LISTINGS_PER_SECOND: u64 = 100;

/// The number of workers that these limits are meant for. A smaller fleet has a smaller share.
const WORKERS_OF_ACCOUNT: u64 = 1_000;

/// A call that is limited for the whole account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountCall {
    /// `DescribeStreamSummary`.
    Describe,
    /// `ListShards`.
    ListShards,
}

/// The limits and the calls of the last second. Without limits by default.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    per_second: [Option<u64>; 2],
    recent: [VecDeque<Instant>; 2],
}

impl Limits {
    /// The share of a fleet, rounded up to the next whole call.
    pub(crate) fn for_workers(workers: u64) -> Self {
        let share = |limit: u64| Some(limit * workers / WORKERS_OF_ACCOUNT + 1);
        Self {
            per_second: [share(DESCRIPTIONS_PER_SECOND), share(SHARD_LISTINGS_PER_SECOND)],
            ..Self::default()
        }
    }

    /// Counts a call, unless the limit of its kind is reached.
    pub(crate) fn allow(&mut self, call: AccountCall, now: Instant) -> bool {
        let Some(limit) = self.per_second[call as usize] else { return true };
        let recent = &mut self.recent[call as usize];
        while recent.front().is_some_and(|at| now.duration_since(*at) >= Duration::from_secs(1)) {
            recent.pop_front();
        }
        let is_allowed = (recent.len() as u64) < limit;
        if is_allowed {
            recent.push_back(now);
        }
        is_allowed
    }
}
