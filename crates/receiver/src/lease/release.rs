//! The last write to a held lease: hand it over to the worker that requested it, release it, or store the position that an
//! operator asked for.

use std::num::NonZeroU32;

use checkpointer::RetryPolicy;
use lease_store::{HeldLease, OwnerRequest, StoreErrorKind, WorkerId};
use tokio::time::{Duration, sleep};

/// The retries of a release that failed: five attempts in all, 100 ms to 1 s apart.
const RELEASE_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(100), Duration::from_secs(1))
        .with_max_attempts(NonZeroU32::MIN.saturating_add(4));

/// Hands the lease over to the worker that requests it now, or else releases it. Returns the new owner, if there is one.
///
/// When the write fails for good, other workers can take the lease once the fail-over time has passed.
pub(crate) async fn release_or_hand_over(held: &HeldLease) -> Option<WorkerId> {
    // The waits need no randomness of their own: each lease is another row.
    let mut delays = RELEASE_RETRY.delays(fastrand::Rng::with_seed(held.fencing_token().counter));
    loop {
        let target = held.newest_hand_over_target();
        let written = match &target {
            Some(target) => held.hand_over(target).await,
            None => held.release().await,
        };
        let error = match written {
            Ok(()) => {
                tracing::debug!(new_owner = ?target, "lease released");
                return target;
            }
            Err(error) => error,
        };
        if error.kind() == StoreErrorKind::Fenced {
            tracing::debug!(%error, "the lease is already lost, nothing to release");
            return None;
        }
        // A conflict means that the request was withdrawn or replaced: read the target again.
        let may_try_again = error.is_retryable() || error.kind() == StoreErrorKind::Conflict;
        let delay = if may_try_again { delays.next() } else { None };
        let Some(delay) = delay else {
            tracing::warn!(%error, "lease not released; other workers can take it after the fail-over time");
            held.fence();
            return None;
        };
        tracing::debug!(%error, ?delay, "lease not released, trying again");
        sleep(delay).await;
    }
}

/// Stores the position that an operator asked for, which makes the lease free. If the request was withdrawn meanwhile, or the
/// write fails for good, the lease is released at its own position.
pub(crate) async fn reset_or_release(held: &HeldLease, request: &OwnerRequest) -> Option<WorkerId> {
    let mut delays = RELEASE_RETRY.delays(fastrand::Rng::with_seed(held.fencing_token().counter));
    loop {
        let error = match held.reset(request).await {
            Ok(()) => {
                tracing::info!(%request, "the position was reset on request of an operator, and the lease is free");
                return None;
            }
            Err(error) => error,
        };
        if error.kind() == StoreErrorKind::Fenced {
            tracing::warn!(%request, %error, "the lease is lost, so the request of an operator ends without effect");
            return None;
        }
        let delay = if error.is_retryable() { delays.next() } else { None };
        let Some(delay) = delay else {
            tracing::warn!(%request, %error, "the position was not reset, releasing the lease at its own position");
            return release_or_hand_over(held).await;
        };
        sleep(delay).await;
    }
}
