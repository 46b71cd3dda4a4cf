//! The policy for records that the application cannot process: retry, divide, and then the last resort.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::DeadLetterSink;

/// What happens to records that the application cannot process: its code returned an error, panicked, took too long, or
/// dropped an acknowledgement.
///
/// First they are retried in place, after a randomised wait. After the last attempt a policy that divides halves the batch
/// until it finds the poison record; the records before and after it are processed. The last resort applies to the poison
/// record. An error that is [permanent](crate::ProcessError) has no further attempts.
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
    /// Retry the same records after a wait.
    Retry,
    /// Retry the same records after a wait, and report the shard as halted.
    Halt,
    /// Deliver each half by itself.
    Divide,
    /// Apply the last resort.
    LastResort,
}

impl FailurePolicy {
    /// The default number of attempts before the last resort; with the default waits they take about a minute and a half.
    pub const DEFAULT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(11);

    fn with(last_resort: LastResort, divides: bool) -> Self {
        Self { attempts: Self::DEFAULT_ATTEMPTS, time_limit: None, divides, last_resort }
    }

    /// The shard makes no progress and is reported as halted. Its batch is retried at the longest wait, so that the end of
    /// an outage also ends the halt. No record is passed. This is the default.
    pub fn halt() -> Self {
        Self::with(LastResort::Halt, false)
    }

    /// A record that cannot be processed goes to a sink, with its position, the attempts and the error; then the shard
    /// continues. While the sink fails, the shard makes no progress.
    pub fn dead_letters(sink: impl DeadLetterSink) -> Self {
        Self::with(LastResort::DeadLetter(Arc::new(sink)), true)
    }

    /// A record that cannot be processed is passed, counted and logged. It is lost to the application.
    pub fn skip() -> Self {
        Self::with(LastResort::Skip, true)
    }

    /// The number of attempts at a batch, the first one included.
    pub fn attempts(self, attempts: NonZeroU32) -> Self {
        Self { attempts, ..self }
    }

    /// How long the application's code may take for a batch; then it is cancelled at its next await point, which counts as
    /// a failure. Without a limit only the watchdog cancels it. The limit does not apply to late acknowledgements.
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit: Some(time_limit), ..self }
    }

    /// Whether a batch is divided to find its poison record. Otherwise the last resort applies to all its records. A part
    /// gets one attempt before it is divided further, a single record as many attempts as the batch.
    pub fn divide(self, divides: bool) -> Self {
        Self { divides, ..self }
    }

    pub(crate) fn handler_time_limit(&self) -> Option<Duration> {
        self.time_limit
    }

    pub(crate) fn last_resort(&self) -> &LastResort {
        &self.last_resort
    }

    /// What to do after this number of failed attempts at these records; `is_part`: they are a part of a failed batch;
    /// `is_permanent`: another attempt fails in the same way.
    pub(crate) fn verdict(
        &self,
        attempts: u32,
        records: usize,
        is_part: bool,
        is_permanent: bool,
    ) -> Verdict {
        let divisible = self.divides && records > 1;
        if divisible && is_part {
            return Verdict::Divide;
        }
        match (attempts < self.attempts.get() && !is_permanent, &self.last_resort) {
            (true, _) => Verdict::Retry,
            (false, _) if divisible => Verdict::Divide,
            (false, LastResort::Halt) => Verdict::Halt,
            (false, LastResort::DeadLetter(_) | LastResort::Skip) => Verdict::LastResort,
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
    fn retries_come_first_then_division_then_the_last_resort() {
        let three = NonZeroU32::MIN.saturating_add(2);
        let skip = FailurePolicy::skip().attempts(three);
        let halt = FailurePolicy::halt().attempts(three);
        for (policy, attempts, records, is_part, expected) in [
            (&skip, 1, 10, false, Verdict::Retry),
            (&skip, 2, 10, false, Verdict::Retry),
            (&skip, 3, 10, false, Verdict::Divide),
            (&skip, 1, 5, true, Verdict::Divide),
            (&skip, 2, 1, true, Verdict::Retry),
            (&skip, 3, 1, true, Verdict::LastResort),
            (&skip, 3, 1, false, Verdict::LastResort),
            (&halt, 2, 10, false, Verdict::Retry),
            (&halt, 3, 10, false, Verdict::Halt),
            (&halt, 4, 10, false, Verdict::Halt),
        ] {
            assert_eq!(
                policy.verdict(attempts, records, is_part, false),
                expected,
                "{attempts} {records} {is_part}"
            );
        }
        let together = skip.divide(false);
        assert_eq!(together.verdict(3, 10, false, false), Verdict::LastResort);
        assert_eq!(halt.divide(true).verdict(3, 10, false, false), Verdict::Divide);
    }

    #[test]
    fn permanent_failure_skips_the_retries() {
        let (skip, halt) = (FailurePolicy::skip(), FailurePolicy::halt());
        assert_eq!(skip.verdict(1, 10, false, true), Verdict::Divide);
        assert_eq!(skip.verdict(1, 1, true, true), Verdict::LastResort);
        assert_eq!(skip.verdict(1, 1, false, true), Verdict::LastResort);
        assert_eq!(halt.verdict(1, 10, false, true), Verdict::Halt);
        assert_eq!(skip.divide(false).verdict(1, 10, false, true), Verdict::LastResort);
    }
}
