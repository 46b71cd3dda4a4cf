//! Counts the calls to a store, so that a test can check the cost of a fleet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::write::{LeaseChange, LeaseWrite};

/// The number of calls of each operation, whatever the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCalls {
    /// Listings of the whole table, eventually and strongly consistent.
    pub lists: u64,
    /// Strongly consistent listings among them, which cost twice as much in DynamoDB.
    pub strong_lists: u64,
    /// Rows returned by all listings.
    pub listed_rows: u64,
    /// Rows returned by strongly consistent listings.
    pub strong_listed_rows: u64,
    /// Reads of one row.
    pub gets: u64,
    /// Attempts to create a row.
    pub creates: u64,
    /// Attempts to renew a lease.
    pub renewals: u64,
    /// Attempts to write a checkpoint.
    pub checkpoints: u64,
    /// Attempts to prepare a checkpoint.
    pub prepares: u64,
    /// Attempts to take a lease.
    pub takes: u64,
    /// Attempts to hand a lease over.
    pub hand_overs: u64,
    /// Attempts to request a lease or to withdraw a request.
    pub requests: u64,
    /// Attempts to write or remove the note of an operator.
    pub notes: u64,
    /// Attempts to reset a position.
    pub resets: u64,
    /// Attempts to offer a lease.
    pub offers: u64,
    /// Attempts to release a lease.
    pub releases: u64,
    /// Attempts to delete a row.
    pub deletes: u64,
}

impl StoreCalls {
    /// All conditional writes together, which DynamoDB bills as write requests.
    pub fn writes(&self) -> u64 {
        self.creates
            + self.renewals
            + self.checkpoints
            + self.prepares
            + self.takes
            + self.hand_overs
            + self.requests
            + self.notes
            + self.resets
            + self.offers
            + self.releases
            + self.deletes
    }
}

#[derive(Debug, Default)]
struct Counters {
    lists: AtomicU64,
    strong_lists: AtomicU64,
    listed_rows: AtomicU64,
    strong_listed_rows: AtomicU64,
    gets: AtomicU64,
    creates: AtomicU64,
    renewals: AtomicU64,
    checkpoints: AtomicU64,
    prepares: AtomicU64,
    takes: AtomicU64,
    hand_overs: AtomicU64,
    requests: AtomicU64,
    notes: AtomicU64,
    resets: AtomicU64,
    offers: AtomicU64,
    releases: AtomicU64,
    deletes: AtomicU64,
}

/// Counts calls and forwards them. Clones share the counters.
#[derive(Debug, Clone)]
pub struct CountingLeaseStore<S> {
    store: S,
    counters: Arc<Counters>,
}

impl<S: LeaseStore> CountingLeaseStore<S> {
    /// Counts the calls to this store.
    pub fn new(store: S) -> Self {
        Self { store, counters: Arc::default() }
    }

    /// The calls so far.
    pub fn calls(&self) -> StoreCalls {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCalls {
            lists: read(&self.counters.lists),
            strong_lists: read(&self.counters.strong_lists),
            listed_rows: read(&self.counters.listed_rows),
            strong_listed_rows: read(&self.counters.strong_listed_rows),
            gets: read(&self.counters.gets),
            creates: read(&self.counters.creates),
            renewals: read(&self.counters.renewals),
            checkpoints: read(&self.counters.checkpoints),
            prepares: read(&self.counters.prepares),
            takes: read(&self.counters.takes),
            hand_overs: read(&self.counters.hand_overs),
            requests: read(&self.counters.requests),
            notes: read(&self.counters.notes),
            resets: read(&self.counters.resets),
            offers: read(&self.counters.offers),
            releases: read(&self.counters.releases),
            deletes: read(&self.counters.deletes),
        }
    }
}

#[async_trait]
impl<S: LeaseStore> LeaseStore for CountingLeaseStore<S> {
    fn name(&self) -> &str {
        self.store.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.store.prepare().await
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        self.store.check_fleet_mode().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let listing = self.store.list(consistency).await;
        let rows =
            listing.as_ref().map_or(0, |listing| listing.leases.len() + listing.malformed.len()) as u64;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        self.counters.listed_rows.fetch_add(rows, Ordering::Relaxed);
        if consistency == Consistency::Strong {
            self.counters.strong_lists.fetch_add(1, Ordering::Relaxed);
            self.counters.strong_listed_rows.fetch_add(rows, Ordering::Relaxed);
        }
        listing
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.counters.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        let counter = match write {
            LeaseWrite::Create(_) => &self.counters.creates,
            LeaseWrite::Delete { .. } => &self.counters.deletes,
            LeaseWrite::Update { change, .. } => match change.without_report() {
                LeaseChange::Renew | LeaseChange::Reported { .. } => &self.counters.renewals,
                LeaseChange::Checkpoint { .. } => &self.counters.checkpoints,
                LeaseChange::PrepareCheckpoint(_) => &self.counters.prepares,
                LeaseChange::Take { .. } => &self.counters.takes,
                LeaseChange::HandOver { .. } => &self.counters.hand_overs,
                LeaseChange::Request { .. } | LeaseChange::Withdraw { .. } => &self.counters.requests,
                LeaseChange::AskOwner { .. } | LeaseChange::Pause { .. } => &self.counters.notes,
                LeaseChange::Reset { .. } => &self.counters.resets,
                LeaseChange::Offer => &self.counters.offers,
                LeaseChange::Release => &self.counters.releases,
            },
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.store.write(write).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_memory::InMemoryLeaseStore;
    use crate::position::Position;

    #[tokio::test]
    async fn counts_each_kind_of_call() {
        let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
        let lease = Lease::unowned(ShardId::new("shard-0").unwrap(), Position::TrimHorizon);
        store.write(&LeaseWrite::Create(lease.clone())).await.unwrap();
        store.list(Consistency::Eventual).await.unwrap();
        store.get(&lease.shard_id).await.unwrap();
        store.list(Consistency::Strong).await.unwrap();
        for change in [LeaseChange::Renew, LeaseChange::Offer, LeaseChange::Release] {
            let expected = lease.version();
            let shard_id = lease.shard_id.clone();
            store.write(&LeaseWrite::Update { shard_id, expected, change }).await.unwrap();
        }
        let calls = store.calls();
        assert_eq!((calls.creates, calls.renewals, calls.offers, calls.releases), (1, 1, 1, 1));
        assert_eq!((calls.lists, calls.gets, calls.writes()), (2, 1, 4));
        assert_eq!((calls.strong_lists, calls.listed_rows, calls.strong_listed_rows), (1, 2, 1));
    }
}
