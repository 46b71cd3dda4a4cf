//! Helpers for tests whose clock is paused: waiting costs no real time there.

use std::time::Duration;

use tokio::time::Instant;

/// How long [`wait_until`] waits, in virtual time.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The virtual time between two checks of a condition.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the condition holds.
///
/// # Panics
/// When that takes longer than [`LIMIT`].
pub async fn wait_until(condition: &str, holds: impl FnMut() -> bool) {
    wait_until_within(LIMIT, condition, holds).await;
}

/// Waits until the condition holds, for at most `limit`.
///
/// # Panics
/// When that takes longer.
pub async fn wait_until_within(limit: Duration, condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {condition}");
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Runs a test in a new single-threaded runtime with a paused clock: for tests that repeat themselves over many seeds, each
/// with a fresh runtime.
///
/// # Panics
/// When the runtime cannot be built.
pub fn run_with_paused_clock<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test)
}
