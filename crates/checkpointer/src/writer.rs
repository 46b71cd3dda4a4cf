//! The destination of checkpoints: a trait, implemented by a held lease.

use std::fmt;

use async_trait::async_trait;
use lease_store::{HeldLease, PendingCheckpoint, Position, StoreError};

/// Stores the checkpoint of one shard, usually in the shard's lease.
#[async_trait]
pub trait CheckpointWriter: fmt::Debug + Send + Sync + 'static {
    /// Stores a position durably. There is one call at a time, each with a position at or after the previous one. A call
    /// may be cancelled.
    ///
    /// # Errors
    /// After `Throttled` and `Unavailable` the checkpointer retries. After `Fenced`, `Conflict` and `Invalid` it stops.
    async fn write(&self, position: &Position) -> Result<(), StoreError>;

    /// Announces a checkpoint; the next call of [`write`](Self::write) withdraws the announcement.
    ///
    /// # Errors
    /// As for [`write`](Self::write), but `Invalid` does not stop the checkpointer. By default always `Invalid`.
    async fn prepare(&self, pending: &PendingCheckpoint) -> Result<(), StoreError> {
        Err(StoreError::invalid(format!(
            "the checkpoint at {} cannot be announced: this destination stores checkpoints only",
            pending.position
        )))
    }
}

#[async_trait]
impl CheckpointWriter for HeldLease {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.checkpoint(position, &[]).await
    }

    async fn prepare(&self, pending: &PendingCheckpoint) -> Result<(), StoreError> {
        self.prepare_checkpoint(&pending.position, pending.state.clone()).await
    }
}
