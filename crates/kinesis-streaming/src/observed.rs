//! What metrics and probes observe: the workers of a process, and the streams of a worker.

use lease_store::WorkerId;
use receiver::{ConsumerGroupHandle, ConsumerHandle, ConsumerStatus, MultiStreamHandle};

/// The consumers that metrics are about: made from the handle of a consumer, of a group, or of a consumer of several streams.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use kinesis_streaming::prelude::*;
/// use kinesis_streaming::MetricsSource;
///
/// # fn main() -> Result<(), BoxError> {
/// # let consumer = Consumer::builder()
/// #     .application("billing")
/// #     .source(InMemoryStream::new("orders", NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, _| async { Ok(()) }))
/// #     .build()?;
/// let source = MetricsSource::from(consumer.handle());
/// # drop(source);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MetricsSource(Source);

#[derive(Debug, Clone)]
enum Source {
    Workers(ConsumerGroupHandle),
    Streams(MultiStreamHandle),
}

impl From<ConsumerHandle> for MetricsSource {
    fn from(handle: ConsumerHandle) -> Self {
        Self(Source::Workers(handle.into()))
    }
}

impl From<ConsumerGroupHandle> for MetricsSource {
    fn from(handle: ConsumerGroupHandle) -> Self {
        Self(Source::Workers(handle))
    }
}

impl From<MultiStreamHandle> for MetricsSource {
    fn from(handle: MultiStreamHandle) -> Self {
        Self(Source::Streams(handle))
    }
}

/// The consumers at one time.
#[derive(Debug, Clone)]
#[allow(dead_code)] // which fields are read depends on the features
pub(crate) enum Observation {
    /// Workers of one stream.
    Workers(Vec<ConsumerStatus>),
    /// One worker, and each of its streams.
    Streams { worker_id: WorkerId, has_ended: bool, streams: Vec<ObservedStream> },
}

/// A stream of a worker of several.
#[derive(Debug, Clone)]
#[allow(dead_code)] // which fields are read depends on the features
pub(crate) struct ObservedStream {
    /// Its name, which no other stream of the worker has.
    pub(crate) name: String,
    /// Another one when the stream was added again: its counts begin again then.
    pub(crate) number: u64,
    /// Its key in the lease table, once it is known.
    pub(crate) key: Option<String>,
    /// Why it is not read any more.
    pub(crate) failure: Option<String>,
    pub(crate) status: ConsumerStatus,
}

impl MetricsSource {
    pub(crate) fn observe(&self) -> Observation {
        match &self.0 {
            Source::Workers(handle) => Observation::Workers(handle.statuses()),
            Source::Streams(handle) => {
                let mut streams: Vec<ObservedStream> = Vec::new();
                for stream in handle.statuses() {
                    let name = unique(stream.stream, &streams);
                    let (number, key, failure, status) =
                        (stream.number, stream.key, stream.failure, stream.status);
                    streams.push(ObservedStream { name, number, key, failure, status });
                }
                let has_ended = handle.has_ended();
                Observation::Streams { worker_id: handle.worker_id().clone(), has_ended, streams }
            }
        }
    }

    /// Waits until all consumers have ended.
    #[cfg(feature = "metrics")]
    pub(crate) async fn stopped(&self) {
        match &self.0 {
            Source::Workers(handle) => drop(handle.stopped().await),
            Source::Streams(handle) => drop(handle.stopped().await),
        }
    }
}

/// The name, with a number if an earlier stream has it: two series of equal labels would be one for a reader.
fn unique(name: String, before: &[ObservedStream]) -> String {
    let is_free = |name: &str| before.iter().all(|stream| stream.name != name);
    if is_free(&name) {
        return name;
    }
    let numbered = (2..=before.len() + 1).map(|number| format!("{name} ({number})"));
    numbered.into_iter().find(|numbered| is_free(numbered)).unwrap_or(name)
}
