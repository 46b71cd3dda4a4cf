//! Shard leases: which worker reads a shard, and how far it has read.
//!
//! A *lease* is one row of a shared table. The worker that holds it renews its counter, writes checkpoints into it and
//! releases it. Every write is conditional on the version that the writer last saw. If two workers both believe that
//! they own a shard, only one of them can write; the other gets [`StoreErrorKind::Fenced`] and stops.
//!
//! | topic | items |
//! | --- | --- |
//! | values | [`ShardId`], [`WorkerId`], [`SequenceNumber`], [`Position`], [`HashKeyRange`], [`StreamIdentity`], [`Lease`] |
//! | the store | [`LeaseStore`]: prepare, list, get, and one conditional [`write`](LeaseStore::write) |
//! | the effect of a write | [`LeaseWrite`] and [`LeaseChange`]: pure data with a pure `apply`, the same for every store |
//! | a lease that a worker holds | [`HeldLease`]: one write at a time; settles an unknown outcome before the next write |
//! | stores | [`InMemoryLeaseStore`]; `dynamodb::DynamoDbLeaseStore` behind the feature `dynamodb` |
//! | several streams in one table | [`MultiStreamLeaseStore`], [`InMemoryMultiStreamLeaseStore`]; `dynamodb::DynamoDbMultiStreamLeaseStore` |
//! | decorators | [`FaultyLeaseStore`], [`ThrottledLeaseStore`], [`CountingLeaseStore`] |
//! | the conformance suite | `conformance`, behind the feature of that name |
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
//! let seen = store.get(&shard_id).await?.expect("the lease was just created");
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
mod in_memory;
mod lag_report;
mod lag_reporter;
mod lease;
mod lease_state;
mod multi_stream;
mod operator;
mod owner_process;
mod position;
mod sequence_number;
mod service_cause;
#[doc(hidden)]
pub mod settings_format;
mod shard_id;
mod store;
mod stream_identity;
mod table_settings;
mod worker_id;
mod write;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;

pub use decorators::{
    CountingLeaseStore, FaultRates, FaultyLeaseStore, SharedLeaseStore, StoreCalls, ThrottledLeaseStore,
};
pub use error::{BoxError, Error, ErrorKind, StoreError, StoreErrorKind};
pub use hash_key_range::{HashKey, HashKeyRange};
pub use held_lease::{FencingToken, HeldLease, OperatorNotes};
pub use in_memory::InMemoryLeaseStore;
pub use lag_report::{LagReport, MAX_LAG_REPORT_BYTES};
pub use lease::{Lease, LeaseFacts, LeaseVersion, PendingCheckpoint};
pub use lease_state::EditedPosition;
pub use multi_stream::{
    InMemoryMultiStreamLeaseStore, MultiStreamLeaseStore, MultiStreamListing, StreamLeases,
};
pub use operator::{OwnerAction, OwnerRequest, Pause};
pub use owner_process::ProcessIdentity;
pub use position::{Position, RecordPosition};
pub use sequence_number::SequenceNumber;
pub use service_cause::{CredentialFault, ServiceCause};
pub use shard_id::ShardId;
pub use store::{Consistency, LeaseListing, LeaseStore, MalformedLease, WriteOutcome};
pub use stream_identity::StreamIdentity;
pub use table_settings::{BillingMode, TableSettings};
pub use worker_id::WorkerId;
pub use write::{LeaseChange, LeaseWrite, Verdict};
