//! Where records come from: the contracts of a stream and of one shard of it.

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use lease_store::{SequenceNumber, ShardId};

use crate::{Record, Shard, SourceError};

/// A stream: it lists its shards and opens them for reading.
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync + 'static {
    /// The name of the stream.
    fn stream_name(&self) -> &str;

    /// All shards that the stream still knows, open and closed, over all pages.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `Throttled` or `Unavailable`.
    async fn list_shards(&self) -> Result<Vec<Shard>, SourceError>;

    /// Opens a shard for reading. May be lazy: a failure can also come with the first batch.
    ///
    /// # Errors
    /// As [`list_shards`](Self::list_shards), and `ShardNotFound`.
    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError>;
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
    /// The next records, in order. Waits while there are none, but answers within seconds, empty if need be, so that
    /// the lag stays current. It paces itself; the caller asks again at once.
    ///
    /// Safe to cancel: a cancelled call loses nothing, the next one reads the same records. After an error the next
    /// call goes on where the last answer ended. Once the end of the shard is reported, every further call reports it.
    ///
    /// # Errors
    /// Any [`SourceError`]; the caller decides whether and when to ask again.
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError>;
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

/// The end of a closed shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEnd {
    /// The shards that follow; empty when the source does not say.
    pub children: Vec<Shard>,
}
