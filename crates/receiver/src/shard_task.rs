//! One shard in the hand of a receiver: its worker, and beside it the keeper of its lease.

use std::sync::Arc;

use lease_store::{HeldLease, StoreErrorKind};
use shard_worker::{ShardOutcome, ShardWorker};
use tokio::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::keeper::keep;

/// A shard worker and its lease. Dropping the running future stops both without a trace in the store.
#[derive(Debug)]
pub(crate) struct ShardTask {
    pub(crate) worker: ShardWorker,
    pub(crate) held: Arc<HeldLease>,
    pub(crate) failover_time: Duration,
}

impl ShardTask {
    /// Works until the shard is over for this receiver. After a stop the lease is free for others at once.
    pub(crate) async fn run(self) -> ShardOutcome {
        let lost = self.worker.context.lease_lost.clone();
        let keeper = keep(self.held.clone(), self.failover_time, lost).in_current_span();
        let _keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let outcome = self.worker.run().await;
        match outcome {
            ShardOutcome::Stopped { .. } => release(&self.held).await,
            // An ended shard's lease needs no owner; nobody takes it, and the clean-up deletes it.
            _ => self.held.fence(),
        }
        outcome
    }
}

/// Gives a lease up. If that fails, it is free when the fail-over time is over.
pub(crate) async fn release(held: &HeldLease) {
    match held.release().await {
        Ok(()) => tracing::debug!("the lease is released"),
        Err(error) if error.kind() == StoreErrorKind::Fenced => {
            tracing::debug!(%error, "nothing to release");
        }
        Err(error) => {
            tracing::warn!(%error, "the lease could not be released; others wait the fail-over time");
        }
    }
}
