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
use crate::shard_sync::new_lease;

/// How often the stream is asked for the children of a closed shard before it is marked as ended without them. They
/// exist from the moment the parent closes, but a listing may show them late. Should they come later still, the next
/// shard sync gives them their leases.
const MAX_CHILD_LOOKUPS: u32 = 5;

/// Records the end of one shard.
#[derive(Debug)]
pub(crate) struct ShardEndWriter {
    pub(crate) held: Arc<HeldLease>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) initial_position: InitialPosition,
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
            if lookups < MAX_CHILD_LOOKUPS {
                return Err(format!("the stream shows no children of {} yet", self.held.shard_id()).into());
            }
            tracing::warn!(lookups, "the shard ended and the stream shows no children of it");
        }
        Ok(children)
    }

    async fn create_lease(&self, child: &Shard) -> Result<(), BoxError> {
        let mut lease = new_lease(child, self.initial_position.position_of_child());
        let parent = self.held.taken();
        lease.stream.clone_from(&parent.stream);
        lease.initial_time_millis =
            parent.initial_time_millis.filter(|_| lease.checkpoint == Position::AtTimestamp);
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
