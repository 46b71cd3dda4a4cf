//! The retry policy: the number of attempts and the randomised waits between them.

use std::num::NonZeroU32;

use fastrand::Rng;
use lease_store::settings_format;
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use crate::backoff_delays::ExponentialDelays;

/// The number of attempts and the waits between them. The waits are randomised, so that workers which failed at the
/// same time do not all retry at the same time.
///
/// In a file: `{ first = "200ms", longest = "30s" }` with `max_attempts` or without, or `{ below = "500ms", max_attempts = 4 }`.
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
/// use checkpointer::RetryPolicy;
///
/// let policy = RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(5))
///     .with_max_attempts(NonZeroU32::new(4).expect("four is not zero"));
/// // Four attempts have three waits between them, each random up to a growing bound.
/// assert_eq!(policy.delays(fastrand::Rng::with_seed(7)).count(), 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "InFile", into = "InFile")]
pub struct RetryPolicy {
    max_attempts: Option<NonZeroU32>,
    wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Exponential { first: Duration, longest: Duration },
    UniformBelow(Duration),
}

/// The longest wait that is accepted from a file.
const MAX_WAIT_IN_FILE: Duration = Duration::from_secs(24 * 3600);

/// The policy in a file.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InFile {
    #[serde(with = "settings_format::optional_duration", skip_serializing_if = "Option::is_none")]
    first: Option<Duration>,
    #[serde(with = "settings_format::optional_duration", skip_serializing_if = "Option::is_none")]
    longest: Option<Duration>,
    #[serde(with = "settings_format::optional_duration", skip_serializing_if = "Option::is_none")]
    below: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<NonZeroU32>,
}

impl From<RetryPolicy> for InFile {
    fn from(RetryPolicy { max_attempts, wait }: RetryPolicy) -> Self {
        let mut written = Self { max_attempts, ..Self::default() };
        match wait {
            Wait::Exponential { first, longest } => {
                (written.first, written.longest) = (Some(first), Some(longest));
            }
            Wait::UniformBelow(limit) => written.below = Some(limit),
        }
        written
    }
}

impl TryFrom<InFile> for RetryPolicy {
    type Error = &'static str;

    fn try_from(read: InFile) -> Result<Self, Self::Error> {
        let wait = match read {
            InFile { first: Some(first), longest: Some(longest), below: None, .. } => {
                if first > longest {
                    return Err("`first` of a retry policy must not be longer than `longest`");
                }
                Wait::Exponential { first, longest }
            }
            InFile { first: None, longest: None, below: Some(limit), .. } => Wait::UniformBelow(limit),
            _ => return Err("the waits of a retry policy need either `first` and `longest`, or `below`"),
        };
        if read.longest.max(read.below) > Some(MAX_WAIT_IN_FILE) {
            return Err("the waits of a retry policy must not be longer than a day");
        }
        Ok(Self { max_attempts: read.max_attempts, wait })
    }
}

impl RetryPolicy {
    /// The policy of Spark's Kinesis receiver: 4 attempts, each wait uniformly distributed below 500 ms.
    pub const fn spark() -> Self {
        Self { max_attempts: NonZeroU32::new(4), wait: Wait::UniformBelow(Duration::from_millis(500)) }
    }

    /// Waits that grow by half from `first` to `longest`, each drawn from half to one and a half times its length.
    /// Attempts are not limited; see [`with_max_attempts`](Self::with_max_attempts).
    pub const fn exponential(first: Duration, longest: Duration) -> Self {
        Self { max_attempts: None, wait: Wait::Exponential { first, longest } }
    }

    /// The same waits, but at most this many attempts, including the first one.
    #[must_use]
    pub const fn with_max_attempts(self, max_attempts: NonZeroU32) -> Self {
        Self { max_attempts: Some(max_attempts), ..self }
    }

    /// The waits before the second attempt, the third, and so on, drawn with `rng`. At the end of the iterator no attempts
    /// remain; without a limit on the attempts it has no end.
    pub fn delays(&self, rng: Rng) -> Delays {
        let waits = match self.wait {
            Wait::Exponential { first, longest } => {
                Waits::Exponential(ExponentialDelays::new(first, longest))
            }
            Wait::UniformBelow(limit) => Waits::UniformBelow(limit),
        };
        Delays { waits, attempts_left: self.max_attempts.map(|attempts| attempts.get() - 1), rng }
    }
}

impl Default for RetryPolicy {
    /// 8 attempts within roughly ten seconds: waits from 200 ms up to 5 s.
    fn default() -> Self {
        Self {
            max_attempts: NonZeroU32::new(8),
            ..Self::exponential(Duration::from_millis(200), Duration::from_secs(5))
        }
    }
}

/// The randomised waits of one series of attempts, one item for each further attempt; see [`RetryPolicy::delays`]. It does not
/// wait by itself. It ends after the last attempt, and never for a policy without a limit.
#[derive(Debug)]
pub struct Delays {
    waits: Waits,
    attempts_left: Option<u32>,
    rng: Rng,
}

#[derive(Debug)]
enum Waits {
    Exponential(ExponentialDelays),
    UniformBelow(Duration),
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if let Some(attempts_left) = &mut self.attempts_left {
            *attempts_left = attempts_left.checked_sub(1)?;
        }
        Some(match &mut self.waits {
            Waits::Exponential(delays) => delays.next(&mut self.rng),
            Waits::UniformBelow(limit) => limit.mul_f64(self.rng.f64()),
        })
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_spark_policy_waits_three_times_below_500_ms(seed: u64) {
            let delays: Vec<_> = RetryPolicy::spark().delays(Rng::with_seed(seed)).collect();
            prop_assert_eq!(delays.len(), 3);
            prop_assert!(delays.iter().all(|delay| *delay < Duration::from_millis(500)));
        }

        #[test]
        fn exponential_waits_grow_to_their_limit(seed: u64) {
            let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
            let delays = RetryPolicy::exponential(first, longest).delays(Rng::with_seed(seed));
            for (index, delay) in delays.take(40).enumerate() {
                let nominal = first.mul_f64(1.5_f64.powi(i32::try_from(index).unwrap())).min(longest);
                prop_assert!(delay >= nominal.mul_f64(0.499) && delay <= nominal.mul_f64(1.501), "{}: {:?}", index, delay);
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_waits(seed: u64) {
            let delays = || RetryPolicy::default().delays(Rng::with_seed(seed)).collect::<Vec<_>>();
            prop_assert_eq!(delays(), delays());
        }
    }

    #[test]
    fn waits_are_spread_over_their_range() {
        let delays = (0..1000).map(|seed| {
            let first = RetryPolicy::spark().delays(Rng::with_seed(seed)).next().unwrap();
            first.as_millis()
        });
        let quarters = delays.fold([0; 4], |mut quarters, delay| {
            quarters[usize::try_from(delay / 125).unwrap()] += 1;
            quarters
        });
        assert!(quarters.iter().all(|count| *count > 180), "{quarters:?}");
    }

    #[test]
    fn a_single_attempt_has_no_wait() {
        let once = RetryPolicy::default().with_max_attempts(NonZeroU32::MIN);
        assert_eq!(once.delays(Rng::with_seed(1)).next(), None);
    }
}
