//! A consumer of several streams: it runs a coordinator for each, and stops and observes them together.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lease_store::WorkerId;

use crate::error::ConsumerError;
use crate::handle::ConsumerHandle;
use crate::status::{ConsumerStatus, StopReport};
use crate::streams::config::StreamConfig;
use crate::streams::former::{FormerLeases, delete_when_unused};
use crate::streams::list::{AddedStream, EndOfList, ListedStream, StreamList};
use crate::streams::table::SharedTable;

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
    list: Arc<StreamList>,
    table: Arc<SharedTable>,
    end: EndOfList,
}

impl MultiStreamConsumer {
    pub(super) fn new(worker_id: WorkerId, list: Arc<StreamList>, table: Arc<SharedTable>) -> Self {
        let end = EndOfList(list.clone());
        Self { worker_id, list, table, end }
    }

    /// A handle to stop all streams and read their status.
    pub fn handle(&self) -> MultiStreamHandle {
        MultiStreamHandle { worker_id: self.worker_id.clone(), list: self.list.clone() }
    }

    /// The name of this worker, the same for all streams.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    /// Works until it is stopped, or until all streams have ended. A stream ends alone when its start fails for a reason that
    /// waiting does not cure, when it was deleted and created again, or when its part of a bounded run is over; the others go on.
    /// When all streams were [removed](MultiStreamHandle::remove_stream), it waits for one that is added.
    ///
    /// # Errors
    /// The first failure when all streams have failed. Otherwise the report has the failure of each stream.
    pub async fn run(self) -> Result<MultiStreamReport, ConsumerError> {
        let Self { list, table, end: _end, .. } = self;
        let run = |added: AddedStream| async move {
            for leaving in &added.after {
                leaving.stopped().await;
            }
            (added.id, added.consumer.run().await)
        };
        let (mut running, mut deletions) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut ended: Vec<(u64, Result<StopReport, ConsumerError>)> = Vec::new();
        loop {
            let (added, former) = list.take_work();
            running.extend(added.into_iter().map(run));
            deletions.extend(former.into_iter().map(|former| {
                let list = list.clone();
                delete_when_unused(former, table.clone(), move |name, key| list.is_added_again(name, key))
            }));
            if running.is_empty() && list.end_if_over() {
                break;
            }
            tokio::select! {
                biased;
                Some((id, result)) = running.next() => {
                    let failure = result.as_ref().err();
                    log_failure(&list, id, failure);
                    let listed = list.record_end(id, failure);
                    ended.push((id, result));
                    ended.retain(|(id, _)| listed.contains(id));
                }
                () = list.changed() => {}
                Some(()) = deletions.next() => {}
            }
        }
        // A stream whose removal was over, or that gave its place to another one of its name, is in no report.
        let listed = list.all();
        ended.retain(|(id, _)| listed.iter().any(|stream| stream.id == *id));
        if !ended.is_empty()
            && ended.iter().all(|(_, result)| result.is_err())
            && let Some(first) = ended.drain(..).find_map(|(_, result)| result.err())
        {
            return Err(first);
        }
        let report = |stream: ListedStream| {
            let index = ended.iter().position(|(id, _)| *id == stream.id)?;
            Some(StreamReport { stream: stream.name.to_string(), result: ended.swap_remove(index).1 })
        };
        Ok(MultiStreamReport { streams: listed.into_iter().filter_map(report).collect() })
    }
}

