//! A consumer of several streams: it runs a coordinator for each, and stops and observes them together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lease_store::WorkerId;

use crate::builder::invalid_settings;
use crate::error::ConsumerError;
use crate::handle::ConsumerHandle;
use crate::receiver::Consumer;
use crate::status::{ConsumerStatus, StopReport};

/// One worker of a fleet that reads several streams, with one lease table for all of them.
///
/// It takes its share of the leases of all streams together. Memory, rate limits and `max_leases` are over all streams too. A
/// stream that does not exist, or was deleted and created again, ends alone: the others go on.
///
/// [`run`](Self::run) works until [`MultiStreamHandle::stop`] is called. Dropping the running future is like a crash.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use receiver::{Consumer, StreamConfig};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// let handle = consumer.handle();
/// let running = tokio::spawn(consumer.run());
/// handle.stop();
/// assert!(running.await??.is_drained());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MultiStreamConsumer {
    worker_id: WorkerId,
    consumers: Vec<Consumer>,
    handle: MultiStreamHandle,
}

impl MultiStreamConsumer {
    pub(crate) fn new(worker_id: WorkerId, consumers: Vec<Consumer>) -> Self {
        let streams = consumers.iter().map(|consumer| RunningStream {
            name: consumer.source.stream_name().into(),
            handle: consumer.handle(),
            failure: Mutex::new(None),
        });
        let handle = MultiStreamHandle { streams: streams.collect() };
        Self { worker_id, consumers, handle }
    }

    /// A handle to stop all streams and read their status.
    pub fn handle(&self) -> MultiStreamHandle {
        self.handle.clone()
    }

    /// The name of this worker, the same for all streams.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    /// Works until it is stopped, or until all streams have ended. A stream ends alone when its start fails for a reason that
    /// waiting does not cure, when it was deleted and created again, or when its part of a bounded run is over; the others go on.
    ///
    /// # Errors
    /// The first failure when all streams have failed. Otherwise the report has the failure of each stream.
    pub async fn run(self) -> Result<MultiStreamReport, ConsumerError> {
        let streams = self.handle.streams;
        let run = |(index, consumer): (usize, Consumer)| async move { (index, consumer.run().await) };
        let mut running: FuturesUnordered<_> = self.consumers.into_iter().enumerate().map(run).collect();
        let mut ended: Vec<(usize, Result<StopReport, ConsumerError>)> = Vec::new();
        while let Some((index, result)) = running.next().await {
            if let (Err(error), Some(stream)) = (&result, streams.get(index)) {
                tracing::error!(
                    stream = &*stream.name, %error,
                    "the stream is not read any more, the other streams of this worker go on"
                );
                *stream.failure() = Some(error.to_string());
            }
            ended.push((index, result));
        }
        if ended.iter().all(|(_, result)| result.is_err()) {
            let first = ended.into_iter().find_map(|(_, result)| result.err());
            return Err(first.unwrap_or_else(|| invalid_settings(&["there is no stream to read".to_owned()])));
        }
        ended.sort_by_key(|(index, _)| *index);
        let reports = ended.into_iter().filter_map(|(index, result)| {
            Some(StreamReport { stream: streams.get(index)?.name.to_string(), result })
        });
        Ok(MultiStreamReport { streams: reports.collect() })
    }
}

/// Stops a running [`MultiStreamConsumer`] and reads the status of its streams.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use receiver::{Consumer, StreamConfig};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// let handle = consumer.handle();
/// let running = tokio::spawn(consumer.run());
/// for stream in handle.statuses() {
///     println!("{}: {}", stream.stream, stream.status.health());
/// }
/// // The handle of one stream stops it alone.
/// if let Some(bills) = handle.of_stream("bills") {
///     bills.stop_and_wait().await;
/// }
/// let reports = handle.stop_and_wait().await;
/// assert_eq!(reports.len(), 2);
/// # drop(running);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MultiStreamHandle {
    streams: Arc<[RunningStream]>,
}

