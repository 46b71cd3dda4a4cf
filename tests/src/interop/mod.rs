//! The real Java KCL and our receiver side by side on one lease table: what the interop test is made of.
//!
//! The tests are `tests/interop_kcl.rs`, and `tests/wire_soak` with ours alone. In a [`scene`] it starts and ends workers of both kinds ([`workers`]); each notes every record in
//! a file of its own ([`deliveries`]); a watcher keeps what the lease table said over time ([`lease_history`]); and at the
//! end the two are held against each other ([`verdict`]).

pub mod after_loss;
pub mod deliveries;
pub mod java_daemon;
pub mod last_checkpoints;
pub mod lease_history;
pub mod lease_rows;
pub mod multilang;
pub mod producer;
pub mod resharding;
pub mod scene;
pub mod verdict;
pub mod workers;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks at whatever is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within `limit`; the message says what was missing, and what the last question found instead.
#[allow(clippy::panic)] // only tests call it
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started_at = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) if started_at.elapsed() > limit => {
                panic!("waited {limit:?} in vain until {what}; instead: {instead}")
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
