//! The last write to a lease: it goes to whoever asks for it, or is free.

use std::num::NonZeroU32;

use checkpointer::RetryPolicy;
use lease_store::{HeldLease, StoreError, StoreErrorKind, WorkerId};
use tokio::time::{Duration, sleep};

/// How a lease that was refused its last write is written again.
const LAST_WRITE_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(1))
        .with_max_attempts(NonZeroU32::MIN.saturating_add(4));

/// Hands a lease over to whoever asks for it now, or else releases it; tells who has it then. If that fails, it is free
/// when the fail-over time is over.
pub(crate) async fn give_up(held: &HeldLease) -> Option<WorkerId> {
    // The waits need no randomness of their own: each lease is another row.
    let mut delays = LAST_WRITE_RETRY.delays(fastrand::Rng::with_seed(held.fencing_token().counter));
    loop {
        let target = held.newest_hand_over_target();
        let written = match &target {
            Some(target) => held.hand_over(target).await,
            None => held.release().await,
        };
        let error: StoreError = match written {
            Ok(()) => {
                tracing::debug!(new_owner = ?target, "the lease is given up");
                return target;
            }
            Err(error) => error,
        };
        if error.kind() == StoreErrorKind::Fenced {
            tracing::debug!(%error, "nothing to give up");
            return None;
        }
        // Whoever asked has changed its mind: look anew.
        let may_try_again = error.is_retryable() || error.kind() == StoreErrorKind::Conflict;
        let delay = if may_try_again { delays.next() } else { None };
        let Some(delay) = delay else {
            tracing::warn!(%error, "the lease could not be given up; others wait the fail-over time");
            held.fence();
            return None;
        };
        tracing::debug!(%error, ?delay, "giving the lease up again");
        sleep(delay).await;
    }
}
