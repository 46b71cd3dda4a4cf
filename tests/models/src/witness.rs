//! The kinds of steps that happened at least once. They show that a model does not keep its properties by doing
//! nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of kinds of steps. Clones share it.
#[derive(Clone, Default)]
pub struct Witnesses(Arc<AtomicU64>);

impl Witnesses {
    /// Adds a kind of step.
    pub fn record(&self, what: impl Into<u32>) {
        self.0.fetch_or(1 << what.into(), Ordering::Relaxed);
    }

    /// Whether a step of this kind happened.
    pub fn contains(&self, what: impl Into<u32>) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << what.into()) != 0
    }
}

impl fmt::Debug for Witnesses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#b}", self.0.load(Ordering::Relaxed))
    }
}
