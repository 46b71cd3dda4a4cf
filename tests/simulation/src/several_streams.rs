//! A second stream beside the simulated one: the workers then read both as one consumer of several streams, over one table.
//!
//! The second stream has one idle shard, and its leases are not faulty. Its rows are in the table of the simulated stream, as far
//! as a worker can tell: a scan of both passes the faults of the simulated one.

use std::num::NonZeroUsize;

use async_trait::async_trait;
use lease_store::{
    Consistency, InMemoryLeaseStore, LeaseStore as _, MultiStreamLeaseStore, MultiStreamListing, StoreError,
    StreamIdentity, StreamLeases,
};
use receiver::{
    Consumer, ConsumerBuilder, ConsumerError, ConsumerHandle, MultiStreamBuilder, MultiStreamConsumer,
    StopReport, StreamConfig,
};
use shard_worker::{InMemoryStream, RecordBatch, ShardContext, batch_handler};

use crate::table_client::TableClient;

/// The shards of the second stream.
pub const SECOND_STREAM_SHARDS: u64 = 1;

/// The name and key of the simulated stream.
const SIMULATED: &str = "simulated";

/// The name and key of the second stream.
const SECOND: &str = "second";

/// The second stream and its leases. Clones share them.
#[derive(Debug, Clone)]
pub struct SecondStream {
    stream: InMemoryStream,
    leases: InMemoryLeaseStore,
}

impl Default for SecondStream {
    fn default() -> Self {
        Self { stream: InMemoryStream::new(SECOND, NonZeroUsize::MIN), leases: InMemoryLeaseStore::new() }
    }
}

impl SecondStream {
    /// The streams of a worker: the simulated one, and this one.
    pub fn beside(
        &self,
        simulated: StreamConfig,
        worker: ConsumerBuilder,
        table: TableClient,
    ) -> MultiStreamBuilder {
        let ignored = batch_handler(|_: ShardContext, _: RecordBatch| async { Ok(()) });
        let second = StreamConfig::new(self.stream.clone()).processors(ignored);
        let table = TwoStreams { simulated: table, second: self.leases.clone() };
        worker.with_streams([simulated, second]).lease_store(table)
    }
}

/// The leases of both streams.
#[derive(Debug, Clone)]
struct TwoStreams {
    simulated: TableClient,
    second: InMemoryLeaseStore,
}

#[async_trait]
impl MultiStreamLeaseStore for TwoStreams {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.simulated.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        let mut listing = MultiStreamListing::default();
        listing.streams.insert(SIMULATED.to_owned(), self.simulated.list(consistency).await?);
        listing.streams.insert(SECOND.to_owned(), self.second.list(consistency).await?);
        Ok(listing)
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        Ok(if stream.arn.ends_with(SECOND) {
            StreamLeases::new(SECOND, std::sync::Arc::new(self.second.clone()))
        } else {
            StreamLeases::new(SIMULATED, std::sync::Arc::new(self.simulated.clone()))
        })
    }
}

/// A receiver of one stream or of both.
#[derive(Debug)]
pub enum Receiver {
    /// Of the simulated stream.
    One(Box<Consumer>),
    /// Of both streams.
    Both(MultiStreamConsumer),
}

impl Receiver {
    /// The handle of the simulated stream.
    pub fn handle(&self) -> Option<ConsumerHandle> {
        match self {
            Self::One(consumer) => Some(consumer.handle()),
            Self::Both(consumer) => consumer.handle().of_stream(SIMULATED),
        }
    }

    /// Runs it until the simulated stream has ended. Returns the end of that stream.
    ///
    /// # Errors
    /// As the receiver of one stream.
    pub async fn run(self) -> Result<StopReport, ConsumerError> {
        let consumer = match self {
            Self::One(consumer) => return consumer.run().await,
            Self::Both(consumer) => consumer,
        };
        let handle = consumer.handle();
        let mut running = std::pin::pin!(consumer.run());
        let simulated = handle.of_stream(SIMULATED);
        let ended = async {
            if let Some(simulated) = simulated {
                simulated.stopped().await;
            }
        };
        let report = tokio::select! {
            report = &mut running => report,
            () = ended => {
                handle.stop();
                running.await
            }
        };
        // The simulated stream is the first one.
        let mut streams = report?.streams;
        streams.swap_remove(0).result
    }
}
