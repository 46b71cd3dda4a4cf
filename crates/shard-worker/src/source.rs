//! Where records come from: the contracts of a stream and of one shard of it.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lease_store::{Position, SequenceNumber, ShardId, StreamIdentity};

use crate::{Record, Shard, SourceError};

/// A stream: it lists its shards and opens them for reading.
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync + 'static {
    /// The name of the stream.
    fn stream_name(&self) -> &str;

    /// Which stream this is, and what time it is there.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `Throttled` or `Unavailable`.
    async fn describe(&self) -> Result<StreamDescription, SourceError>;

    /// The shards that the stream still knows, over all pages. The filter spares work where the stream can apply it; one
    /// that cannot may return more, so callers look at what they get.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError>;

    /// Opens a shard for reading. May be lazy: a failure can also come with the first batch.
    ///
    /// # Errors
    /// As [`list_shards`](Self::list_shards), and `ShardNotFound`.
    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError>;
}

/// What a stream says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamDescription {
    /// Which stream it is.
    pub identity: StreamIdentity,
    /// The time by the clock that stamps its records: that of the call, or a little earlier, but never later. `None`: it
    /// did not say.
    pub now: Option<SystemTime>,
    /// How long it keeps records. `None`: it did not say; then nobody is warned before records are lost, and a loss is
    /// never more than possible.
    pub retention: Option<Duration>,
}

/// Which shards to list. A source may list more than those that are asked for, never fewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardFilter {
    /// All, open and closed.
    All,
    /// Those that take records.
    Open,
    /// Those that took records at this time or later: all but those that were closed before.
    OpenSince(SystemTime),
    /// Those created after this one: its descendants are among them.
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
    /// At the record with this number, or the first one after it. Reading from a stored position starts *at* it, since
    /// an aggregated record may be done only in part; the worker drops what it has seen.
    At(SequenceNumber),
}

/// One shard, read from a position on.
#[async_trait]
pub trait RecordSource: fmt::Debug + Send {
    /// Waits until the next read is due or has something to read, and tells how many bytes of memory it takes at most, as
    /// [`FetchedBatch::memory_bytes`] counts and with what the call itself needs. The caller sets them aside before it calls
    /// [`next_batch`](Self::next_batch): so no memory is set aside for a shard that only waits, and none is filled
    /// before it is set aside.
    ///
    /// Answers within seconds, as `next_batch` does. Safe to cancel, and may be left out by the caller.
    ///
    /// A source that does not know need not implement it: nothing is set aside, and what a read gave is counted once it is
    /// there. So each shard of such a source may exceed the budget by a batch.
    async fn ready(&mut self) -> u64 {
        0
    }

    /// The next records, in order. Waits while there are none, but answers within seconds, empty if need be, so that
    /// the lag stays current. It paces itself; the caller asks again at once.
    ///
    /// Safe to cancel: a cancelled call loses nothing, the next one reads the same records. After an error the next
    /// call goes on where the last answer ended. Once the end of the shard is reported, every further call reports it.
    ///
    /// # Errors
    /// Any [`SourceError`]; the caller decides whether and when to ask again.
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError>;

    /// Everything up to this position is stored as done and will not be asked for again, by whoever reads the shard. For
    /// sources that keep something; told before a read, not at once.
    fn checkpointed(&mut self, position: &Position) {
        let _ = position;
    }
}

/// What one read of a shard gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedBatch {
    /// The records, in order; may be none.
    pub records: Vec<Record>,
    /// How far the last record lies behind the tip of the shard, in milliseconds, where the source says so.
    pub millis_behind_latest: Option<u64>,
    /// Set when nothing comes after these records, ever.
    pub shard_end: Option<ShardEnd>,
}

impl FetchedBatch {
    /// What the records take in memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.records.iter().map(Record::memory_bytes).sum()
    }
}

/// The end of a closed shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEnd {
    /// The shards that follow; empty when the source does not say.
    pub children: Vec<Shard>,
}
