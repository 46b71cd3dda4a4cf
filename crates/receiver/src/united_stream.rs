//! All shards of one or several receivers as one `Stream` of batches.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::Stream;
use lease_store::BoxError;
use shard_worker::{
    Acknowledgement, Record, RecordAcknowledgement, RecordBatch, RecordProcessor, RecordProcessorFactory,
    ShardContext,
};
use tokio::sync::{Semaphore, mpsc};

/// A record processor factory, and the stream that returns its batches.
///
/// Give the factory, or clones of it, to one or more receivers: the stream unites their shards. Each shard has at most one
/// unacknowledged batch, and its next one follows the acknowledgement. So order within a shard is kept, and the number of
/// shards bounds the memory. The stream itself buffers up to `buffer` batches.
///
/// ```
/// # async fn example() {
/// use futures::StreamExt as _;
///
/// let (processors, mut batches) = receiver::united_stream(std::num::NonZeroUsize::MIN);
/// # drop(processors);
/// while let Some(delivery) = batches.next().await {
///     println!("{} records of {}", delivery.batch().len(), delivery.shard().shard_id);
///     delivery.acknowledge();
/// }
/// # }
/// ```
pub fn united_stream(buffer: NonZeroUsize) -> (UnitedProcessors, UnitedStream) {
    let (sender, receiver) = mpsc::channel(buffer.get());
    (UnitedProcessors { sender, batches_per_shard: NonZeroUsize::MIN }, UnitedStream { receiver })
}

/// The batches of all shards; see [`united_stream`]. It ends when every receiver has ended.
///
/// ```
/// use futures::StreamExt;
/// use receiver::UnitedStream;
///
/// /// Reads the batches of all shards in one loop.
/// async fn read(mut batches: UnitedStream) {
///     while let Some(delivery) = batches.next().await {
///         println!("{}: {} records", delivery.shard().shard_id, delivery.batch().records().len());
///         delivery.acknowledge();
///     }
/// }
/// ```
#[derive(Debug)]
pub struct UnitedStream {
    receiver: mpsc::Receiver<Delivery>,
}

impl Stream for UnitedStream {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.receiver.poll_recv(context)
    }
}

/// A batch of one shard, to be acknowledged as a whole or record by record.
///
/// When it is dropped, its unacknowledged records are delivered again according to the failure policy of the receiver. When
/// the lease is lost, as [`ShardContextData::lease_lost`](shard_worker::ShardContextData::lease_lost) reports, acknowledgements have no effect.
///
/// ```
/// use receiver::Delivery;
///
/// /// Stores a batch, or has it delivered again.
/// async fn handle(delivery: Delivery) {
///     match store(delivery.batch().payload_bytes()).await {
///         Ok(()) => delivery.acknowledge(),
///         Err(error) => delivery.fail(error),
///     }
/// }
/// # async fn store(_: u64) -> Result<(), std::io::Error> { Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a delivery that is dropped is delivered again; acknowledge it"]
pub struct Delivery {
    shard: Arc<ShardContext>,
    batch: RecordBatch,
    acknowledgement: Acknowledgement,
}

impl Delivery {
    /// The shard of the batch, and the worker that has read it.
    pub fn shard(&self) -> &ShardContext {
        &self.shard
    }

    /// The records.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Acknowledges the batch: a checkpoint may pass it.
    pub fn acknowledge(self) {
        self.acknowledgement.acknowledge();
    }

    /// Reports that the batch could not be processed. It is delivered again according to the failure policy.
    pub fn fail(self, error: impl Into<BoxError>) {
        self.acknowledgement.fail(error);
    }

    /// The records, each with a handle of its own, to be acknowledged in any order.
    pub fn into_records(self) -> impl ExactSizeIterator<Item = (Record, RecordAcknowledgement)> {
        self.acknowledgement.into_records()
    }
}

/// Sends the batches of its shards to a [`UnitedStream`].
#[derive(Debug, Clone)]
pub struct UnitedProcessors {
    sender: mpsc::Sender<Delivery>,
    batches_per_shard: NonZeroUsize,
}

impl UnitedProcessors {
    /// How many batches of a shard may be unacknowledged at a time; 1 by default. With more, a batch that is delivered
    /// again follows later batches of its shard.
    #[must_use]
    pub fn batches_per_shard(self, batches_per_shard: NonZeroUsize) -> Self {
        Self { batches_per_shard, ..self }
    }
}

impl RecordProcessorFactory for UnitedProcessors {
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        let limit = self.batches_per_shard.get().min(Semaphore::MAX_PERMITS);
        Ok(Box::new(ShardOfUnitedStream {
            shard: Arc::new(context),
            sender: self.sender.clone(),
            unacknowledged: Arc::new(Semaphore::new(limit)),
            is_one_by_one: limit == 1,
        }))
    }
}

struct ShardOfUnitedStream {
    shard: Arc<ShardContext>,
    sender: mpsc::Sender<Delivery>,
    /// One permit for each batch that may be unacknowledged.
    unacknowledged: Arc<Semaphore>,
    is_one_by_one: bool,
}

#[async_trait]
impl RecordProcessor for ShardOfUnitedStream {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let permit = self.unacknowledged.clone().acquire_owned().await?;
        let acknowledgement = batch.defer().with_guard(permit);
        let delivery = Delivery { shard: self.shard.clone(), batch: batch.clone(), acknowledgement };
        if self.sender.send(delivery).await.is_err() {
            return Err("the united stream was dropped, so its batches cannot be delivered".into());
        }
        if self.is_one_by_one {
            // Wait for the acknowledgement, so that a failed batch is delivered again before the next one.
            drop(self.unacknowledged.acquire().await?);
        }
        Ok(())
    }
}
