//! Restores the rows of ancestors whose records are wanted again, or names those that are left out.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use lease_store::{Lease, LeaseListing, ShardId, StoreError};
use shard_worker::Shard;

use super::shard_sync::malformed_shards;
use super::{Coordinator, MAX_CONCURRENT_WRITES, StreamFacts};
use crate::error::{ConsumerError, store_error};
use crate::shards::initial_position::InitialPosition;
use crate::shards::rewound::{RewoundPlan, is_at_start, may_be_rewound, plan_rewound};

/// The most shards that one log line names.
const MAX_NAMED_SHARDS: usize = 10;

impl Coordinator {
    /// Whether the table may hold a shard that was set back to its beginning and lacks the row of a parent.
    pub(super) fn may_be_rewound(&self, listing: &LeaseListing) -> bool {
        let rows = shards_with_rows(listing);
        may_be_rewound(&listing.leases, |shard_id| rows.contains(shard_id))
    }

    /// The missing leases of ancestors of shards that were set back to their beginning.
    pub(super) async fn rewound_ancestors(
        &mut self,
        facts: &StreamFacts,
        shards: &[Shard],
        listing: &LeaseListing,
    ) -> Result<Vec<Lease>, ConsumerError> {
        let mut plan = self.plan_ancestors(shards, listing);
        if plan.restore.is_empty() || !self.still_at_start(&plan.evidence).await? {
            return Ok(Vec::new());
        }
        for lease in &mut plan.restore {
            lease.stream = Some(facts.identity.clone());
            lease.application = Some(facts.application.recorded().to_owned());
        }
        tracing::warn!(
            count = plan.restore.len(),
            "shards were set back to TRIM_HORIZON, creating the rows of their ancestors to read those first"
        );
        Ok(plan.restore)
    }

    /// Plans the leases to create, and logs the shards that are left out.
    fn plan_ancestors(&mut self, shards: &[Shard], listing: &LeaseListing) -> RewoundPlan {
        let settings = &self.receiver.settings;
        let named = &settings.initial_positions;
        let mut rows = shards_with_rows(listing);
        // A row that vanished is restored at its known position, not at its beginning.
        let unfinished = self.known.rows().filter(|known| !known.is_finished());
        rows.extend(unfinished.map(|known| known.shard_id.clone()));
        let has_row = |shard_id: &ShardId| rows.contains(shard_id);
        let mut plan =
            plan_rewound(shards, &listing.leases, has_row, |shard_id| named.contains_key(shard_id));
        if settings.initial_position != InitialPosition::TrimHorizon {
            // The ancestors may lie before the start of the application.
            let unwanted = plan.restore.drain(..);
            let children = |lease: &Lease| {
                let of = |shard: &&Shard| shard.parents.contains(&lease.shard_id) && has_row(&shard.shard_id);
                let children = shards.iter().filter(of).map(|shard| shard.shard_id.clone());
                children.map(|child| (child, lease.shard_id.clone())).collect::<Vec<_>>()
            };
            plan.left_out.extend(unwanted.flat_map(|lease| children(&lease)));
        }
        if plan.left_out != self.sync.reported_left_out {
            let named: Vec<String> = plan
                .left_out
                .iter()
                .take(MAX_NAMED_SHARDS)
                .map(|(child, parent)| format!("{parent} before {child}"))
                .collect();
            if !named.is_empty() {
                tracing::warn!(
                    count = plan.left_out.len(),
                    shards = named.join(", "),
                    "shards stand at TRIM_HORIZON, and their parents, which the stream still lists, have no rows: the records \
                     of the parents are not read; to read them, stop all workers and create the rows of the parents, or \
                     delete the table and start at TRIM_HORIZON"
                );
            }
            self.sync.reported_left_out.clone_from(&plan.left_out);
        }
        plan
    }

    /// Whether these rows are still at the beginning of their shards. A row that was listed before it made progress looks
    /// rewound when the row of its parent was deleted during the listing.
    async fn still_at_start(&self, shard_ids: &BTreeSet<ShardId>) -> Result<bool, ConsumerError> {
        let store = self.receiver.store.clone();
        let rows: Vec<Result<Option<Lease>, StoreError>> = futures::stream::iter(shard_ids.clone())
            .map(|shard_id| {
                let store = store.clone();
                async move { store.get(&shard_id).await }
            })
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect()
            .await;
        let rows: Result<Vec<Option<Lease>>, StoreError> = rows.into_iter().collect();
        let rows = rows.map_err(|error| store_error("reading the leases of rewound shards", error))?;
        Ok(rows.iter().all(|row| row.as_ref().is_some_and(is_at_start)))
    }
}

fn shards_with_rows(listing: &LeaseListing) -> BTreeSet<ShardId> {
    let mut rows = malformed_shards(listing);
    rows.extend(listing.leases.iter().map(|lease| lease.shard_id.clone()));
    rows
}
