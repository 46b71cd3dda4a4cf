//! What happens to records that the application cannot process.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::DeadLetterSink;

/// What happens to records that the application cannot process: its code returned an error, panicked, took too long, or
/// dropped an acknowledgement.
///
/// First they are tried again in place, after a randomised wait. When the attempts are used up, a batch is divided if the
/// policy says so, until the record is found that cannot be processed; what comes before and after it goes on. For that
/// record the last resort is taken.
///
/// ```
/// use shard_worker::{FailurePolicy, FileDeadLetters};
/// use std::{num::NonZeroU32, time::Duration};
///
/// let policy = FailurePolicy::dead_letters(FileDeadLetters::new("rejected.jsonl"))
///     .attempts(NonZeroU32::MIN.saturating_add(4))
///     .time_limit(Duration::from_secs(60));
/// # let _ = policy;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct FailurePolicy {
    attempts: NonZeroU32,
    time_limit: Option<Duration>,
    divides: bool,
    last_resort: LastResort,
}

#[derive(Debug, Clone)]
pub(crate) enum LastResort {
    Halt,
    DeadLetter(Arc<dyn DeadLetterSink>),
    Skip,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try the same again after a wait.
    Again,
    /// Try the same again after a wait; somebody should know that it goes on for too long.
    Halt,
    /// Try each half by itself.
    Divide,
    /// Take the last resort.
    GiveUp,
}

impl FailurePolicy {
    /// How often a batch is tried before the last resort, unless it is set otherwise: with the default waits that takes
    /// about a minute and a half.
    pub const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(11);

    fn with(last_resort: LastResort, divides: bool) -> Self {
        Self { attempts: Self::DEFAULT_ATTEMPTS, time_limit: None, divides, last_resort }
    }

    /// The shard stands still and is reported as halted; its batch is tried again at the longest wait, so that the end of
    /// an outage ends the halt too. Nothing is passed. This is the default.
    pub fn halt() -> Self {
        Self::with(LastResort::Halt, false)
    }

    /// A record that cannot be processed goes to a sink, with its position, the attempts and the error; then the shard
    /// goes on. As long as the sink does not take it, the shard stands still.
    pub fn dead_letters(sink: impl DeadLetterSink) -> Self {
        Self::with(LastResort::DeadLetter(Arc::new(sink)), true)
    }

    /// A record that cannot be processed is passed, counted and logged. It is lost to the application.
    pub fn skip() -> Self {
        Self::with(LastResort::Skip, true)
    }

    /// How often a batch is tried, the first attempt included.
    pub fn attempts(self, attempts: NonZeroU32) -> Self {
        Self { attempts, ..self }
    }

    /// How long the application's code may take for a batch; then it is cut short at its next await point, and that counts
    /// as a failure. Without one only the watchdog ends it. What is acknowledged later than its processor returns is not
    /// timed.
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit: Some(time_limit), ..self }
    }

    /// Whether a batch is divided to find the record that cannot be processed. Otherwise all its records share its fate.
    /// A part is tried once before it is divided further, a single record as often as the batch was.
    pub fn divide(self, divides: bool) -> Self {
        Self { divides, ..self }
    }

    pub(crate) fn handler_time_limit(&self) -> Option<Duration> {
        self.time_limit
    }

    pub(crate) fn last_resort(&self) -> &LastResort {
        &self.last_resort
    }

    /// What to do after so many failed attempts at so many records, which may be a part of a batch.
    pub(crate) fn verdict(&self, attempts: u32, records: usize, is_part: bool) -> Verdict {
        let divisible = self.divides && records > 1;
        if divisible && is_part {
            return Verdict::Divide;
        }
        match (attempts < self.attempts.get(), &self.last_resort) {
            (true, _) => Verdict::Again,
            (false, _) if divisible => Verdict::Divide,
            (false, LastResort::Halt) => Verdict::Halt,
            (false, LastResort::DeadLetter(_) | LastResort::Skip) => Verdict::GiveUp,
        }
    }
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self::halt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_first_then_division_then_the_last_resort() {
        let three = NonZeroU32::MIN.saturating_add(2);
        let skip = FailurePolicy::skip().attempts(three);
        let halt = FailurePolicy::halt().attempts(three);
        for (policy, attempts, records, is_part, expected) in [
            (&skip, 1, 10, false, Verdict::Again),
            (&skip, 2, 10, false, Verdict::Again),
            (&skip, 3, 10, false, Verdict::Divide),
            (&skip, 1, 5, true, Verdict::Divide),
            (&skip, 2, 1, true, Verdict::Again),
            (&skip, 3, 1, true, Verdict::GiveUp),
            (&skip, 3, 1, false, Verdict::GiveUp),
            (&halt, 2, 10, false, Verdict::Again),
            (&halt, 3, 10, false, Verdict::Halt),
            (&halt, 4, 10, false, Verdict::Halt),
        ] {
            assert_eq!(
                policy.verdict(attempts, records, is_part),
                expected,
                "{attempts} {records} {is_part}"
            );
        }
        let together = skip.divide(false);
        assert_eq!(together.verdict(3, 10, false), Verdict::GiveUp);
        assert_eq!(halt.divide(true).verdict(3, 10, false), Verdict::Divide);
    }
}
