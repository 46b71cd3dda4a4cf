//! The receiver: one worker of the fleet that reads a stream.

use std::fmt;
use std::sync::Arc;

use fastrand::Rng;
use lease_store::{LeaseStore, WorkerId};
use shard_worker::{RecordProcessorFactory, RetryPolicy, ShardWorkerOptions, StreamSource};

use crate::handle::{ConsumerHandle, EndReporter, Shared};
use crate::process::LiveProcess;
use crate::settings::ConsumerSettings;
use crate::streams::seat::Seat;

/// One worker of the fleet that reads a stream: it holds a share of the leases and runs a shard worker for each.
///
/// [`run`](Self::run) works until [`ConsumerHandle::stop`] is called. Dropping the running future is like a crash:
/// nothing is flushed or released, and other workers take over after the fail-over time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use std::num::NonZeroUsize;
/// use lease_store::InMemoryLeaseStore;
/// use receiver::Consumer;
/// use shard_worker::{InMemoryStream, batch_handler};
///
/// let consumer = Consumer::builder()
///     .application("billing")
///     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
///     .lease_store(InMemoryLeaseStore::new())
///     .processors(batch_handler(|_, batch| async move {
///         println!("{} records", batch.records().len());
///         Ok(())
///     }))
///     .build()?;
/// let handle = consumer.handle();
/// handle.stop(); // from another task, once the service ends
/// assert!(consumer.run().await?.is_drained());
/// # Ok(()) }
/// ```
pub struct Consumer {
    pub(crate) settings: ConsumerSettings,
    pub(crate) worker_id: WorkerId,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) processors: Arc<dyn RecordProcessorFactory>,
    pub(crate) checkpoint_retry: RetryPolicy,
    /// The options of every shard worker, without the start time of the shard and the retention of the stream.
    pub(crate) worker_options: ShardWorkerOptions,
    pub(crate) rng: Rng,
    pub(crate) process: LiveProcess,
    pub(crate) shared: Arc<Shared>,
    pub(crate) end: Arc<EndReporter>,
    /// The place at a table of several streams. `None`: the store has this stream alone.
    pub(crate) seat: Option<Seat>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Consumer")
            .field("settings", &self.settings)
            .field("worker_id", &self.worker_id)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// A handle to stop this receiver and read its status.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle::new(self.shared.clone())
    }

    /// The name of this worker.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }
}
