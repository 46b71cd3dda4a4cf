//! How the subscriptions of a stream are going.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How the subscriptions of a stream are going, in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FanOutStatus {
    /// The consumer; `None`: not known yet.
    pub consumer_arn: Option<String>,
    /// How many shards have a subscription now.
    pub subscribed_shards: usize,
    /// How many shards are polled now, because their subscriptions kept failing.
    pub polled_shards: usize,
    /// How many subscriptions the service has accepted.
    pub sessions: u64,
    /// How many subscriptions were refused, broke or fell silent.
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

/// One of a number of things, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(crate) fn in_(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
