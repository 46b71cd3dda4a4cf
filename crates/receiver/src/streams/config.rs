//! One of several streams, and the consumers that a worker builds for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use lease_store::ShardId;
use shard_worker::{RecordProcessorFactory, StreamSource};

use crate::settings::ConsumerSettings;
use crate::shards::initial_position::{InitialPosition, ShardPosition};

/// One of the streams of a [`MultiStreamConsumer`](crate::MultiStreamConsumer), and its differences from the others.
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
    name: Option<String>,
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
        Self {
            source,
            name: None,
            initial_position: None,
            initial_positions: BTreeMap::new(),
            processors: None,
        }
    }

    /// The name of this stream in handles, statuses and metrics. Default: the name of the stream. Two streams of the same
    /// name, in two accounts or regions, need different ones here.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
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

    pub(super) fn source(&self) -> Arc<dyn StreamSource> {
        self.source.clone()
    }

    /// The name in handles, statuses and metrics.
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.source.stream_name())
    }

    /// The processors of this stream, or else those of the consumer.
    pub(super) fn processors_or(
        &self,
        common: Option<&Arc<dyn RecordProcessorFactory>>,
    ) -> Option<Arc<dyn RecordProcessorFactory>> {
        self.processors.as_ref().or(common).cloned()
    }

    /// The settings of the consumer with those of this stream.
    pub(super) fn settings(&self, common: &ConsumerSettings) -> ConsumerSettings {
        let mut settings = common.clone();
        settings.initial_position = self.initial_position.unwrap_or(common.initial_position);
        settings.initial_positions.clone_from(&self.initial_positions);
        settings
    }

    /// The faults of this stream alone: those of the common settings are not among them.
    pub(super) fn faults(
        &self,
        common: &ConsumerSettings,
        processors: Option<&Arc<dyn RecordProcessorFactory>>,
    ) -> Vec<String> {
        let name = self.name();
        let mut faults = Vec::new();
        if name.is_empty() {
            faults.push("a stream has an empty name; give it another one with named()".to_owned());
        }
        if self.processors_or(processors).is_none() {
            faults
                .push(format!("the record processors of the stream {name:?} are missing: call processors()"));
        }
        let common_faults = common.faults();
        let own = self.settings(common).faults().into_iter().filter(|fault| !common_faults.contains(fault));
        faults.extend(own.map(|fault| format!("stream {name:?}: {fault}")));
        faults
    }
}
