//! Records the end of a shard: creates the leases of its children, then writes `SHARD_END`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use lease_store::{
    BoxError, Consistency, HeldLease, LeaseStore, LeaseWrite, Position, ShardId, StoreErrorKind, WriteOutcome,
};
use shard_worker::{Shard, ShardEndRecorder, ShardFilter, StreamSource};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::shards::descendants::is_read_beyond;
use crate::shards::initial_position::InitialPosition;
use crate::shards::shard_end::{EndObstacle, EndStep, lease_of_child, other_parents};

/// Records the end of one shard.
#[derive(Debug)]
pub(crate) struct ShardEndWriter {
    pub(crate) held: Arc<HeldLease>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) initial_position: InitialPosition,
    /// Whether single shards have positions of their own.
    pub(crate) has_named_positions: bool,
    /// Cancelled when the write of `SHARD_END` finds the lease lost.
    pub(crate) lease_lost: CancellationToken,
    /// Notified when there are new leases to take.
    pub(crate) new_leases: Arc<Notify>,
    pub(crate) child_lookups: AtomicU32,
}

impl ShardEndWriter {
    /// Whether the stream still lists a shard.
    async fn is_listed(&self, shard_id: &ShardId) -> Result<bool, BoxError> {
        let shards = self.source.list_shards(&ShardFilter::All).await?;
        Ok(shards.iter().any(|shard| shard.shard_id == *shard_id))
    }

    async fn has_lease(&self, shard_id: &ShardId) -> Result<bool, BoxError> {
        Ok(self.store.get(shard_id).await?.is_some())
    }

    /// The children that the stream lists.
    async fn find_children(&self) -> Result<Vec<Shard>, BoxError> {
        let mut children = self.source.list_shards(&ShardFilter::After(self.held.shard_id().clone())).await?;
        children.retain(|shard| shard.parents.contains(self.held.shard_id()));
        Ok(children)
    }

    /// Whether a descendant of a shard has a lease.
    async fn is_read_beyond(&self, shard_id: &ShardId) -> Result<bool, BoxError> {
        let shards = self.source.list_shards(&ShardFilter::All).await?;
        let leases = self.store.list(Consistency::Strong).await?.leases;
        Ok(is_read_beyond(shard_id, &shards, &leases))
    }

    /// Creates the lease of a child. Returns whether the lease is known to exist.
    async fn create_lease(&self, child: &Shard) -> Result<bool, BoxError> {
        let lease = lease_of_child(self.held.taken(), child, self.initial_position, self.has_named_positions);
        let outcome = self.store.write(&LeaseWrite::Create(lease)).await?;
        Ok(matches!(outcome, WriteOutcome::Applied { .. } | WriteOutcome::Lost { lease: Some(_) }))
    }

    /// Answers the question of a step.
    async fn answer(&self, step: EndStep, children: &mut Vec<Shard>) -> Result<bool, BoxError> {
        let shard_id = self.held.shard_id();
        match step {
            EndStep::FindChildren => {
                *children = self.find_children().await?;
                if children.is_empty() {
                    self.child_lookups.fetch_add(1, Ordering::Relaxed);
                }
                Ok(!children.is_empty())
            }
            EndStep::FindShard => {
                let is_listed = self.is_listed(shard_id).await?;
                if !is_listed {
                    let lookups = self.child_lookups.load(Ordering::Relaxed);
                    tracing::warn!(
                        lookups,
                        "the shard ended, and the stream lists neither the shard nor its children"
                    );
                }
                Ok(is_listed)
            }
            EndStep::LookUpChild { child } | EndStep::LookAgain { child } => {
                self.has_lease(&children[child].shard_id).await
            }
            EndStep::LookUpParent { child, parent } => {
                self.has_lease(other_parents(shard_id, &children[child])[parent]).await
            }
            EndStep::FindParent { child, parent } => {
                self.is_listed(other_parents(shard_id, &children[child])[parent]).await
            }
            EndStep::LookBeyondChild { child, .. } => self.is_read_beyond(&children[child].shard_id).await,
            EndStep::Create { child } => self.create_lease(&children[child]).await,
            EndStep::RecordEnd => Ok(true),
        }
    }

    fn describe(&self, obstacle: EndObstacle, children: &[Shard]) -> BoxError {
        let shard_id = self.held.shard_id();
        match obstacle {
            EndObstacle::NoChildren => format!("the stream lists no children of {shard_id} yet"),
            EndObstacle::ParentWithoutLease { child, parent } => {
                let child = &children[child];
                let other = other_parents(shard_id, child)[parent];
                format!("{other}, the other parent of {}, has no lease yet", child.shard_id)
            }
            EndObstacle::ChildWithoutLease { child } => {
                format!("the lease of the child {} does not exist yet", children[child].shard_id)
            }
        }
        .into()
    }
}

#[async_trait]
impl ShardEndRecorder for ShardEndWriter {
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError> {
        let shard_id = self.held.shard_id();
        let mut children = children.to_vec();
        let mut step = EndStep::first(shard_id, &children);
        while step != EndStep::RecordEnd {
            let answer = self.answer(step, &mut children).await?;
            let lookups = self.child_lookups.load(Ordering::Relaxed);
            let next = step.next(answer, shard_id, &children, lookups);
            step = next.map_err(|obstacle| self.describe(obstacle, &children))?;
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
