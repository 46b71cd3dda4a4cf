//! A second stream beside the simulated one: the workers then read both as one consumer of several streams, over one table.
//!
//! The second stream has one idle shard, and its leases are not faulty. Its rows are in the table of the simulated stream, as far
//! as a worker can tell: a scan of both passes the faults of the simulated one. While there are faults, each worker removes the
//! second stream from its list and adds it again, so the lists of the workers differ for a while.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use lease_store::{
    Consistency, InMemoryLeaseStore, LeaseStore as _, MultiStreamLeaseStore, MultiStreamListing, StoreError,
    StreamIdentity, StreamLeases,
};
use receiver::{
    Consumer, ConsumerBuilder, ConsumerError, ConsumerHandle, FormerLeases, MultiStreamBuilder,
    MultiStreamConsumer, MultiStreamHandle, StopReport, StreamConfig,
};
use shard_worker::{InMemoryStream, RecordBatch, ShardContext, batch_handler};
use tokio::time::{Instant, sleep};

use crate::table_client::TableClient;

/// The shards of the second stream.
pub const SECOND_STREAM_SHARDS: u64 = 1;

/// The name and key of the simulated stream.
const SIMULATED: &str = "simulated";

/// The name and key of the second stream.
const SECOND: &str = "second";

/// The time between two changes of a worker's list, in milliseconds.
const BETWEEN_CHANGES: RangeInclusive<u64> = 500..=40_000;

/// How long the leases of the removed stream must be unchanged before they are deleted, where they are.
const FORMER_LEASES_WAIT: Duration = Duration::from_secs(20);

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
        let table = TwoStreams { simulated: table, second: self.leases.clone() };
        worker.with_streams([simulated, self.config()]).lease_store(table)
    }

    fn config(&self) -> StreamConfig {
        let ignored = batch_handler(|_: ShardContext, _: RecordBatch| async { Ok(()) });
        StreamConfig::new(self.stream.clone()).processors(ignored)
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
    Both(MultiStreamConsumer, Changes),
}

/// The changes of a worker's list of streams.
#[derive(Debug)]
pub struct Changes {
    /// The second stream.
    pub second: SecondStream,
    /// The source of their times.
    pub rng: Rng,
    /// When the last one begins: the list is complete from then on.
    pub until: Instant,
}

impl Changes {
    /// Removes the second stream and adds it again, until the time of the last change, and then waits for ever.
    async fn make(mut self, handle: MultiStreamHandle) {
        loop {
            sleep(Duration::from_millis(self.rng.u64(BETWEEN_CHANGES))).await;
            if Instant::now() >= self.until {
                std::future::pending::<()>().await;
            }
            let leases = if self.rng.bool() {
                FormerLeases::Keep
            } else {
                FormerLeases::DeleteAfter(FORMER_LEASES_WAIT)
            };
            let removed = handle.remove_stream(SECOND, leases);
            sleep(Duration::from_millis(self.rng.u64(BETWEEN_CHANGES))).await;
            // Refused while the worker stops.
            if removed.is_some() && handle.add_stream(self.second.config()).is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Receiver {
    /// The handle of the simulated stream.
    pub fn handle(&self) -> Option<ConsumerHandle> {
        match self {
            Self::One(consumer) => Some(consumer.handle()),
            Self::Both(consumer, _) => consumer.handle().of_stream(SIMULATED),
        }
    }

    /// Runs it until the simulated stream has ended. Returns the end of that stream.
    ///
    /// # Errors
    /// As the receiver of one stream.
    pub async fn run(self) -> Result<StopReport, ConsumerError> {
        let (consumer, changes) = match self {
            Self::One(consumer) => return consumer.run().await,
            Self::Both(consumer, changes) => (consumer, changes),
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
            () = changes.make(handle.clone()) => running.await,
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
