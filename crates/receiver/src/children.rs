//! Records the end of a shard: its children get their leases before it is marked as ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use lease_store::{
    BoxError, HeldLease, LeaseStore, LeaseWrite, Position, ShardId, StoreErrorKind, WriteOutcome,
};
use shard_worker::{Shard, ShardEndRecorder, ShardFilter, StreamSource};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::InitialPosition;
use crate::initial_position::start_of_child;
use crate::shard_sync::new_lease;

/// How often the stream is asked for the children of a closed shard before it is asked whether it still has the shard.
/// Children exist from the moment the parent closes, but a listing may show them late. To mark the shard as ended
/// without them would let *their* children start before them, if they are resharded before anybody sees them. So that
/// is done only for a shard that the stream no longer lists: its children may be past the retention period too.
const MAX_CHILD_LOOKUPS: u32 = 5;

/// Records the end of one shard.
#[derive(Debug)]
pub(crate) struct ShardEndWriter {
    pub(crate) held: Arc<HeldLease>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) initial_position: InitialPosition,
    /// Whether single shards have positions of their own.
    pub(crate) has_named_positions: bool,
    /// Cancelled when the lease turns out to be lost.
    pub(crate) lease_lost: CancellationToken,
    /// Told when there are new leases to take.
    pub(crate) new_leases: Arc<Notify>,
    pub(crate) child_lookups: AtomicU32,
}

impl ShardEndWriter {
    /// The children that the source named, or else those that the stream lists.
    async fn find_children(&self, named: &[Shard]) -> Result<Vec<Shard>, BoxError> {
        if !named.is_empty() {
            return Ok(named.to_vec());
        }
        let mut children = self.source.list_shards(&ShardFilter::After(self.held.shard_id().clone())).await?;
        children.retain(|shard| shard.parents.contains(self.held.shard_id()));
        if children.is_empty() {
            let lookups = self.child_lookups.fetch_add(1, Ordering::Relaxed) + 1;
            if lookups < MAX_CHILD_LOOKUPS || self.is_listed(self.held.shard_id()).await? {
                return Err(format!("the stream shows no children of {} yet", self.held.shard_id()).into());
            }
            tracing::warn!(lookups, "the shard ended and the stream shows no children of it");
        }
        Ok(children)
    }

    /// Whether the stream still has a shard.
    async fn is_listed(&self, shard_id: &ShardId) -> Result<bool, BoxError> {
        let shards = self.source.list_shards(&ShardFilter::All).await?;
        Ok(shards.iter().any(|shard| shard.shard_id == *shard_id))
    }

    /// Looks whether a child of a merge can have its lease: its other parent must have one, or be gone from the stream.
    /// Otherwise the child would start at once, since a parent without a row counts as done (KCL: `BlockedOnParentShard`).
    async fn check_other_parents(&self, child: &Shard) -> Result<(), BoxError> {
        let others: Vec<&ShardId> = child.parents.iter().filter(|id| *id != self.held.shard_id()).collect();
        if others.is_empty() || self.store.get(&child.shard_id).await?.is_some() {
            return Ok(());
        }
        for other in others {
            if self.store.get(other).await?.is_none() && self.is_listed(other).await? {
                let child = &child.shard_id;
                return Err(format!("{other}, the other parent of {child}, has no lease yet").into());
            }
        }
        Ok(())
    }

    async fn create_lease(&self, child: &Shard) -> Result<(), BoxError> {
        let parent = self.held.taken();
        let (position, millis) =
            start_of_child(self.initial_position, self.has_named_positions, parent.initial_time_millis);
        let mut lease = new_lease(child, position);
        lease.stream.clone_from(&parent.stream);
        lease.initial_time_millis = millis;
        match self.store.write(&LeaseWrite::Create(lease)).await? {
            WriteOutcome::Applied { .. } | WriteOutcome::Lost { lease: Some(_) } => Ok(()),
            WriteOutcome::Lost { lease: None } | WriteOutcome::Unknown(_) => {
                match self.store.get(&child.shard_id).await? {
                    Some(_) => Ok(()),
                    None => Err(format!("the lease of the child {} is not there yet", child.shard_id).into()),
                }
            }
        }
    }
}

#[async_trait]
impl ShardEndRecorder for ShardEndWriter {
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError> {
        let children = self.find_children(children).await?;
        for child in &children {
            self.check_other_parents(child).await?;
            self.create_lease(child).await?;
        }
        let child_ids: Vec<ShardId> = children.into_iter().map(|child| child.shard_id).collect();
        let ended = self.held.checkpoint(&Position::ShardEnd, &child_ids).await;
        if ended.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Fenced) {
            self.lease_lost.cancel();
        }
        ended?;
        self.new_leases.notify_one();
        Ok(())
    }
}
