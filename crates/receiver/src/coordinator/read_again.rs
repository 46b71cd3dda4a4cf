//! Ends the rows of shards that were read before and whose rows a worker created again, because it found an empty table.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use lease_store::{Consistency, LeaseChange, LeaseListing, LeaseWrite, Position, ShardId, WriteOutcome};
use shard_worker::ShardFilter;

use super::{Coordinator, MAX_CONCURRENT_WRITES, StreamFacts};
use crate::shards::descendants::children;

impl Coordinator {
    /// Stores `SHARD_END` in the rows of shards that were read to their ends before. Returns these shards: no worker takes
    /// them.
    pub(super) async fn end_rows_read_again(
        &mut self,
        facts: &StreamFacts,
        listing: &LeaseListing,
        consistency: Consistency,
    ) -> BTreeSet<ShardId> {
        self.sync.has_unplaced_rows |= self.known.has_appeared_unplaced(&listing.leases, &self.sync.listed);
        if self.sync.has_unplaced_rows {
            match self.receiver.source.list_shards(&ShardFilter::All).await {
                Ok(shards) => {
                    self.sync.listed = shards;
                    self.sync.has_unplaced_rows = false;
                }
                Err(error) => tracing::debug!(%error, "the shards of new rows were not listed, trying again"),
            }
        }
        let mut again = self.known.read_again(&listing.leases, &self.sync.listed);
        // A row without this identity may belong to a stream that was created again.
        again.retain(|lease| lease.stream.as_ref() == Some(&facts.identity));
        let shards = again.iter().map(|lease| lease.shard_id.clone()).collect();
        if again.is_empty() {
            return shards;
        }
        let known: Vec<_> = self.known.rows().cloned().collect();
        let children = children(&self.sync.listed, &known);
        let children = |shard_id: &ShardId| -> BTreeSet<ShardId> {
            children.get(shard_id).into_iter().flatten().map(|child| (*child).clone()).collect()
        };
        let writes: Vec<LeaseWrite> = again
            .into_iter()
            .map(|lease| LeaseWrite::Update {
                shard_id: lease.shard_id.clone(),
                expected: lease.version(),
                change: LeaseChange::Checkpoint {
                    position: Position::ShardEnd,
                    children: children(&lease.shard_id),
                },
            })
            .collect();
        self.schedule_strong_scan();
        if consistency == Consistency::Eventual {
            return shards;
        }
        let store = &self.receiver.store;
        futures::stream::iter(writes)
            .for_each_concurrent(MAX_CONCURRENT_WRITES, |write| async move {
                let shard_id = write.shard_id();
                match store.write(&write).await {
                    Ok(WriteOutcome::Applied { .. }) => tracing::warn!(
                        %shard_id,
                        "the row of a shard that was read to its end was created again, its end is restored"
                    ),
                    // The next round lists the row again.
                    Ok(WriteOutcome::Lost { .. } | WriteOutcome::Unknown(_)) => {}
                    Err(error) => tracing::warn!(%shard_id, %error, "the end of the shard was not restored"),
                }
            })
            .await;
        shards
    }
}
