//! The contract of a lease store.

use std::fmt;

use async_trait::async_trait;

use crate::error::StoreError;
use crate::lease::Lease;
use crate::shard_id::ShardId;
use crate::write::LeaseWrite;

/// Stores the leases of one application.
///
/// Of its four calls only [`write`](LeaseStore::write) changes a lease, and every write is conditional. Every
/// implementation passes the suite in `conformance`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// use lease_store::{Consistency, InMemoryLeaseStore, LeaseStore};
///
/// /// How many leases have no owner.
/// async fn unowned(store: &dyn LeaseStore) -> Result<usize, lease_store::StoreError> {
///     let listing = store.list(Consistency::Eventual).await?;
///     Ok(listing.leases.iter().filter(|lease| lease.owner.is_none()).count())
/// }
/// assert_eq!(unowned(&InMemoryLeaseStore::new()).await?, 0);
/// # Ok(()) }
/// ```
#[async_trait]
pub trait LeaseStore: fmt::Debug + Send + Sync + 'static {
    /// The name of the store in messages: its table, if it has one.
    fn name(&self) -> &str {
        "of this process"
    }

    /// Makes the store ready: creates an absent table and checks the layout of an existing one. Many workers may call
    /// this at once, any number of times.
    ///
    /// # Errors
    /// `Invalid` when the table has another layout; the store's own failures otherwise.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// Checks whether the workers may still take leases on their own. A worker calls this at least every minute, and takes no
    /// lease while it fails with `Invalid`. The text is a warning to log. A store in which no other process assigns leases
    /// need not implement it.
    ///
    /// # Errors
    /// `Invalid` when the leader of a KCL 3.x fleet assigns the leases, or may do so; the store's own failures otherwise, which
    /// leave the answer open.
    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Returns all leases. Malformed rows are returned separately, in addition to the leases.
    ///
    /// # Errors
    /// The store's own failures; no partial listing is returned.
    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError>;

    /// Reads one lease, strongly consistent: the result includes every write that was answered before the call. `None`
    /// when the lease has no row.
    ///
    /// # Errors
    /// `Invalid` when the row is malformed; the store's own failures otherwise.
    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError>;

    /// Attempts one conditional write, once, without retries.
    ///
    /// # Errors
    /// An error means that nothing was written. If the write may have been applied, the result is
    /// [`WriteOutcome::Unknown`] instead.
    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError>;
}

/// How fresh a listing must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// May miss the newest writes; costs half as much in DynamoDB. Sufficient for planning, since every write is
    /// conditional.
    Eventual,
    /// Includes every write that was answered before the listing started.
    Strong,
}

/// The result of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseListing {
    /// The leases, in the order of their shard ids.
    pub leases: Vec<Lease>,
    /// Rows that cannot be read as leases. The caller decides about them and reports them; no write replaces them.
    pub malformed: Vec<MalformedLease>,
}

impl LeaseListing {
    /// A listing without malformed rows.
    pub fn new(leases: Vec<Lease>) -> Self {
        Self { leases, malformed: Vec::new() }
    }
}

/// A row that cannot be read as a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MalformedLease {
    /// The key of the row.
    pub key: String,
    /// The malformed attribute.
    pub attribute: String,
    /// The fault of the attribute.
    pub reason: String,
}

impl MalformedLease {
    /// The fault of this attribute of the row with this key.
    pub fn new(key: impl Into<String>, attribute: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), attribute: attribute.into(), reason: reason.into() }
    }
}

impl fmt::Display for MalformedLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "lease row {:?}, attribute {:?}: {}", self.key, self.attribute, self.reason)
    }
}

/// The outcome of a write.
#[derive(Debug)]
pub enum WriteOutcome {
    /// The write was applied.
    Applied {
        /// The row after the write; `None` after a delete.
        lease: Option<Lease>,
    },
    /// The condition did not hold because another writer was first. Nothing was written.
    Lost {
        /// The row that made the condition fail; `None` when there is no row.
        lease: Option<Lease>,
    },
    /// The write may have been applied, or may still be: read the row again before deciding anything.
    Unknown(StoreError),
}
