//! What the application writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::RetryPolicy;
use lease_store::{BoxError, FencingToken, HashKeyRange, PendingCheckpoint, Position, ShardId, WorkerId};
use tokio_util::sync::CancellationToken;

use crate::{FailurePolicy, RecordBatch};

/// How long to wait before something is tried again, unless it is set otherwise: from 200 ms up to 30 s.
pub const DEFAULT_PROCESSING_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(200), Duration::from_secs(30));

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

    /// Processes a batch. `Ok` acknowledges all of it: a checkpoint may pass it from then on. A processor that finishes
    /// later, or record by record, calls [`RecordBatch::defer`].
    ///
    /// The future is dropped at its next await point when the lease is lost, since another worker is about to read the
    /// same records.
    ///
    /// # Errors
    /// An error, like a panic, acknowledges nothing: the same batch comes again after a wait, on the same value, until the
    /// [`FailurePolicy`] says otherwise. Without the records that were acknowledged one by one, if there are any.
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError>;

    /// No batch comes before what is deferred is acknowledged, or as much of it as the reason asks for. A processor that
    /// holds acknowledgements back, to store something before them, does it now. It need not wait for work that is under
    /// way; at a stop it [releases](crate::RecordAcknowledgement::release) what it has not begun with.
    ///
    /// # Errors
    /// Any error is logged, and the call is made again after a wait.
    async fn settle(&mut self, reason: Settling) -> Result<(), BoxError> {
        let _ = reason;
        Ok(())
    }

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

/// Why what is deferred has to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settling {
    /// As much is unacknowledged as may be; the next batches come as soon as there is room.
    Room,
    /// The shard is read to its end, which is recorded when everything is acknowledged; or up to the bound of a bounded
    /// run, and the worker stops then.
    ShardEnd,
    /// The worker is stopping; it waits as long as its settings say.
    Stop,
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
    /// The shards that this one came out of, as far as they are known.
    pub parent_shard_ids: BTreeSet<ShardId>,
    /// The hash keys that the shard covers, where that is known.
    pub hash_key_range: Option<HashKeyRange>,
    /// What happens to records that cannot be processed, for processors that work on records one by one.
    pub failure_policy: FailurePolicy,
    /// How long to wait before something is tried again.
    pub retry: RetryPolicy,
    /// Cancelled when the worker is asked to finish: its process stops, or the shard is handed over. A processor may return
    /// early then, and [release](crate::RecordAcknowledgement::release) what it has not begun with.
    pub stopping: CancellationToken,
    /// Cancelled when the lease is lost, for work that goes on beside [`RecordProcessor::process`].
    pub lease_lost: CancellationToken,
}

impl ShardContext {
    /// A context with the defaults for all else, for tests of an application among others.
    pub fn new(application: &str, stream: &str, shard_id: ShardId, owner: FencingToken) -> Self {
        Self {
            application: application.into(),
            stream: stream.into(),
            shard_id,
            worker_id: owner.owner.clone(),
            fencing_token: owner,
            start: Position::TrimHorizon,
            pending_checkpoint: None,
            parent_shard_ids: BTreeSet::new(),
            hash_key_range: None,
            failure_policy: FailurePolicy::default(),
            retry: DEFAULT_PROCESSING_RETRY,
            stopping: CancellationToken::new(),
            lease_lost: CancellationToken::new(),
        }
    }
}
