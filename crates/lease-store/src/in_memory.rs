//! A lease store in memory, for tests, demonstrations and use within a single process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::write::{LeaseWrite, Verdict};

/// Leases in memory. Clones share the table, as the workers of a fleet share theirs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use lease_store::{Consistency, InMemoryLeaseStore, Lease, LeaseStore, LeaseWrite, Position, ShardId};
///
/// // A clone shows the same rows: workers of one test share them.
/// let (store, same) = { let store = InMemoryLeaseStore::new(); (store.clone(), store) };
/// store.write(&LeaseWrite::Create(Lease::unowned(ShardId::numbered(0), Position::TrimHorizon))).await?;
/// assert_eq!(same.list(Consistency::Strong).await?.leases.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct InMemoryLeaseStore {
    table: Arc<Mutex<BTreeMap<ShardId, Lease>>>,
}

impl InMemoryLeaseStore {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<ShardId, Lease>> {
        // No code that can panic runs under the lock, so the table is consistent even if the lock is poisoned.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LeaseStore for InMemoryLeaseStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self, _consistency: Consistency) -> Result<LeaseListing, StoreError> {
        Ok(LeaseListing { leases: self.table().values().cloned().collect(), malformed: Vec::new() })
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        Ok(self.table().get(shard_id).cloned())
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        let mut table = self.table();
        let row = table.get(write.shard_id());
        match write.decide(row) {
            Verdict::Applies(lease) => {
                let lease = lease.map(|lease| *lease);
                match &lease {
                    Some(lease) => table.insert(lease.shard_id.clone(), lease.clone()),
                    None => table.remove(write.shard_id()),
                };
                Ok(WriteOutcome::Applied { lease })
            }
            Verdict::Refused => Ok(WriteOutcome::Lost { lease: row.cloned() }),
        }
    }
}
