//! Builds a consumer of several streams, and checks its settings and components as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use lease_store::{MultiStreamLeaseStore, ShardId};
use shard_worker::{RecordProcessorFactory, StreamSource};

use crate::builder::{ConsumerBuilder, StreamParts, WorkerParts, invalid_settings};
use crate::error::ConsumerError;
use crate::settings::ConsumerSettings;
use crate::shards::initial_position::{InitialPosition, ShardPosition};
use crate::streams::consumer::MultiStreamConsumer;
use crate::streams::seat::Seat;
use crate::streams::table::SharedTable;

/// The most streams of one consumer.
pub const MAX_STREAMS: usize = 1_000;

/// One of the streams of a [`MultiStreamConsumer`], and its differences from the others.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use receiver::{InitialPosition, StreamConfig};
/// use shard_worker::{InMemoryStream, batch_handler};
///
/// let bills = InMemoryStream::new("bills", NonZeroUsize::MIN);
/// let bills = StreamConfig::new(bills)
///     .initial_position(InitialPosition::Latest)
///     .processors(batch_handler(async |_, batch| {
///         println!("{} bills", batch.len());
///         Ok(())
///     }));
/// # drop(bills);
/// ```
#[derive(Clone)]
pub struct StreamConfig {
    source: Arc<dyn StreamSource>,
    initial_position: Option<InitialPosition>,
    initial_positions: BTreeMap<ShardId, ShardPosition>,
    processors: Option<Arc<dyn RecordProcessorFactory>>,
}

impl fmt::Debug for StreamConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StreamConfig")
            .field("stream", &self.source.stream_name())
            .field("initial_position", &self.initial_position)
            .finish_non_exhaustive()
    }
}

impl StreamConfig {
    /// A stream that is read as the settings of the consumer say.
    pub fn new(source: impl StreamSource) -> Self {
        Self::shared(Arc::new(source))
    }

    /// The same for a stream that others use too, or that was chosen at run time.
    pub fn shared(source: Arc<dyn StreamSource>) -> Self {
        Self { source, initial_position: None, initial_positions: BTreeMap::new(), processors: None }
    }

    /// Where a shard of this stream without a checkpoint starts. Default: the position of the settings.
    #[must_use]
    pub fn initial_position(mut self, initial_position: InitialPosition) -> Self {
        self.initial_position = Some(initial_position);
        self
    }

    /// Where one shard of this stream starts when its lease is created; see [`ConsumerSettings::initial_positions`].
    #[must_use]
    pub fn initial_position_of(mut self, shard_id: ShardId, position: ShardPosition) -> Self {
        self.initial_positions.insert(shard_id, position);
        self
    }

    /// The record processors of this stream. Default: those of the consumer, which the
    /// [`ShardContext`](shard_worker::ShardContext) tells the stream.
    #[must_use]
    pub fn processors(mut self, processors: impl RecordProcessorFactory) -> Self {
        self.processors = Some(Arc::new(processors));
        self
    }

    /// The settings of the consumer with those of this stream.
    fn settings(&self, common: &ConsumerSettings) -> ConsumerSettings {
        let mut settings = common.clone();
        settings.initial_position = self.initial_position.unwrap_or(common.initial_position);
        settings.initial_positions.clone_from(&self.initial_positions);
        settings
    }
}

impl ConsumerBuilder {
    /// Builds a consumer of several streams instead of one: with one lease table, and with its memory, its rate limits and its
    /// `max_leases` over all of them together. Replaces [`source`](Self::source) and [`lease_store`](Self::lease_store).
    ///
    /// All workers of the application must have the same streams. A worker with fewer streams takes its share of those alone.
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
        for stream in &self.streams {
            let name = stream.source.stream_name();
            let has_processors = stream.processors.is_some() || self.worker.current_processors().is_some();
            check(
                has_processors,
                format!("the record processors of the stream {name:?} are missing: call processors()"),
            );
            for fault in stream.settings(common).faults() {
                // A fault of the common settings is listed once.
                check(common.faults().contains(&fault), format!("stream {name:?}: {fault}"));
            }
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
        let common = self.worker.current_settings();
        let (worker_id, failover_time) = (worker.worker_id.clone(), common.failover_time);
        let table = Arc::new(SharedTable::new(table, worker_id, failover_time, worker.rng.fork()));
        let mut consumers = Vec::new();
        for stream in self.streams {
            let settings = stream.settings(common);
            let Some(processors) = stream.processors.or_else(|| self.worker.current_processors()) else {
                continue;
            };
            let seat = Seat::new(&table);
            let (source, store, rng) = (stream.source, seat.leases(), worker.rng.fork());
            let parts = StreamParts { source, store, processors, rng, seat: Some(seat) };
            consumers.push(worker.consumer(settings, parts));
        }
        Ok(MultiStreamConsumer::new(worker.worker_id, consumers))
    }
}