#[derive(Debug)]
struct RunningStream {
    name: Arc<str>,
    handle: ConsumerHandle,
    /// Why the stream has ended, if it failed.
    failure: Mutex<Option<String>>,
}

impl RunningStream {
    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MultiStreamHandle {
    /// Requests a stop of all streams.
    pub fn stop(&self) {
        for stream in self.streams.iter() {
            stream.handle.stop();
        }
    }

    /// Waits until all streams have ended. Returns the report of each that ended without an error, with its name.
    pub async fn stopped(&self) -> Vec<(String, StopReport)> {
        let mut reports = Vec::new();
        for stream in self.streams.iter() {
            let report = stream.handle.stopped().await;
            reports.extend(report.map(|report| (stream.name.to_string(), report)));
        }
        reports
    }

    /// Requests a stop of all streams, and waits until they have ended.
    pub async fn stop_and_wait(&self) -> Vec<(String, StopReport)> {
        self.stop();
        self.stopped().await
    }

    /// The present status of each stream, in the order in which they were given.
    pub fn statuses(&self) -> Vec<StreamStatus> {
        let status = |stream: &RunningStream| StreamStatus {
            stream: stream.name.to_string(),
            failure: stream.failure().clone(),
            status: stream.handle.status(),
        };
        self.streams.iter().map(status).collect()
    }

    /// The handle of the first stream with this name, to stop it alone or for its metrics. The other workers read its shards
    /// then.
    pub fn of_stream(&self, name: &str) -> Option<ConsumerHandle> {
        self.streams.iter().find(|stream| &*stream.name == name).map(|stream| stream.handle.clone())
    }
}

/// The status of one stream of a [`MultiStreamConsumer`].
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use receiver::{Consumer, StreamConfig};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// for stream in consumer.handle().statuses() {
///     match stream.failure {
///         Some(failure) => println!("{} is not read: {failure}", stream.stream),
///         None => println!("{}: {} shards", stream.stream, stream.status.shards.len()),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStatus {
    /// The name of the stream.
    pub stream: String,
    /// Why the stream is not read any more. `None`: it is read, or was stopped.
    pub failure: Option<String>,
    /// The shards of the stream, and all else that a consumer of this stream alone would report. The memory is that of all
    /// streams.
    pub status: ConsumerStatus,
}

/// The report of a [`MultiStreamConsumer`] that has ended.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use receiver::{Consumer, StreamConfig};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// consumer.handle().stop();
/// let report = consumer.run().await?;
/// assert!(report.is_drained());
/// assert_eq!(report.streams.len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct MultiStreamReport {
    /// The report of each stream, in the order in which they were given.
    pub streams: Vec<StreamReport>,
}

/// The end of one stream.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use lease_store::InMemoryMultiStreamLeaseStore;
/// # use receiver::{Consumer, StreamConfig};
/// # use shard_worker::{InMemoryStream, batch_handler};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # let streams = ["orders", "bills"].map(|name| StreamConfig::new(InMemoryStream::new(name, NonZeroUsize::MIN)));
/// # let consumer = Consumer::builder()
/// #     .application("shop")
/// #     .processors(batch_handler(async |_, _| Ok(())))
/// #     .with_streams(streams)
/// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
/// #     .build()?;
/// consumer.handle().stop();
/// for end in consumer.run().await?.streams {
///     match end.result {
///         Ok(report) => println!("{}: {} records", end.stream, report.acknowledged_records),
///         Err(error) => println!("{} was not read to the end: {error}", end.stream),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamReport {
    /// The name of the stream.
    pub stream: String,
    /// Its report, or why it was not read any more.
    pub result: Result<StopReport, ConsumerError>,
}

impl MultiStreamReport {
    /// Whether every stream is [drained](StopReport::is_drained).
    pub fn is_drained(&self) -> bool {
        self.streams.iter().all(|stream| stream.result.as_ref().is_ok_and(StopReport::is_drained))
    }
}
