//! The contracts of record sources: a stream, and one open shard of it.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lease_store::{Position, SequenceNumber, ShardId, StreamIdentity};

use crate::error::SourceError;
use crate::record::Record;
use crate::shard::Shard;

/// A stream: it lists its shards and opens them for reading.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use std::num::NonZeroUsize;
/// use shard_worker::{InMemoryStream, ReadFrom, StreamSource};
///
/// let stream = InMemoryStream::new("orders", NonZeroUsize::MIN);
/// let (shard_id, _) = stream.put("customer-1", "first order")?;
/// let mut source = stream.open(&shard_id, &ReadFrom::TrimHorizon).await?;
/// assert_eq!(source.next_batch().await?.records[0].data, "first order");
/// # Ok(()) }
/// ```
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync + 'static {
    /// The name of the stream.
    fn stream_name(&self) -> &str;

    /// The identity, the clock and the retention period of the stream.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `Throttled` or `Unavailable`.
    async fn describe(&self) -> Result<StreamDescription, SourceError>;

    /// All shards that the stream still lists, over all pages. The filter saves work if the stream can apply it. A stream
    /// that cannot may return more shards, so callers check the answer.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError>;

    /// Opens a shard for reading. It may be lazy: then the first read returns the failure.
    ///
    /// # Errors
    /// As [`list_shards`](Self::list_shards), and `ShardNotFound`.
    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError>;

    /// When a shard began to take records, by the clock that stamps them, to the second. `record` is the sequence number of a
    /// record of the shard. `None`: not known; then no record of an aggregate counts as put again after a reshard.
    ///
    /// Answers at once, without a call to the service.
    fn shard_started_at(&self, shard_id: &ShardId, record: &SequenceNumber) -> Option<SystemTime> {
        let _ = (shard_id, record);
        None
    }
}

/// The description of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamDescription {
    /// The ARN and the creation time.
    pub identity: StreamIdentity,
    /// The time of the call by the clock that stamps the records, or a little earlier, but never later. `None`: not
    /// reported.
    pub now: Option<SystemTime>,
    /// How long the stream keeps records. `None`: not reported; then there is no warning before records are lost, and a
    /// loss is never more than possible.
    pub retention: Option<Duration>,
    /// How the stream distributes records over its shards. `None`: not reported, as by streams that only know one way.
    pub distribution: Option<RecordDistribution>,
}

impl StreamDescription {
    /// The description of a stream that reports nothing but its identity; set the other fields afterwards.
    pub fn new(identity: StreamIdentity) -> Self {
        Self { identity, now: None, retention: None, distribution: None }
    }
}

/// How a stream distributes records over its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordDistribution {
    /// By the hash key of the partition key (Kinesis: `USER_PARTITION_KEY`).
    ByPartitionKey,
    /// By the service itself, whatever the key (Kinesis: `AUTO`).
    Automatic,
}

/// Which shards to list. A source may list more shards than these, never fewer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use std::num::NonZeroUsize;
/// use shard_worker::{InMemoryStream, ShardFilter, StreamSource};
///
/// let stream = InMemoryStream::new("orders", NonZeroUsize::MIN);
/// stream.split(&stream.open_shards()[0])?;
/// assert_eq!(stream.list_shards(&ShardFilter::All).await?.len(), 3);
/// assert_eq!(stream.list_shards(&ShardFilter::Open).await?.len(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardFilter {
    /// All, open and closed.
    All,
    /// Those that take records.
    Open,
    /// Those that were open at this time or later: all but those that were closed before.
    OpenSince(SystemTime),
    /// Those created after this one, among them its descendants.
    After(ShardId),
}

/// Where to start reading a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the oldest record that the stream still keeps.
    TrimHorizon,
    /// After the newest record.
    Latest,
    /// At the first record that arrived at this time or later.
    AtTimestamp(SystemTime),
    /// At the record with this number, or the first one after it. Reading from a checkpoint starts *at* its record, since
    /// an aggregate may be done only in part; the worker drops the records that are done.
    At(SequenceNumber),
}

/// One open shard.
#[async_trait]
pub trait RecordSource: fmt::Debug + Send {
    /// Waits until the next read is due or has records. Returns how many bytes of memory the read needs at most: the
    /// records as [`FetchedBatch::memory_bytes`] counts them, plus the memory of the call itself. The caller reserves them
    /// before it calls [`next_batch`](Self::next_batch). So a shard that only waits has no reservation, and memory is
    /// reserved before it is filled.
    ///
    /// Answers within seconds, as `next_batch` does. Safe to cancel. The caller may skip this call.
    ///
    /// A source that does not know the size need not implement it. Then no memory is reserved, and the records are counted
    /// after the read: each shard of such a source may exceed the budget by one batch.
    async fn ready(&mut self) -> u64 {
        0
    }

    /// The next records, in order. Waits while there are none, but answers within seconds, with no records if necessary,
    /// so that the lag stays current. The source paces itself; the caller calls again at once.
    ///
    /// Safe to cancel: the next call reads the records of a cancelled one. After an error the next call resumes where the
    /// last answer ended. Once the end of the shard is reported, each further call reports it again.
    ///
    /// # Errors
    /// Any [`SourceError`]; the caller decides whether and when to call again.
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError>;

    /// Reports that the checkpoint has reached this position: no worker will read the records before it again. A source
    /// that stores records may delete them. The call comes before a read, some time after the checkpoint.
    fn checkpointed(&mut self, position: &Position) {
        let _ = position;
    }
}

/// The answer of one read of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchedBatch {
    /// The records, in order; may be empty.
    pub records: Vec<Record>,
    /// How far the last record lies behind the tip of the shard, in milliseconds. `None`: not reported.
    pub millis_behind_latest: Option<u64>,
    /// Set when the shard ends after these records.
    pub shard_end: Option<ShardEnd>,
}

impl FetchedBatch {
    /// An answer that does not end the shard.
    pub fn new(records: Vec<Record>, millis_behind_latest: Option<u64>) -> Self {
        Self { records, millis_behind_latest, shard_end: None }
    }

    /// The same answer, after which the shard ends.
    #[must_use]
    pub fn with_end(self, shard_end: Option<ShardEnd>) -> Self {
        Self { shard_end, ..self }
    }
}

impl FetchedBatch {
    /// The memory of the records, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.records.iter().map(Record::memory_bytes).sum()
    }
}

/// The end of a closed shard.
///
/// Only the source knows its position to the record, so the source makes sure of the end. If the service names the children,
/// the shard has ended. If it names none, the source reports the end only if the stream lists the shard as closed and a later
/// read from the last position found nothing. An answer that says nothing is not an end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardEnd {
    /// The children of the shard; empty when the source does not report them.
    pub children: Vec<Shard>,
}

impl ShardEnd {
    /// The end of a shard with these children.
    pub fn new(children: Vec<Shard>) -> Self {
        Self { children }
    }
}
