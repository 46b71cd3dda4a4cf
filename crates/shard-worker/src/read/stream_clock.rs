//! The time by the clock of a stream, computed from one reading of it.

use std::time::SystemTime;

use tokio::time::Instant;

/// The clock that stamps the records of a stream. It is read once and then advances with the clock of this process. A pause
/// of the whole machine makes it late, never early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamClock {
    time: SystemTime,
    read_at: Instant,
}

impl StreamClock {
    /// A clock from one reading: the stream's clock showed `time`, or a little more, at the instant `read_at` of this process.
    /// From then on it advances with the monotonic clock of this process.
    pub fn new(time: SystemTime, read_at: Instant) -> Self {
        Self { time, read_at }
    }

    /// The time at the reading.
    pub fn read(&self) -> SystemTime {
        self.time
    }

    /// The time at an instant; before the reading, the time at the reading.
    pub fn at(&self, instant: Instant) -> SystemTime {
        let since = instant.saturating_duration_since(self.read_at);
        self.time.checked_add(since).unwrap_or(self.time)
    }
}
