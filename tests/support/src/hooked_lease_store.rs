//! A lease store with hooks before and after its calls, so that a test can observe, delay, fail or change them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{BoxFuture, FutureExt as _};
use lease_store::{
    Consistency, InMemoryLeaseStore, Lease, LeaseListing, LeaseStore, LeaseWrite, ShardId, StoreError,
    WriteOutcome,
};

/// A call to a lease store.
// A call lives only while its hook runs: a box would only complicate the patterns of the tests.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum StoreCall {
    /// [`LeaseStore::prepare`].
    Prepare,
    /// [`LeaseStore::check_fleet_mode`].
    CheckFleetMode,
    /// [`LeaseStore::list`].
    List(Consistency),
    /// [`LeaseStore::get`].
    Get(ShardId),
    /// [`LeaseStore::write`].
    Write(LeaseWrite),
}

type BeforeHook = dyn Fn(StoreCall) -> BoxFuture<'static, Result<(), StoreError>> + Send + Sync;
type ReplaceWriteHook = dyn Fn(&LeaseWrite) -> Option<WriteOutcome> + Send + Sync;
type AfterListHook = dyn Fn(Consistency, LeaseListing) -> LeaseListing + Send + Sync;
type AfterWriteHook = dyn Fn(LeaseWrite, WriteOutcome) -> BoxFuture<'static, WriteOutcome> + Send + Sync;

/// A lease store with hooks. Clones share the hooks, and the table as far as clones of `S` do. Except for
/// [`replace_write`](Self::replace_write), a second hook of a kind replaces the first.
#[derive(Clone)]
pub struct HookedLeaseStore<S = InMemoryLeaseStore> {
    /// The store without hooks.
    pub table: S,
    before: Arc<BeforeHook>,
    replace_write: Arc<ReplaceWriteHook>,
    after_list: Arc<AfterListHook>,
    after_write: Arc<AfterWriteHook>,
}

impl<S: fmt::Debug> fmt::Debug for HookedLeaseStore<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HookedLeaseStore").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<S: LeaseStore> HookedLeaseStore<S> {
    /// Wraps a store; all hooks do nothing at first.
    pub fn new(table: S) -> Self {
        Self {
            table,
            before: Arc::new(|_| async { Ok(()) }.boxed()),
            replace_write: Arc::new(|_| None),
            after_list: Arc::new(|_, listing| listing),
            after_write: Arc::new(|_, outcome| async { outcome }.boxed()),
        }
    }

    /// Runs this before each call. It may wait, hang, or return an error; then the store is not called.
    #[must_use]
    pub fn before<F>(mut self, hook: impl Fn(StoreCall) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        self.before = Arc::new(move |call| hook(call).boxed());
        self
    }

    /// Runs this before each write, to observe it.
    #[must_use]
    pub fn before_write(self, hook: impl Fn(&LeaseWrite) + Send + Sync + 'static) -> Self {
        self.replace_write(move |write| {
            hook(write);
            None
        })
    }

    /// Answers a write without carrying it out, unless the hook returns `None`. Of several hooks the first answer counts.
    #[must_use]
    pub fn replace_write(
        mut self,
        hook: impl Fn(&LeaseWrite) -> Option<WriteOutcome> + Send + Sync + 'static,
    ) -> Self {
        let earlier = self.replace_write;
        self.replace_write = Arc::new(move |write| earlier(write).or_else(|| hook(write)));
        self
    }

    /// Changes listings.
    #[must_use]
    pub fn after_list(
        mut self,
        hook: impl Fn(Consistency, LeaseListing) -> LeaseListing + Send + Sync + 'static,
    ) -> Self {
        self.after_list = Arc::new(hook);
        self
    }

    /// Changes or delays the outcome of a write that the store has carried out.
    #[must_use]
    pub fn after_write<F>(
        mut self,
        hook: impl Fn(LeaseWrite, WriteOutcome) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = WriteOutcome> + Send + 'static,
    {
        self.after_write = Arc::new(move |write, outcome| hook(write, outcome).boxed());
        self
    }
}

#[async_trait]
impl<S: LeaseStore> LeaseStore for HookedLeaseStore<S> {
    fn name(&self) -> &str {
        self.table.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        (self.before)(StoreCall::Prepare).await?;
        self.table.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        (self.before)(StoreCall::CheckFleetMode).await?;
        self.table.check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        (self.before)(StoreCall::List(consistency)).await?;
        Ok((self.after_list)(consistency, self.table.list(consistency).await?))
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        (self.before)(StoreCall::Get(shard_id.clone())).await?;
        self.table.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        (self.before)(StoreCall::Write(write.clone())).await?;
        if let Some(outcome) = (self.replace_write)(write) {
            return Ok(outcome);
        }
        let outcome = self.table.write(write).await?;
        Ok((self.after_write)(write.clone(), outcome).await)
    }
}
