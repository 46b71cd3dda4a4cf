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
/// ```
/// use shard_worker::{BoxError, batch_handler};
///
/// let factory = batch_handler(async |shard, batch| {
///     println!("{} records of {}", batch.len(), shard.shard_id);
///     Ok::<_, BoxError>(())
/// });
/// # let _: &dyn shard_worker::RecordProcessorFactory = &factory;
/// ```
pub fn batch_handler<F, R>(handle: F) -> BatchHandler<F>
where
    F: Fn(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
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
    F: Fn(ShardContext, RecordBatch) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        (self.handle)(self.context.clone(), batch.clone()).await
    }
}

impl<F, R> RecordProcessorFactory for BatchHandler<F>
where
    F: Fn(ShardContext, RecordBatch) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(HandlerOfOneShard { context, handle: self.handle.clone() })
    }
}
