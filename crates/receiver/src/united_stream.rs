//! All shards, of one receiver or of several, as one stream of batches.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::Stream;
use lease_store::BoxError;
use shard_worker::{RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext};
use tokio::sync::{mpsc, oneshot};

/// A record processor factory and the stream that its batches come out of.
///
/// Give the factory (or clones of it) to as many receivers as there are; the stream unites their shards. Each shard has
/// at most one batch under way: the next one comes when it is acknowledged, so that order within a shard is kept and
/// memory is bounded by the number of shards. `buffer` batches wait in the stream itself.
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
pub fn united_stream(
    buffer: std::num::NonZeroUsize,
) -> (impl RecordProcessorFactory + Clone + std::fmt::Debug, UnitedStream) {
    let (sender, receiver) = mpsc::channel(buffer.get());
    (UnitedProcessors { sender }, UnitedStream { receiver })
}

/// The batches of all shards; see [`united_stream`]. It ends when every receiver has ended.
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

/// A batch of one shard, to be acknowledged. Dropped without it, the same batch is delivered again after a wait.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is delivered again; acknowledge it"]
pub struct Delivery {
    shard: ShardContext,
    batch: RecordBatch,
    answer: oneshot::Sender<Result<(), BoxError>>,
}

impl Delivery {
    /// Which shard the batch is from, and for whom it was read.
    pub fn shard(&self) -> &ShardContext {
        &self.shard
    }

    /// The records.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// The batch is done: a checkpoint may pass it.
    pub fn acknowledge(self) {
        // If nobody waits for the answer any more, the lease is lost and the batch is its new owner's.
        let _ = self.answer.send(Ok(()));
    }

    /// The batch could not be processed; it is delivered again after a wait.
    pub fn fail(self, error: impl Into<BoxError>) {
        let _ = self.answer.send(Err(error.into()));
    }
}

#[derive(Debug, Clone)]
struct UnitedProcessors {
    sender: mpsc::Sender<Delivery>,
}

impl RecordProcessorFactory for UnitedProcessors {
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(ShardOfUnitedStream { shard: context, sender: self.sender.clone() })
    }
}

struct ShardOfUnitedStream {
    shard: ShardContext,
    sender: mpsc::Sender<Delivery>,
}

#[async_trait]
impl RecordProcessor for ShardOfUnitedStream {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let (answer, answered) = oneshot::channel();
        let delivery = Delivery { shard: self.shard.clone(), batch: batch.clone(), answer };
        self.sender
            .send(delivery)
            .await
            .map_err(|_| "the united stream was dropped; nobody takes batches")?;
        answered.await.map_err(|_| "the delivery was dropped without being acknowledged")?
    }
}
