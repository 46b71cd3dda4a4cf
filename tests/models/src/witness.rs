//! What has happened at least once on the way through the states, so that a model cannot hold its properties by doing nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of things that have happened. Clones share it.
#[derive(Clone, Default)]
pub struct Witnesses(Arc<AtomicU64>);

impl Witnesses {
    /// It happened.
    pub fn saw(&self, what: impl Into<u32>) {
        self.0.fetch_or(1 << what.into(), Ordering::Relaxed);
    }

    /// Whether it has happened.
    pub fn has_seen(&self, what: impl Into<u32>) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << what.into()) != 0
    }
}

impl fmt::Debug for Witnesses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#b}", self.0.load(Ordering::Relaxed))
    }
}
