//! A stream with hooks before and after its calls, so that a test can observe, delay, fail or change them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt as _};
use lease_store::{Position, SequenceNumber, ShardId};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};

/// A call to a stream, or to the reader of one of its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamCall {
    /// [`StreamSource::describe`].
    Describe,
    /// [`StreamSource::list_shards`].
    ListShards(ShardFilter),
    /// [`StreamSource::open`].
    Open(ShardId, ReadFrom),
    /// [`RecordSource::next_batch`] of this shard.
    NextBatch(ShardId),
}

type BeforeHook = dyn Fn(StreamCall) -> BoxFuture<'static, Result<(), SourceError>> + Send + Sync;
type FilterHook = dyn Fn(ShardFilter) -> ShardFilter + Send + Sync;
type DescribeHook =
    dyn Fn(StreamDescription) -> BoxFuture<'static, Result<StreamDescription, SourceError>> + Send + Sync;
type ReadyHook = dyn Fn(u64) -> u64 + Send + Sync;
type ReplaceReadHook = dyn Fn(&ShardId) -> Option<FetchedBatch> + Send + Sync;
type ReadHook = dyn Fn(&ShardId, FetchedBatch) -> FetchedBatch + Send + Sync;

#[derive(Clone)]
struct Hooks {
    before: Arc<BeforeHook>,
    change_filter: Arc<FilterHook>,
    after_describe: Arc<DescribeHook>,
    after_ready: Arc<ReadyHook>,
    replace_read: Arc<ReplaceReadHook>,
    after_read: Arc<ReadHook>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            before: Arc::new(|_| async { Ok(()) }.boxed()),
            change_filter: Arc::new(|filter| filter),
            after_describe: Arc::new(|description| async { Ok(description) }.boxed()),
            after_ready: Arc::new(|bytes| bytes),
            replace_read: Arc::new(|_| None),
            after_read: Arc::new(|_, batch| batch),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hooks")
    }
}

/// A stream with hooks. Clones share the stream and the hooks. A second hook of a kind replaces the first.
#[derive(Debug, Clone)]
pub struct HookedStream {
    stream: Arc<dyn StreamSource>,
    hooks: Hooks,
}

impl HookedStream {
    /// Wraps a stream; all hooks do nothing at first.
    pub fn new(stream: impl StreamSource) -> Self {
        Self { stream: Arc::new(stream), hooks: Hooks::default() }
    }

    /// Runs this before each call. It may wait, hang, or return an error; then the stream is not called.
    #[must_use]
    pub fn before<F>(mut self, hook: impl Fn(StreamCall) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        self.hooks.before = Arc::new(move |call| hook(call).boxed());
        self
    }

    /// Replaces the filter of a listing before the stream gets it.
    #[must_use]
    pub fn change_filter(
        mut self,
        hook: impl Fn(ShardFilter) -> ShardFilter + Send + Sync + 'static,
    ) -> Self {
        self.hooks.change_filter = Arc::new(hook);
        self
    }

    /// Changes or delays descriptions of the stream.
    #[must_use]
    pub fn after_describe<F>(mut self, hook: impl Fn(StreamDescription) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<StreamDescription, SourceError>> + Send + 'static,
    {
        self.hooks.after_describe = Arc::new(move |description| hook(description).boxed());
        self
    }

    /// Changes the number of bytes that [`RecordSource::ready`] returns.
    #[must_use]
    pub fn after_ready(mut self, hook: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Self {
        self.hooks.after_ready = Arc::new(hook);
        self
    }

    /// Answers a read without reading, unless the hook returns `None`.
    #[must_use]
    pub fn replace_read(
        mut self,
        hook: impl Fn(&ShardId) -> Option<FetchedBatch> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.replace_read = Arc::new(hook);
        self
    }

    /// Observes or changes what a read returned.
    #[must_use]
    pub fn after_read(
        mut self,
        hook: impl Fn(&ShardId, FetchedBatch) -> FetchedBatch + Send + Sync + 'static,
    ) -> Self {
        self.hooks.after_read = Arc::new(hook);
        self
    }
}

#[async_trait]
impl StreamSource for HookedStream {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        (self.hooks.before)(StreamCall::Describe).await?;
        (self.hooks.after_describe)(self.stream.describe().await?).await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        (self.hooks.before)(StreamCall::ListShards(filter.clone())).await?;
        self.stream.list_shards(&(self.hooks.change_filter)(filter.clone())).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        (self.hooks.before)(StreamCall::Open(shard_id.clone(), from.clone())).await?;
        let reader = self.stream.open(shard_id, from).await?;
        Ok(Box::new(HookedReader { reader, shard_id: shard_id.clone(), hooks: self.hooks.clone() }))
    }

    fn shard_started_at(&self, shard_id: &ShardId, record: &SequenceNumber) -> Option<SystemTime> {
        self.stream.shard_started_at(shard_id, record)
    }
}

#[derive(Debug)]
struct HookedReader {
    reader: Box<dyn RecordSource>,
    shard_id: ShardId,
    hooks: Hooks,
}

#[async_trait]
impl RecordSource for HookedReader {
    async fn ready(&mut self) -> u64 {
        (self.hooks.after_ready)(self.reader.ready().await)
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        (self.hooks.before)(StreamCall::NextBatch(self.shard_id.clone())).await?;
        if let Some(batch) = (self.hooks.replace_read)(&self.shard_id) {
            return Ok(batch);
        }
        Ok((self.hooks.after_read)(&self.shard_id, self.reader.next_batch().await?))
    }

    fn checkpointed(&mut self, position: &Position) {
        self.reader.checkpointed(position);
    }
}
