//! The contract of a lease store.

use std::fmt;

use async_trait::async_trait;

use crate::{Lease, LeaseWrite, ShardId, StoreError};

/// Where the leases of one application are kept.
///
/// Four calls; the only one that changes a lease is [`write`](LeaseStore::write), and it is always conditional. Every
/// implementation passes the suite in `conformance`.
#[async_trait]
pub trait LeaseStore: fmt::Debug + Send + Sync + 'static {
    /// What messages call the store: the name of its table, where it has one.
    fn name(&self) -> &str {
        "of this process"
    }

    /// Makes the store ready: creates what is absent and checks the layout of what is there. Safe to call from many
    /// workers at once, any number of times.
    ///
    /// # Errors
    /// `Invalid` when something of another layout stands there; the store's own failures otherwise.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// All leases. Rows that cannot be read are returned beside the good ones, never instead of them.
    ///
    /// # Errors
    /// The store's failures; nothing is returned then.
    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError>;

    /// One lease as it stands now, after all writes that were answered before; `None` when it has no row.
    ///
    /// # Errors
    /// `Invalid` when the row is malformed; the store's failures otherwise.
    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError>;

    /// Carries out one conditional write, once.
    ///
    /// # Errors
    /// An error means that nothing was written. A failure that leaves it open is [`WriteOutcome::Unknown`].
    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError>;
}

/// How fresh a listing must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// May miss the newest writes; costs half as much in DynamoDB. Fit for planning, since every write is conditional.
    Eventual,
    /// Holds every write that was answered before.
    Strong,
}

/// What a listing found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseListing {
    /// The leases, in the order of their shard ids.
    pub leases: Vec<Lease>,
    /// Rows that are no readable lease. Whoever lists decides and reports; nothing is written over them.
    pub malformed: Vec<MalformedLease>,
}

/// A row that cannot be read as a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedLease {
    /// The key of the row.
    pub key: String,
    /// The attribute that is wrong.
    pub attribute: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for MalformedLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "lease row {:?}, attribute {:?}: {}", self.key, self.attribute, self.reason)
    }
}

/// What became of a write.
#[derive(Debug)]
pub enum WriteOutcome {
    /// It stands in the store.
    Applied {
        /// The row after the write; `None` after a delete.
        lease: Option<Lease>,
    },
    /// Its condition did not hold: somebody else wrote first. Nothing was written.
    Lost {
        /// The row that stood there instead; `None` when there is none.
        lease: Option<Lease>,
    },
    /// It may have been applied, or may still be: read again before deciding anything.
    Unknown(StoreError),
}
