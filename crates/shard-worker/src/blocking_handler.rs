//! A processor from a closure that blocks or computes for long: it runs in a pool of its own size.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use lease_store::BoxError;
use tokio::sync::Semaphore;

use crate::{RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext};

/// A pool of a fixed size for code that blocks or computes for long, so that it holds up neither reads nor renewals.
///
/// It takes threads of the runtime's blocking pool, and never more than its size at a time. Batches beyond that wait in
/// order, at most one for each shard. Clones are the same pool.
#[derive(Debug, Clone)]
pub struct ProcessorPool {
    threads: Arc<Semaphore>,
}

impl ProcessorPool {
    /// A pool in which at most so many batches are processed at a time.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads.get().min(Semaphore::MAX_PERMITS))) }
    }

    async fn run<F>(&self, work: F) -> Result<(), BoxError>
    where
        F: FnOnce() -> Result<(), BoxError> + Send + 'static,
    {
        let thread = self.threads.clone().acquire_owned().await?;
        let working = tokio::task::spawn_blocking(move || {
            // Held until the work is over, also when nobody waits for it any more.
            let _thread = thread;
            std::panic::catch_unwind(AssertUnwindSafe(work))
        });
        // A panic goes on here, where the worker makes an error of it like of any other.
        working.await?.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Calls a closure in a [`ProcessorPool`]; see [`blocking_handler`].
#[derive(Debug, Clone)]
pub struct BlockingHandler<F> {
    pool: ProcessorPool,
    handle: Arc<F>,
}

/// A processor factory from a closure that is called with each batch of each shard on a thread of `pool`. `Ok`
/// acknowledges the batch; an error and a panic do not, and the batch comes again.
///
/// When the lease is lost the call cannot be cut short: it goes on, its result counts for nothing, and its thread and the
/// memory of its batch stay taken until it ends. A closure that takes long looks at
/// [`ShardContext::lease_lost`] now and then.
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
    F: Fn(&ShardContext, &RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
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
    F: Fn(&ShardContext, &RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
{
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let (handle, context, batch) = (self.handle.clone(), self.context.clone(), batch.clone());
        self.pool.run(move || handle(&context, &batch)).await
    }
}

impl<F> RecordProcessorFactory for BlockingHandler<F>
where
    F: Fn(&ShardContext, &RecordBatch) -> Result<(), BoxError> + Send + Sync + 'static,
{
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(BlockingHandlerOfOneShard { context, pool: self.pool.clone(), handle: self.handle.clone() })
    }
}
