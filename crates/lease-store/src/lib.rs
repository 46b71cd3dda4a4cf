//! Shard leases: who reads a shard, and how far it is read.
//!
//! A *lease* is one row of a shared table. A worker that holds it renews its counter, writes checkpoints into it and
//! gives it up; every write is conditional on what the writer last saw, so of two workers that both believe they own a
//! shard only one can write. The other learns it as [`StoreErrorKind::Fenced`] and stops.
//!
//! | what | where |
//! | --- | --- |
//! | values | [`ShardId`], [`WorkerId`], [`SequenceNumber`], [`Position`], [`HashKeyRange`], [`StreamIdentity`], [`Lease`] |
//! | the store | [`LeaseStore`]: prepare, list, get, and one conditional [`write`](LeaseStore::write) |
//! | what a write does | [`LeaseWrite`] and [`LeaseChange`]: pure data with a pure `apply`, the same for every store |
//! | a lease in the hand | [`HeldLease`]: its writes one after another, unknown outcomes settled before the next |
//! | stores | [`InMemoryLeaseStore`]; `dynamodb::DynamoDbLeaseStore` behind the feature `dynamodb` |
//! | decorators | [`FaultyLeaseStore`], [`ThrottledLeaseStore`], [`CountingLeaseStore`] |
//! | the suite | `conformance`, behind the feature of that name |
//!
//! ```
//! # async fn example() -> Result<(), lease_store::StoreError> {
//! use std::sync::Arc;
//! use lease_store::{HeldLease, InMemoryLeaseStore, Lease, LeaseStore, LeaseWrite, Position, ShardId, WorkerId};
//!
//! let store: Arc<dyn LeaseStore> = Arc::new(InMemoryLeaseStore::new());
//! let shard_id = ShardId::new("shardId-000000000000")?;
//! store.write(&LeaseWrite::Create(Lease::unowned(shard_id.clone(), Position::TrimHorizon))).await?;
//!
//! let seen = store.get(&shard_id).await?.expect("it was just created");
//! let held = HeldLease::take(store.clone(), &seen, &WorkerId::new("worker-a")?).await?;
//! held.checkpoint(&Position::after("4959".parse()?, 0), &[]).await?;
//! held.release().await?;
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
//! ```

mod decorators;
mod error;
mod hash_key_range;
mod held_lease;
mod holder;
mod in_memory;
mod lease;
mod position;
mod sequence_number;
mod shard_id;
mod store;
mod stream_identity;
mod worker_id;
mod write;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;

pub use decorators::{CountingLeaseStore, FaultRates, FaultyLeaseStore, StoreCalls, ThrottledLeaseStore};
pub use error::{BoxError, Error, ErrorKind, StoreError, StoreErrorKind};
pub use hash_key_range::{HashKey, HashKeyRange};
pub use held_lease::{FencingToken, HeldLease};
pub use holder::{Finding, LeaseHolder, NextWrite, UnsettledWrite};
pub use in_memory::InMemoryLeaseStore;
pub use lease::{Lease, LeaseFacts, LeaseVersion, PendingCheckpoint};
pub use position::{Position, RecordPosition};
pub use sequence_number::SequenceNumber;
pub use shard_id::ShardId;
pub use store::{Consistency, LeaseListing, LeaseStore, MalformedLease, WriteOutcome};
pub use stream_identity::StreamIdentity;
pub use worker_id::WorkerId;
pub use write::{LeaseChange, LeaseWrite, Verdict};
