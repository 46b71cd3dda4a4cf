//! Counts of the proxy's actions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts by name.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Counts one.
    pub(super) fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub(super) fn add(&self, what: &str, count: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(known) => *known += count,
            None => drop(counts.insert(what.to_owned(), count)),
        }
    }

    /// The count with this name.
    pub fn of(&self, what: &str) -> u64 {
        self.all().get(what).copied().unwrap_or(0)
    }

    /// All counts.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
