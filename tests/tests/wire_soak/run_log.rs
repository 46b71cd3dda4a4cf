//! The log of a run: a line with its time for each event, and counts for the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Prints and counts events. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct RunLog {
    pub(crate) started_at: Instant,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl RunLog {
    pub(crate) fn begin() -> Self {
        Self { started_at: Instant::now(), counts: Arc::default() }
    }

    /// Prints a line with the time since the start.
    pub(crate) fn log(&self, what: &str) {
        println!("   {:>5.1} s  {what}", self.started_at.elapsed().as_secs_f64());
    }

    pub(crate) fn count(&self, what: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what.to_owned()).or_default() += 1;
    }

    /// All counts in one line.
    pub(crate) fn counts(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        words.join(", ")
    }
}
