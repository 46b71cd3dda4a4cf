//! The parts of a shard worker, and the contract that records the end of a shard.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use checkpointer::Checkpointer;
use fastrand::Rng;
use lease_store::BoxError;
use tokio::sync::watch;

use super::options::ShardWorkerOptions;
use super::watchdog::WatchdogCommands;
use crate::processor::RecordProcessorFactory;
use crate::progress::ShardProgress;
use crate::shard::Shard;
use crate::shard_context::ShardContext;
use crate::source::StreamSource;

/// Records the end of a shard: children first, then the shard itself.
#[async_trait]
pub trait ShardEndRecorder: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that the children have leases, then marks the shard as ended. Repeating it is safe.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait.
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError>;
}

/// Reads one shard, delivers its records, and ends.
///
/// [`run`](Self::run) works until the shard ends, the lease is lost, or the context's `stopping` token is cancelled.
/// Dropping the running future is a crash: nothing is flushed.
pub struct ShardWorker {
    /// The shard, the application, and where to start. Cancelling its `stopping` token makes the worker finish its batch,
    /// checkpoint and end; cancelling its `lease_lost` token stops everything at once.
    pub context: ShardContext,
    /// The stream.
    pub source: Arc<dyn StreamSource>,
    /// Creates the application's processor.
    pub processors: Arc<dyn RecordProcessorFactory>,
    /// Writes the acknowledged position.
    pub checkpointer: Checkpointer,
    /// Records the end of the shard.
    pub end_recorder: Arc<dyn ShardEndRecorder>,
    /// Commands of a watchdog: restart, or give up.
    pub watchdog_commands: WatchdogCommands,
    /// Receives the progress of the work.
    pub progress: watch::Sender<ShardProgress>,
    /// How the worker behaves.
    pub options: ShardWorkerOptions,
    /// Draws the random part of waits.
    pub rng: Rng,
}

impl fmt::Debug for ShardWorker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShardWorker").field("context", &self.context).finish_non_exhaustive()
    }
}
