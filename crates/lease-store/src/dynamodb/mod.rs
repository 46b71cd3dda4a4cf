//! Leases in a DynamoDB table, in the layout of the Kinesis Client Library (KCL).
//!
//! The table is the KCL's own: key `leaseKey`, one row per shard, the attributes and conditions of KCL 2.x. So a fleet can
//! move from Java to Rust one process at a time, and back. A change names only the attributes that it changes. All others
//! (the `throughputKBps` of KCL 3.x, notes of a team) are kept.
//!
//! | lease | attribute |
//! | --- | --- |
//! | shard id | `leaseKey` (S) |
//! | owner | `leaseOwner` (S), absent in an unowned lease |
//! | counter | `leaseCounter` (N) |
//! | checkpoint | `checkpoint` (S), `checkpointSubSequenceNumber` (N) |
//! | owner switches | `ownerSwitchesSinceCheckpoint` (N) |
//! | pending checkpoint | `pendingCheckpoint` (S), `pendingCheckpointSubSequenceNumber` (N), `pendingCheckpointState` (B) |
//! | parents, children | `parentShardId` (SS), `childShardIds` (SS) |
//! | hash-key range | `startingHashKey` (S), `endingHashKey` (S) |
//! | checkpoint owner | `checkpointOwner` (S) |
//! | throughput | `throughputKBps` (N), read only |
//!
//! This library adds attributes of its own, which the KCL ignores and keeps:
//!
//! | lease | attribute |
//! | --- | --- |
//! | requesting worker, offering owner | `handOverRequestedBy` (S), `handOverOfferedBy` (S) |
//! | process of the owner | `leaseOwnerProcess` (S) |
//! | stream | `streamArn` (S), `streamCreationEpoch` (N) |
//! | instant of a sentinel | `initialTimeMillis` (N) |
//!
//! The table of a KCL application that reads many streams has other keys; see [`DynamoDbMultiStreamLeaseStore`] for all of its
//! streams, and [`with_multi_stream_key`](DynamoDbLeaseStore::with_multi_stream_key) for one.
//!
//! A listing returns malformed rows in addition to the leases. It skips rows whose `entityType` is not `LEASE`: KCL 3.5
//! keeps its leader lock and its metrics in the same table.
//!
//! ```no_run
//! # async fn example() -> Result<(), lease_store::StoreError> {
//! use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
//! use aws_sdk_dynamodb::{Client, Config};
//! use lease_store::LeaseStore;
//! use lease_store::dynamodb::DynamoDbLeaseStore;
//!
//! let config = Config::builder().behavior_version(BehaviorVersion::latest()).region(Region::new("eu-west-1")).build();
//! let store = DynamoDbLeaseStore::new(Client::from_conf(config), "my-application")?;
//! store.prepare().await?;
//! # Ok(()) }
//! ```

mod attributes;
mod error;
#[cfg(feature = "internals")]
pub(crate) mod internals;
mod kcl_mode;
mod kcl_pin;
mod kcl_tables;
mod layout;
mod multi_stream;
mod request;
mod row_reader;
#[cfg(test)]
mod row_tests;
mod row_writer;
mod store;
mod table;
mod table_page;
mod table_report;

pub use self::kcl_pin::KclFleetMode;
pub use self::layout::MultiStreamKey;
pub use self::multi_stream::DynamoDbMultiStreamLeaseStore;
pub use self::store::DynamoDbLeaseStore;
pub use self::table::DEFAULT_ACTIVE_WAIT_LIMIT;
pub use self::table_page::{ForeignRow, PageStart, TablePage, WorkerReport};
pub use self::table_report::TableReport;
pub use crate::table_settings::{BillingMode, TableSettings};
