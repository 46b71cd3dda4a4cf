//! What the application writes.

use std::sync::Arc;

use async_trait::async_trait;
use lease_store::{BoxError, FencingToken, PendingCheckpoint, Position, ShardId, WorkerId};
use tokio_util::sync::CancellationToken;

use crate::RecordBatch;

/// The application's code for one shard. One value lives as long as this worker holds the shard.
///
/// Calls come one at a time. All but [`process`](Self::process) are optional.
#[async_trait]
pub trait RecordProcessor: Send + 'static {
    /// Called once before the first batch.
    ///
    /// # Errors
    /// Any error is logged, and the call is made again after a wait.
    async fn initialize(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Processes a batch. `Ok` acknowledges all of it: a checkpoint may pass it from then on.
    ///
    /// The future is dropped at its next await point when the lease is lost, since another worker is about to read the
    /// same records.
    ///
    /// # Errors
    /// An error, like a panic, acknowledges nothing: the same batch comes again after a wait, on the same value.
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError>;

    /// Another worker owns the shard now. Nothing can be acknowledged any more.
    async fn lease_lost(&mut self) {}

    /// The shard is read to its end and every record is acknowledged. There is nothing the application has to call for
    /// the children to start.
    ///
    /// # Errors
    /// Any error is logged, and the call is made again after a wait; the children start after it succeeds.
    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// This worker is stopping. Afterwards what is acknowledged is checkpointed and the lease is given up.
    ///
    /// # Errors
    /// An error is logged; the stop goes on.
    async fn shutdown_requested(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Makes a processor for each shard that this worker comes to hold. Any `Fn(ShardContext) -> impl RecordProcessor` is
/// one.
pub trait RecordProcessorFactory: Send + Sync + 'static {
    /// A processor for one shard.
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor>;
}

impl<F, P> RecordProcessorFactory for F
where
    F: Fn(ShardContext) -> P + Send + Sync + 'static,
    P: RecordProcessor,
{
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(self(context))
    }
}

/// Which shard a processor works on, for whom, and from where.
#[derive(Debug, Clone)]
pub struct ShardContext {
    /// The name of the application.
    pub application: Arc<str>,
    /// The name of the stream.
    pub stream: Arc<str>,
    /// The shard.
    pub shard_id: ShardId,
    /// This worker.
    pub worker_id: WorkerId,
    /// Proof of ownership for the application's own sinks: the holder with the larger counter is the newer one.
    pub fencing_token: FencingToken,
    /// The position where reading starts.
    pub start: Position,
    /// A checkpoint that an earlier holder, a KCL application, prepared and did not complete. The next checkpoint clears
    /// it.
    pub pending_checkpoint: Option<PendingCheckpoint>,
    /// Cancelled when the lease is lost, for work that goes on beside [`RecordProcessor::process`].
    pub lease_lost: CancellationToken,
}
