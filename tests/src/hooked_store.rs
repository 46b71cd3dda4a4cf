//! An in-memory lease store with hooks, for tests that want to see or bend what goes through.

use std::fmt;
use std::sync::Arc;

use kinesis_streaming::lease_store::{
    Consistency, Lease, LeaseListing, LeaseWrite, StoreError, WriteOutcome,
};
use kinesis_streaming::prelude::{InMemoryLeaseStore, LeaseStore, ShardId, async_trait};

type ListHook = dyn Fn(Consistency, LeaseListing) -> LeaseListing + Send + Sync;
type WriteHook = dyn Fn(&LeaseWrite) + Send + Sync;
type AnswerHook = dyn Fn(&LeaseWrite, WriteOutcome) -> WriteOutcome + Send + Sync;

/// An in-memory lease store with hooks. Clones share the table and the hooks.
#[derive(Clone)]
pub struct HookedStore {
    /// What really stands there.
    pub table: InMemoryLeaseStore,
    on_list: Arc<ListHook>,
    on_write: Arc<WriteHook>,
    on_answer: Arc<AnswerHook>,
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HookedStore").field("table", &self.table).finish_non_exhaustive()
    }
}

impl HookedStore {
    /// Around this table, with hooks that do nothing.
    pub fn new(table: InMemoryLeaseStore) -> Self {
        Self {
            table,
            on_list: Arc::new(|_, listing| listing),
            on_write: Arc::new(|_| {}),
            on_answer: Arc::new(|_, answer| answer),
        }
    }

    /// What a listing shows instead of the table.
    #[must_use]
    pub fn on_list(
        mut self,
        hook: impl Fn(Consistency, LeaseListing) -> LeaseListing + Send + Sync + 'static,
    ) -> Self {
        self.on_list = Arc::new(hook);
        self
    }

    /// What a write answers instead of the table.
    #[must_use]
    pub fn on_answer(
        mut self,
        hook: impl Fn(&LeaseWrite, WriteOutcome) -> WriteOutcome + Send + Sync + 'static,
    ) -> Self {
        self.on_answer = Arc::new(hook);
        self
    }

    /// Called before each write.
    #[must_use]
    pub fn on_write(mut self, hook: impl Fn(&LeaseWrite) + Send + Sync + 'static) -> Self {
        self.on_write = Arc::new(hook);
        self
    }
}

#[async_trait]
impl LeaseStore for HookedStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        Ok((self.on_list)(consistency, self.table.list(consistency).await?))
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.table.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        (self.on_write)(write);
        Ok((self.on_answer)(write, self.table.write(write).await?))
    }
}
