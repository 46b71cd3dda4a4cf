//! An in-memory stream that counts how often its shards are listed, for tests of who does that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kinesis_streaming::prelude::{InMemoryStream, ShardFilter, ShardId, StreamSource, async_trait};
use kinesis_streaming::shard_worker::{ReadFrom, RecordSource, Shard, SourceError, StreamDescription};

/// Counts the listings of one worker.
#[derive(Debug)]
pub struct CountedStream {
    stream: InMemoryStream,
    listings: Arc<AtomicU64>,
}

impl CountedStream {
    /// Around this stream, with the counter of its listings.
    pub fn new(stream: &InMemoryStream) -> (Self, Arc<AtomicU64>) {
        let listings = Arc::new(AtomicU64::new(0));
        (Self { stream: stream.clone(), listings: listings.clone() }, listings)
    }
}

#[async_trait]
impl StreamSource for CountedStream {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.stream.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.stream.list_shards(filter).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.stream.open(shard_id, from).await
    }
}
