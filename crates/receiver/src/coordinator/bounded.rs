//! The end of a bounded run: shards read up to the bound are not taken again, and a worker without work stops itself.

use std::collections::HashMap;

use lease_store::{Consistency, LeaseListing, ShardId};
use shard_worker::RunUntil;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Coordinator;
use crate::assignment::lease_observations::ObservedLease;
use crate::error::{ConsumerError, ConsumerErrorKind};
use crate::lease::shard_task::ShardEnding;

impl Coordinator {
    /// Refuses a bound that is an instant when the stream does not report its time.
    pub(super) fn check_bound(&self) -> Result<(), ConsumerError> {
        let needs_clock = matches!(self.receiver.settings.run_until, Some(RunUntil::Timestamp(_)));
        if needs_clock && self.retention.clock.is_none() {
            let message = "run_until is an instant, but the stream does not report its time, so the bound can never be \
                           detected; use TIP";
            return Err(ConsumerError::new(ConsumerErrorKind::InvalidSettings, message));
        }
        Ok(())
    }

    /// Records a shard that was read up to the bound. Called while its progress is still known.
    pub(super) fn record_bound(&mut self, shard_id: &ShardId, ended: &Result<ShardEnding, JoinError>) {
        if self.receiver.settings.run_until.is_none() {
            return;
        }
        let has_reached_bound = self
            .receiver
            .shared
            .live()
            .shards
            .get(shard_id)
            .is_some_and(|shard| shard.progress.borrow().has_reached_bound);
        if let Ok(ending) = ended {
            self.bounded.record(shard_id, has_reached_bound, ending.outcome);
        }
        self.schedule_strong_scan();
    }

    /// Keeps the leases that this worker has not read up to the bound.
    pub(super) fn without_done<'a>(&self, mut observed: Vec<ObservedLease<'a>>) -> Vec<ObservedLease<'a>> {
        if self.bounded.done() > 0 {
            let by_id: HashMap<_, _> =
                observed.iter().map(|observed| (&observed.lease.shard_id, observed.lease)).collect();
            observed.retain(|observed| !self.bounded.is_done_with(observed.lease, &by_id));
        }
        observed
    }

    /// Stops this worker when it has nothing more to do in a bounded run. A malformed row may still be work.
    pub(super) fn stop_if_run_is_over(
        &mut self,
        listing: &LeaseListing,
        consistency: Consistency,
        requested_at: Instant,
    ) {
        let is_bounded = self.receiver.settings.run_until.is_some();
        if !is_bounded || !self.tasks.is_empty() || !self.requests.is_empty() || !listing.malformed.is_empty()
        {
            return;
        }
        let observed = self.observations.of(&listing.leases, requested_at);
        let failover_time = self.receiver.settings.failover_time;
        if !self.bounded.is_over(&observed, &self.receiver.worker_id, failover_time) {
            return;
        }
        if consistency == Consistency::Eventual {
            // It may not show leases that have just been created or released.
            self.schedule_strong_scan();
            return;
        }
        tracing::info!(
            shards_read_to_the_bound = self.bounded.done(),
            "the bounded run is over, this worker has nothing more to do"
        );
        self.receiver.shared.stop.cancel();
    }
}