fn log_failure(list: &StreamList, id: u64, failure: Option<&ConsumerError>) {
    let stream = list.streams().into_iter().find(|stream| stream.id == id);
    if let (Some(stream), Some(error)) = (stream, failure) {
        tracing::error!(
            stream = &*stream.name, %error,
            "the stream is not read any more, the other streams of this worker go on"
        );
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
    worker_id: WorkerId,
    list: Arc<StreamList>,
}

impl MultiStreamHandle {
    /// Requests a stop of all streams. None can be added from then on.
    pub fn stop(&self) {
        self.list.stop();
    }

    /// Waits until the consumer has ended. Returns the report of each stream that ended without an error, with its name.
    pub async fn stopped(&self) -> Vec<(String, StopReport)> {
        self.list.ended().await;
        let mut reports = Vec::new();
        for stream in self.list.all() {
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

    /// The name of this worker, the same for all streams.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    /// Whether the consumer has ended, or its future was dropped.
    pub fn has_ended(&self) -> bool {
        self.list.has_ended()
    }

    /// The present status of each stream, in the order in which they were given. A stream that was
    /// [removed](Self::remove_stream) is among them until it has ended.
    pub fn statuses(&self) -> Vec<StreamStatus> {
        let status = |stream: ListedStream| StreamStatus {
            stream: stream.name.to_string(),
            number: stream.id,
            key: stream.leases.identified().map(|leases| leases.key),
            failure: stream.failure,
            status: stream.handle.status(),
        };
        self.list.streams().into_iter().map(status).collect()
    }

    /// The handle of the first stream with this name, to stop it alone or for its metrics. The other workers read its shards
    /// then.
    pub fn of_stream(&self, name: &str) -> Option<ConsumerHandle> {
        self.list.handle_of(name)
    }

    /// Adds a stream while the consumer runs, or before. It starts like the streams of
    /// [`with_streams`](crate::ConsumerBuilder::with_streams): from its checkpoints, or from its initial position if the table
    /// has no leases of it. Nothing changes for the other streams, but that their leases are balanced with those of the new one.
    ///
    /// A stream that has failed, or was stopped alone, is started anew. A stream that is being removed starts when that has
    /// ended.
    ///
    /// ```
    /// # use std::num::NonZeroUsize;
    /// # use lease_store::InMemoryMultiStreamLeaseStore;
    /// # use receiver::{Consumer, FormerLeases, StreamConfig};
    /// # use shard_worker::{InMemoryStream, batch_handler};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), lease_store::BoxError> {
    /// # let [orders, bills] = ["orders", "bills"].map(|name| InMemoryStream::new(name, NonZeroUsize::MIN));
    /// # let consumer = Consumer::builder()
    /// #     .application("shop")
    /// #     .processors(batch_handler(async |_, _| Ok(())))
    /// #     .with_streams([StreamConfig::new(orders)])
    /// #     .lease_store(InMemoryMultiStreamLeaseStore::new())
    /// #     .build()?;
    /// let handle = consumer.handle();
    /// let running = tokio::spawn(consumer.run());
    /// handle.add_stream(StreamConfig::new(bills))?;
    /// handle.remove_stream("orders", FormerLeases::Keep).ok_or("no such stream")?.stopped().await;
    /// assert_eq!(handle.statuses().len(), 1);
    /// # handle.stop();
    /// # running.await??;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Stopped` when the consumer was stopped or has ended. `InvalidSettings` when the stream has faults, when another stream has
    /// its [name](StreamConfig::named), or when there are [`MAX_STREAMS`](crate::MAX_STREAMS). That the stream does not exist, or
    /// that it is one of the list under another name, is found by its start: its status has the failure then.
    #[allow(clippy::needless_pass_by_value)] // as `with_streams` takes it
    pub fn add_stream(&self, stream: StreamConfig) -> Result<ConsumerHandle, ConsumerError> {
        self.list.add(&stream)
    }

    /// Removes the first stream with this name. Its shards are handed over or finish their batches, checkpoint and are released,
    /// as at a stop. The other streams go on. Returns the handle of the stream, to wait until it has
    /// [stopped](ConsumerHandle::stopped); `None` if there is no such stream.
    ///
    /// `leases` says what happens to the rows of the stream in the lease table. Other workers read the stream on until it is
    /// removed from their lists too.
    pub fn remove_stream(&self, name: &str, leases: FormerLeases) -> Option<ConsumerHandle> {
        self.list.remove(name, leases)
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
    /// A number that no other stream of this worker has or had. A stream that is removed and added again gets a new one, and its
    /// counts begin again at 0.
    pub number: u64,
    /// The key of the stream in the lease table: in DynamoDB `account:stream:creationEpoch`, the KCL's `StreamId`. `None` until
    /// the stream is described.
    pub key: Option<String>,
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
    /// The report of each stream, in the order in which they were given. A stream that was being removed when the worker was
    /// stopped is among them.
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
