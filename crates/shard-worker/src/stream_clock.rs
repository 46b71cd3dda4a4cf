//! The time by the clock of a stream, told from one reading of it.

use std::time::SystemTime;

use tokio::time::Instant;

/// The clock that stamps the records of a stream, read once; from then on it goes as this process's clock does. A pause of
/// the whole machine makes it late, never early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClock {
    time: SystemTime,
    read_at: Instant,
}

impl StreamClock {
    /// It was this time at this instant, or a little later.
    pub fn new(time: SystemTime, read_at: Instant) -> Self {
        Self { time, read_at }
    }

    /// The time that was read.
    pub fn read(&self) -> SystemTime {
        self.time
    }

    /// What time it is at an instant; before the clock was read, the time that was read.
    pub fn at(&self, instant: Instant) -> SystemTime {
        let since = instant.saturating_duration_since(self.read_at);
        self.time.checked_add(since).unwrap_or(self.time)
    }
}
