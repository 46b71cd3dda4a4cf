//! Builds a consumer of several streams, and checks its settings and components as a whole.

use std::sync::Arc;

use lease_store::MultiStreamLeaseStore;

use crate::builder::{ConsumerBuilder, WorkerParts, invalid_settings};
use crate::error::ConsumerError;
use crate::streams::config::StreamConfig;
use crate::streams::consumer::MultiStreamConsumer;
use crate::streams::factory::StreamFactory;
use crate::streams::list::{MAX_STREAMS, StreamList};
use crate::streams::table::SharedTable;

impl ConsumerBuilder {
    /// Builds a consumer of several streams instead of one: with one lease table, and with its memory, its rate limits and its
    /// `max_leases` over all of them together. Replaces [`source`](Self::source) and [`lease_store`](Self::lease_store).
    ///
    /// All workers of the application should have the same streams. While their lists differ, each stream is read by the workers
    /// that have it. [`MultiStreamHandle::add_stream`](crate::MultiStreamHandle::add_stream) and
    /// [`remove_stream`](crate::MultiStreamHandle::remove_stream) change the list of a running worker.
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// use lease_store::InMemoryMultiStreamLeaseStore;
    /// use receiver::{Consumer, InitialPosition, StreamConfig};
    /// use shard_worker::{InMemoryStream, batch_handler};
    ///
    /// # fn main() -> Result<(), lease_store::BoxError> {
    /// let [orders, bills] = ["orders", "bills"].map(|name| InMemoryStream::new(name, NonZeroUsize::MIN));
    /// let consumer = Consumer::builder()
    ///     .application("shop")
    ///     .processors(batch_handler(async |shard, batch| {
    ///         println!("{} records of {}", batch.len(), shard.stream);
    ///         Ok(())
    ///     }))
    ///     .with_streams([
    ///         StreamConfig::new(orders),
    ///         StreamConfig::new(bills).initial_position(InitialPosition::Latest),
    ///     ])
    ///     .lease_store(InMemoryMultiStreamLeaseStore::new())
    ///     .build()?;
    /// # drop(consumer);
    /// # Ok(()) }
    /// ```
    pub fn with_streams(self, streams: impl IntoIterator<Item = StreamConfig>) -> MultiStreamBuilder {
        MultiStreamBuilder { worker: self, streams: streams.into_iter().collect(), table: None }
    }
}

/// Builds a [`MultiStreamConsumer`]; see [`ConsumerBuilder::with_streams`].
///
/// ```
/// use receiver::{Consumer, ConsumerErrorKind};
///
/// let error = Consumer::builder().application("shop").with_streams([]).build().unwrap_err();
/// assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
/// println!("{error}"); // all faults: no stream, no lease store
/// ```
#[derive(Debug, Clone)]
pub struct MultiStreamBuilder {
    worker: ConsumerBuilder,
    streams: Vec<StreamConfig>,
    table: Option<Arc<dyn MultiStreamLeaseStore>>,
}

impl MultiStreamBuilder {
    /// The store of the leases of all streams.
    #[must_use]
    pub fn lease_store(self, store: impl MultiStreamLeaseStore) -> Self {
        self.shared_lease_store(Arc::new(store))
    }

    /// The store of the leases of all streams, shared with other consumers.
    #[must_use]
    pub fn shared_lease_store(mut self, store: Arc<dyn MultiStreamLeaseStore>) -> Self {
        self.table = Some(store);
        self
    }

    /// All faults of settings and components, one line each. Empty when [`build`](Self::build) succeeds.
    pub fn faults(&self) -> Vec<String> {
        let common = self.worker.current_settings();
        let mut faults = common.faults();
        let mut check = |is_valid: bool, fault: String| {
            if !is_valid {
                faults.push(fault);
            }
        };
        let count = self.streams.len();
        check(
            (1..=MAX_STREAMS).contains(&count),
            format!("{count} streams: with_streams() takes 1 to {MAX_STREAMS}"),
        );
        check(
            !self.worker.has_source_or_store(),
            "with_streams() replaces source() and lease_store(); give it all streams, and its builder the store"
                .to_owned(),
        );
        check(
            common.initial_positions.is_empty(),
            "positions of single shards belong to a stream: call initial_position_of() of its StreamConfig"
                .to_owned(),
        );
        let fault = "the lease store is missing: call lease_store() after with_streams()";
        check(self.table.is_some(), fault.to_owned());
        let processors = self.worker.current_processors();
        for stream in &self.streams {
            faults.extend(stream.faults(common, processors.as_ref()));
        }
        faults
    }

    /// Checks settings and components, and builds the consumer.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn build(self) -> Result<MultiStreamConsumer, ConsumerError> {
        let faults = self.faults();
        let (Some(table), []) = (self.table, faults.as_slice()) else {
            return Err(invalid_settings(&faults));
        };
        let mut worker = WorkerParts::new(&self.worker)?;
        let common = self.worker.current_settings().clone();
        let (worker_id, failover_time) = (worker.worker_id.clone(), common.failover_time);
        let table = Arc::new(SharedTable::new(table, worker_id.clone(), failover_time, worker.rng.fork()));
        let processors = self.worker.current_processors();
        let list = StreamList::new(StreamFactory { worker, common, processors, table: table.clone() });
        for stream in &self.streams {
            list.push(stream);
        }
        Ok(MultiStreamConsumer::new(worker_id, list, table))
    }
}
