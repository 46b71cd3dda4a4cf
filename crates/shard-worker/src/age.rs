//! An age that grows by itself.

use tokio::time::{Duration, Instant};

/// How old something is: its age at one instant, which grows with the clock of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    age: Duration,
    at: Instant,
}

impl Age {
    /// An age at an instant.
    pub fn new(age: Duration, at: Instant) -> Self {
        Self { age, at }
    }

    /// The age now.
    pub fn now(&self) -> Duration {
        self.age + self.at.elapsed()
    }
}
