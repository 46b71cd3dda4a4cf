//! The contract of a store with the leases of several streams, and its implementation in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::in_memory::InMemoryLeaseStore;
use crate::store::{Consistency, LeaseListing, LeaseStore, MalformedLease};
use crate::stream_identity::StreamIdentity;

/// Stores the leases of several streams of one application in one table, as a multi-stream application of the KCL does.
///
/// One listing returns the leases of all streams. The leases of one stream are read and written through a [`LeaseStore`] of
/// their own, which passes the suite in `conformance`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use lease_store::{
///     Consistency, InMemoryMultiStreamLeaseStore, Lease, LeaseWrite, MultiStreamLeaseStore, Position, ShardId,
///     StreamIdentity,
/// };
///
/// let table = InMemoryMultiStreamLeaseStore::new();
/// let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".to_owned();
/// let orders = table.of_stream(&StreamIdentity { arn, creation_epoch_seconds: 1_700_000_000 })?;
/// let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
/// orders.store.write(&LeaseWrite::Create(lease)).await?;
/// assert_eq!(table.list(Consistency::Strong).await?.of_stream(&orders.key).leases.len(), 1);
/// # Ok(()) }
/// ```
#[async_trait]
pub trait MultiStreamLeaseStore: fmt::Debug + Send + Sync + 'static {
    /// The name of the store in messages: its table, if it has one.
    fn name(&self) -> &str {
        "of this process"
    }

    /// Makes the store ready, as [`LeaseStore::prepare`].
    ///
    /// # Errors
    /// As [`LeaseStore::prepare`].
    async fn prepare(&self) -> Result<(), StoreError>;

    /// Checks whether the workers may still take leases on their own, as [`LeaseStore::check_fleet_mode`].
    ///
    /// # Errors
    /// As [`LeaseStore::check_fleet_mode`].
    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Returns the leases of all streams, by one scan.
    ///
    /// # Errors
    /// The store's own failures; no partial listing is returned.
    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError>;

    /// The leases of one stream. Makes no call.
    ///
    /// # Errors
    /// `Invalid` when the store cannot form a key from the identity.
    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError>;
}

/// The leases of one stream in a store of several.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamLeases {
    /// The key of the stream in a [`MultiStreamListing`].
    pub key: String,
    /// The store of its leases alone.
    pub store: Arc<dyn LeaseStore>,
}

impl StreamLeases {
    /// The leases of the stream with this key.
    pub fn new(key: impl Into<String>, store: Arc<dyn LeaseStore>) -> Self {
        Self { key: key.into(), store }
    }
}

/// The leases of several streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MultiStreamListing {
    /// The leases of each stream that has a row, by the key of the stream.
    pub streams: BTreeMap<String, LeaseListing>,
    /// Rows that name no stream and are no valid leases.
    pub malformed: Vec<MalformedLease>,
}

impl MultiStreamListing {
    /// The leases of one stream, with the malformed rows that may belong to it.
    pub fn of_stream(&self, key: &str) -> LeaseListing {
        let mut listing = self.streams.get(key).cloned().unwrap_or_default();
        listing.malformed.extend(self.malformed.iter().cloned());
        listing
    }
}

/// The leases of several streams in memory. Clones share the table.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use lease_store::{Consistency, InMemoryMultiStreamLeaseStore, MultiStreamLeaseStore};
///
/// let table = InMemoryMultiStreamLeaseStore::new();
/// assert!(table.list(Consistency::Strong).await?.streams.is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct InMemoryMultiStreamLeaseStore {
    streams: Arc<Mutex<BTreeMap<String, InMemoryLeaseStore>>>,
}

impl InMemoryMultiStreamLeaseStore {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<String, InMemoryLeaseStore>> {
        // No code that can panic runs under the lock, so the table is consistent even if the lock is poisoned.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl MultiStreamLeaseStore for InMemoryMultiStreamLeaseStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        let stores = self.streams().clone();
        let mut listing = MultiStreamListing::default();
        for (key, store) in stores {
            let of_stream = store.list(consistency).await?;
            if !of_stream.leases.is_empty() {
                listing.streams.insert(key, of_stream);
            }
        }
        Ok(listing)
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        let key = format!("{}:{}", stream.arn, stream.creation_epoch_seconds);
        let store = self.streams().entry(key.clone()).or_default().clone();
        Ok(StreamLeases::new(key, Arc::new(store)))
    }
}
