//! The real Java KCL and our receiver on one lease table: the parts of the interop test and of the soak test.
//!
//! The tests are `tests/interop_kcl.rs` and, with our workers only, `tests/wire_soak`. A [`test_run`] starts and ends
//! workers of both kinds ([`workers`]). Each worker records every delivery in a file of its own ([`deliveries`]), and a
//! watcher records the changes of the lease table ([`lease_history`]). At the end the two are compared ([`verdict`]).

pub mod after_loss;
pub mod deliveries;
pub mod hang;
pub mod java_daemon;
pub mod last_checkpoints;
pub mod lease_history;
pub mod lease_rows;
pub mod looks;
pub mod multilang;
pub mod producer;
pub mod resharding;
pub mod test_run;
pub mod verdict;
pub mod workers;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Repeats a check until it succeeds.
///
/// # Panics
/// When it does not within `limit`. The message has the expected condition and the last result.
#[allow(clippy::panic)] // only tests call it
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started_at = Instant::now();
    loop {
        match check().await {
            Ok(found) => return found,
            Err(instead) if started_at.elapsed() > limit => {
                panic!("waited {limit:?} in vain until {what}; instead: {instead}")
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
