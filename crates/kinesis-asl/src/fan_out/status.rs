//! Counts of the subscriptions of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts of the subscriptions of a stream in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FanOutStatus {
    /// The ARN of the consumer; `None`: not known yet.
    pub consumer_arn: Option<String>,
    /// Shards with a subscription now.
    pub subscribed_shards: usize,
    /// Shards that are polled now, because their subscriptions kept failing.
    pub polled_shards: usize,
    /// Subscriptions that the service has accepted.
    pub sessions: u64,
    /// Subscriptions that were refused, broke or became silent.
    pub failed_sessions: u64,
}

/// The counts behind [`FanOutStatus`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) subscribed_shards: Arc<AtomicUsize>,
    pub(crate) polled_shards: Arc<AtomicUsize>,
    sessions: AtomicU64,
    failed_sessions: AtomicU64,
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed_sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn status(&self, consumer_arn: Option<String>) -> FanOutStatus {
        FanOutStatus {
            consumer_arn,
            subscribed_shards: self.subscribed_shards.load(Ordering::Relaxed),
            polled_shards: self.polled_shards.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
            failed_sessions: self.failed_sessions.load(Ordering::Relaxed),
        }
    }
}

/// Adds one to a count until it is dropped.
#[derive(Debug)]
pub(crate) struct CountGuard(Arc<AtomicUsize>);

impl CountGuard {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
