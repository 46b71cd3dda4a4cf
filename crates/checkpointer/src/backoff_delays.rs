//! Exponential waits: the only file that uses the `backoff` crate.
//!
//! The `backoff` crate is unmaintained, so it can be replaced in this file alone. It computes the growth of the waits. The
//! randomness comes from the caller's generator, because `backoff` uses an ambient one that no seed reproduces.

use backoff::ExponentialBackoff;
use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff as _;
use fastrand::Rng;
use tokio::time::Duration;

/// The greatest deviation of a wait from its nominal length: half of it, the default of `backoff`.
const RANDOMISATION_FACTOR: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct ExponentialDelays {
    nominal: ExponentialBackoff,
    longest: Duration,
}

impl ExponentialDelays {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        let nominal = ExponentialBackoffBuilder::new()
            .with_initial_interval(first)
            .with_max_interval(longest)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Self { nominal, longest }
    }

    pub(crate) fn next(&mut self, rng: &mut Rng) -> Duration {
        // Without a limit on the elapsed time there is always a next wait.
        let nominal = self.nominal.next_backoff().unwrap_or(self.longest);
        nominal.mul_f64(1.0 + RANDOMISATION_FACTOR * (2.0 * rng.f64() - 1.0))
    }
}
