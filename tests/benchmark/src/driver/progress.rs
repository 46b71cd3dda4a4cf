//! Reports on standard error what the driver does, and how far it is.

use std::time::Instant;

/// The progress over the comparisons of a run.
#[derive(Debug)]
pub(super) struct Progress {
    runs: usize,
    done: usize,
    started_at: Instant,
}

impl Progress {
    /// Reports how many runs are planned. Each takes seconds.
    #[allow(clippy::disallowed_methods)] // the elapsed time is only displayed
    pub(super) fn start(comparisons: usize, runs: usize) -> Self {
        eprintln!("bench: {comparisons} comparisons, {runs} runs");
        Self { runs, done: 0, started_at: Instant::now() }
    }

    /// Reports the start of a run.
    pub(super) fn run(&mut self, text: &str) {
        self.done += 1;
        self.note(&format!("run {} of {}: {text}", self.done, self.runs));
    }

    /// Reports another step.
    pub(super) fn note(&self, text: &str) {
        eprintln!("bench: [{} s] {text}", self.started_at.elapsed().as_secs());
    }
}
