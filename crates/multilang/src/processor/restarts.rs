//! How often and when a failed child is started again.

use std::time::Duration;

use fastrand::Rng;

/// The longest wait before a start.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The longest wait before the first start after a failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// After this many doublings the wait is longer than [`MAX_WAIT`].
const MAX_DOUBLINGS: u32 = 6;

/// How often a failed child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestartPolicy {
    /// The most failures in a row without a checkpoint that moved forward; one more is final. 0: the first one is final,
    /// as in Java.
    pub max_failures: u32,
}

impl RestartPolicy {
    /// Every failure is final, as in Java.
    pub const NEVER: Self = Self { max_failures: 0 };

    /// At most this many failures in a row are followed by a new child.
    pub fn new(max_failures: u32) -> Self {
        Self { max_failures }
    }

    /// Whether this many failures in a row are one too many.
    pub fn is_final(self, failures: u32) -> bool {
        failures > self.max_failures
    }

    /// The randomised wait before the start after this many failures in a row; none before the first start.
    pub fn wait(self, failures: u32, rng: &mut Rng) -> Duration {
        match failures {
            0 => Duration::ZERO,
            failures => {
                let longest = (FIRST_WAIT * (1 << (failures - 1).min(MAX_DOUBLINGS))).min(MAX_WAIT);
                longest.mul_f64(rng.f64().midpoint(1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let (policy, mut rng) = (RestartPolicy::new(3), Rng::with_seed(17));
        assert_eq!(policy.wait(0, &mut rng), Duration::ZERO);
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
            let wait = policy.wait(failures, &mut rng);
            let longest = Duration::from_secs(longest);
            assert!(wait >= longest / 2 && wait <= longest, "{failures}: {wait:?}");
        }
        assert!(!policy.is_final(3) && policy.is_final(4) && RestartPolicy::NEVER.is_final(1));
    }
}
