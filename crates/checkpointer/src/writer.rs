//! Where checkpoints are written to.

use std::fmt;

use async_trait::async_trait;
use lease_store::{HeldLease, Position, StoreError};

/// Stores one shard's position. The lease of the shard is the usual one.
#[async_trait]
pub trait CheckpointWriter: fmt::Debug + Send + Sync + 'static {
    /// Stores a position, durably. Called for one position at a time, each beyond the one before; may be cancelled.
    ///
    /// # Errors
    /// `Throttled` and `Unavailable` are tried again; `Fenced`, `Conflict` and `Invalid` end the checkpointer.
    async fn write(&self, position: &Position) -> Result<(), StoreError>;
}

#[async_trait]
impl CheckpointWriter for HeldLease {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.checkpoint(position, &[]).await
    }
}
