//! A processor from a closure that blocks or computes for long: it runs in a pool of limited size.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use lease_store::BoxError;
use tokio::sync::Semaphore;

use crate::acknowledgement::record_batch::RecordBatch;
use crate::processor::{RecordProcessor, RecordProcessorFactory};
use crate::shard_context::ShardContext;

/// A pool of a fixed size for code that blocks or computes for long, so that it delays neither reads nor renewals.
///
/// It uses threads of the runtime's blocking pool, never more than its size at a time. Further batches wait in order, at
/// most one for each shard. Clones are the same pool.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::{ProcessorPool, blocking_handler};
///
/// // Four threads for all shards of the process.
/// let pool = ProcessorPool::new(NonZeroUsize::new(4).expect("four is not zero"));
/// let processors = blocking_handler(&pool, |_, batch| {
///     println!("{} bytes", batch.payload_bytes()); // may block
///     Ok(())
/// });
/// # fn is_factory(_: impl shard_worker::RecordProcessorFactory) {}
/// # is_factory(processors);
/// ```
#[derive(Debug, Clone)]
pub struct ProcessorPool {
    threads: Arc<Semaphore>,
}

impl ProcessorPool {
    /// A pool that processes at most `threads` batches at a time, over all shards and receivers that use a clone of it. Threads
    /// are started by the runtime when they are needed.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads.get().min(Semaphore::MAX_PERMITS))) }
    }

    async fn run<F>(&self, work: F) -> Result<(), BoxError>
    where
        F: FnOnce() -> Result<(), BoxError> + Send + 'static,
    {
        let thread = self.threads.clone().acquire_owned().await?;
        let working = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even if the future that waits for it was dropped.
            let _thread = thread;
            std::panic::catch_unwind(AssertUnwindSafe(work))
        });
        // The panic resumes on this task, where the worker turns it into an error.
        working.await?.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A factory of processors that call a closure in a [`ProcessorPool`]; [`blocking_handler`] creates it, and
/// `ConsumerBuilder::processors` takes it.
#[derive(Debug, Clone)]
pub struct BlockingHandler<F> {
    pool: ProcessorPool,
    handle: Arc<F>,
}

/// A processor factory from a closure that is called with each batch of each shard on a thread of `pool`, with the arguments
/// of [`batch_handler`](crate::batch_handler()). `Ok` acknowledges the batch; after an error or a panic the batch is delivered
/// again.
///
/// Neither a lost lease nor a stop can cancel the call: it continues, its result is ignored, and its thread and the memory of its
/// batch stay in use until it ends. A closure that takes long should check
/// [`lease_lost`](crate::ShardContextData::lease_lost) regularly: it is cancelled at the end of the drain time too. A call that
/// never returns keeps the process from ending, since the tokio runtime waits for it when it is dropped; a `main` that uses
/// `Runtime::shutdown_timeout` does not wait.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::{ProcessorPool, blocking_handler};
///
/// let pool = ProcessorPool::new(NonZeroUsize::MIN.saturating_add(3));
/// let factory = blocking_handler(&pool, |shard, batch| {
///     println!("{} records of {}", batch.len(), shard.shard_id);
///     Ok(())
/// });
/// # let _: &dyn shard_worker::RecordProcessorFactory = &factory;
/// ```
pub fn blocking_handler<F>(pool: &ProcessorPool, handle: F) -> BlockingHandler<F>
where
    F: Fn(ShardContext, RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
{
    BlockingHandler { pool: pool.clone(), handle: Arc::new(handle) }
}

struct BlockingHandlerOfOneShard<F> {
    context: ShardContext,
    pool: ProcessorPool,
    handle: Arc<F>,
}

#[async_trait]
impl<F> RecordProcessor for BlockingHandlerOfOneShard<F>
where
    F: Fn(ShardContext, RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
{
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let (handle, context, batch) = (self.handle.clone(), self.context.clone(), batch.clone());
        self.pool.run(move || handle(context, batch)).await
    }
}

impl<F> RecordProcessorFactory for BlockingHandler<F>
where
    F: Fn(ShardContext, RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
{
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        let (pool, handle) = (self.pool.clone(), self.handle.clone());
        Ok(Box::new(BlockingHandlerOfOneShard { context, pool, handle }))
    }
}
