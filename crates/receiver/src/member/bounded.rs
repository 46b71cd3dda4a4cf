//! The end of a bounded run: what is read up to the bound is left alone, and when nothing is left the receiver stops itself.

use std::collections::HashMap;

use lease_store::{Consistency, LeaseListing, ShardId};
use shard_worker::RunUntil;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Member;
use crate::shard_task::ShardEnding;
use crate::{ObservedLease, ReceiverError, ReceiverErrorKind};

impl Member {
    /// Whether the bound can be told at all.
    pub(super) fn check_bound(&self) -> Result<(), ReceiverError> {
        let needs_clock = matches!(self.receiver.settings.run_until, Some(RunUntil::Instant(_)));
        if needs_clock && self.keeps.clock.is_none() {
            let message = "run_until is an instant, but the stream does not say what time it is: nobody could tell when it is \
                           reached; use TIP";
            return Err(ReceiverError::new(ReceiverErrorKind::InvalidSettings, message));
        }
        Ok(())
    }

    /// Takes note of a shard that is over because it is read up to the bound. Called while its progress is still known.
    pub(super) fn note_bound(&mut self, shard_id: &ShardId, ended: &Result<ShardEnding, JoinError>) {
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
            self.bounded.note(shard_id, has_reached_bound, ending.outcome);
        }
        self.look_at_new_leases();
    }

    /// The leases that this worker has not read up to the bound.
    pub(super) fn left_to_do<'a>(&self, mut observed: Vec<ObservedLease<'a>>) -> Vec<ObservedLease<'a>> {
        if self.bounded.done() > 0 {
            let by_id: HashMap<_, _> =
                observed.iter().map(|observed| (&observed.lease.shard_id, observed.lease)).collect();
            observed.retain(|observed| !self.bounded.is_settled(observed.lease, &by_id));
        }
        observed
    }

    /// Stops this worker when a bounded run has nothing left for it. A row that cannot be read may be work for somebody.
    pub(super) fn end_if_over(
        &mut self,
        listing: &LeaseListing,
        consistency: Consistency,
        asked_at: Instant,
    ) {
        let is_bounded = self.receiver.settings.run_until.is_some();
        if !is_bounded || !self.tasks.is_empty() || !self.requests.is_empty() || !listing.malformed.is_empty()
        {
            return;
        }
        let observed = self.observations.of(&listing.leases, asked_at);
        let failover_time = self.receiver.settings.failover_time;
        if !self.bounded.is_over(&observed, &self.receiver.worker_id, failover_time) {
            return;
        }
        if consistency == Consistency::Eventual {
            // It may not show what has just been created or given up.
            self.look_at_new_leases();
            return;
        }
        tracing::info!(
            read_to_the_bound = self.bounded.done(),
            "the bounded run is over: nothing is left for this worker"
        );
        self.receiver.shared.stop.cancel();
    }
}
