//! Checkpoints that the application asks for: now, or in two steps around a transaction of its own.
//!
//! Both keep the discipline of every checkpoint: it holds acknowledged records only, so never one that was not delivered, and it
//! never moves back.

use std::fmt;

use checkpointer::{CheckpointError, CheckpointErrorKind};
use lease_store::{PendingCheckpoint, Position};

use crate::acknowledgement::record_batch::RecordBatch;
use crate::checkpoint_access::ExplicitCheckpoints;
use crate::shard_context::ShardContext;

impl ShardContext {
    /// Writes the acknowledged position now, without waiting for the checkpoint interval, and returns once it is stored (KCL:
    /// `checkpoint()`). Inside [`process`](crate::RecordProcessor::process) that is the position before its batch, and the records
    /// of [`RecordBatch::acknowledge_first`]. Each call with a new position costs one write.
    ///
    /// A context that a test made stores nothing, and succeeds.
    ///
    /// # Errors
    /// `Fenced` and `Closed`: the lease is lost, or the work on the shard has ended. `Throttled`, `Unavailable` and `Denied`: the
    /// position is not stored yet, and the worker tries again by itself.
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        match &self.checkpoints.flusher {
            Some(flusher) => flusher.flush().await,
            None => Ok(()),
        }
    }

    /// Announces a checkpoint after the last record of a batch, with bytes of the application, and returns once the announcement
    /// is stored (KCL: `prepareCheckpoint`). The application then commits its own transaction, and calls
    /// [`PreparedCheckpoint::commit`]. A worker that takes the lease in between finds position and bytes in
    /// [`pending_checkpoint`](crate::ShardContextData::pending_checkpoint), and so learns which transaction to look for.
    ///
    /// Acknowledges nothing. The next checkpoint of the shard withdraws the announcement, so acknowledge no other record before
    /// the commit. The lease row holds the bytes; a table row has at most 400 KB.
    ///
    /// # Errors
    /// `Invalid`: the batch is acknowledged already, or of another shard. Otherwise as [`checkpoint`](Self::checkpoint).
    pub async fn prepare_checkpoint(
        &self,
        batch: &RecordBatch,
        state: Option<Vec<u8>>,
    ) -> Result<PreparedCheckpoint, CheckpointError> {
        let position = batch.last_position();
        if let Some(flusher) = &self.checkpoints.flusher {
            flusher.prepare(PendingCheckpoint::new(position, state)).await?;
        }
        Ok(PreparedCheckpoint { batch: batch.clone(), checkpoints: self.checkpoints.clone() })
    }
}

/// A checkpoint that is announced; see [`ShardContext::prepare_checkpoint`]. Dropped, it is withdrawn by the next checkpoint.
///
/// ```
/// use shard_worker::{BoxError, RecordBatch, ShardContext};
///
/// /// Announces the checkpoint, commits a transaction, and completes the checkpoint. After a crash in between, the next owner
/// /// finds the announcement in [`ShardContextData::pending_checkpoint`](shard_worker::ShardContextData::pending_checkpoint).
/// async fn process(context: &ShardContext, batch: &RecordBatch) -> Result<(), BoxError> {
///     let prepared = context.prepare_checkpoint(batch, Some(b"transaction 12".to_vec())).await?;
///     // ... commit the transaction here ...
///     prepared.commit().await?;
///     Ok(())
/// }
/// ```
#[must_use = "an announced checkpoint is complete only when it is committed"]
pub struct PreparedCheckpoint {
    batch: RecordBatch,
    checkpoints: ExplicitCheckpoints,
}

impl PreparedCheckpoint {
    /// The position that was announced: after the last record of the batch.
    pub fn position(&self) -> Position {
        self.batch.last_position()
    }

    /// Acknowledges the batch and writes its checkpoint, which completes the announcement; returns once it is stored.
    ///
    /// # Errors
    /// `Invalid`: records before the batch are not acknowledged, so that no checkpoint may pass them; or the batch was delivered
    /// again. Otherwise as [`ShardContext::checkpoint`].
    pub async fn commit(self) -> Result<(), CheckpointError> {
        self.batch.acknowledge_first(self.batch.len());
        let Some(flusher) = &self.checkpoints.flusher else { return Ok(()) };
        flusher.flush().await?;
        let (position, acknowledged) = (self.position(), flusher.acknowledged());
        if acknowledged >= position {
            return Ok(());
        }
        Err(CheckpointError::new(
            CheckpointErrorKind::Invalid,
            format!(
                "the checkpoint at {position} is not written: the shard is acknowledged up to {acknowledged} only; \
                 acknowledge the batches before it, and use a batch until it is delivered again"
            ),
        ))
    }
}

impl fmt::Debug for PreparedCheckpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PreparedCheckpoint")
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
