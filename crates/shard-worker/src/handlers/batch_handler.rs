//! A processor from an async closure.

use std::future::Future;

use async_trait::async_trait;
use lease_store::BoxError;

use crate::acknowledgement::record_batch::RecordBatch;
use crate::processor::{RecordProcessor, RecordProcessorFactory};
use crate::shard_context::ShardContext;

/// Calls a closure for each batch; see [`batch_handler`].
#[derive(Debug, Clone)]
pub struct BatchHandler<F> {
    handle: F,
}

/// A processor factory from a closure that is called with each batch of each shard. `Ok` acknowledges the batch.
///
/// Each call gets a clone of the closure, so an `async move` closure may use the values that it captures. Capture clients and
/// counters that are cheap to clone and share their state, or an `Arc` of others.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use shard_worker::{BoxError, batch_handler};
///
/// let total = Arc::new(AtomicUsize::new(0));
/// let factory = batch_handler(async move |shard, batch| {
///     total.fetch_add(batch.len(), Ordering::Relaxed);
///     println!("{} records of {}", batch.len(), shard.shard_id);
///     Ok::<_, BoxError>(())
/// });
/// # let _: &dyn shard_worker::RecordProcessorFactory = &factory;
/// ```
pub fn batch_handler<F, R>(handle: F) -> BatchHandler<F>
where
    F: FnOnce(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    BatchHandler { handle }
}

struct HandlerOfOneShard<F> {
    context: ShardContext,
    handle: F,
}

#[async_trait]
impl<F, R> RecordProcessor for HandlerOfOneShard<F>
where
    F: FnOnce(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let handle = self.handle.clone();
        handle(self.context.clone(), batch.clone()).await
    }
}

impl<F, R> RecordProcessorFactory for BatchHandler<F>
where
    F: FnOnce(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        Ok(Box::new(HandlerOfOneShard { context, handle: self.handle.clone() }))
    }
}
