//! Leases in a DynamoDB table, in the layout of the Kinesis Client Library (KCL).
//!
//! The table is the KCL's own: key `leaseKey`, one row per shard, the attributes and conditions of KCL 2.x. A fleet
//! may move from Java to Rust one process at a time, and back. A change names only the attributes that it changes, so
//! whatever else stands in a row (the `throughputKBps` of KCL 3.x, a team's own notes) survives.
//!
//! | lease | attribute |
//! | --- | --- |
//! | shard id | `leaseKey` (S) |
//! | owner | `leaseOwner` (S), absent when nobody holds the lease |
//! | counter | `leaseCounter` (N) |
//! | checkpoint | `checkpoint` (S), `checkpointSubSequenceNumber` (N) |
//! | owner switches | `ownerSwitchesSinceCheckpoint` (N) |
//! | pending checkpoint | `pendingCheckpoint` (S), `pendingCheckpointSubSequenceNumber` (N), `pendingCheckpointState` (B) |
//! | parents, children | `parentShardId` (SS), `childShardIds` (SS) |
//! | hash-key range | `startingHashKey` (S), `endingHashKey` (S) |
//! | checkpoint owner | `checkpointOwner` (S) |
//! | throughput | `throughputKBps` (N), read only |
//!
//! What we add stands in attributes of its own, which the KCL ignores and keeps:
//!
//! | lease | attribute |
//! | --- | --- |
//! | who asks for it, who offers it | `handOverRequestedBy` (S), `handOverOfferedBy` (S) |
//! | the stream | `streamArn` (S), `streamCreationEpoch` (N) |
//! | what a sentinel stands for | `initialTimeMillis` (N) |
//!
//! A table of a KCL application that reads many streams has other keys; see
//! [`with_multi_stream_key`](DynamoDbLeaseStore::with_multi_stream_key).
//!
//! Rows that are meant as leases and cannot be read as such are reported beside the good ones. Rows whose `entityType` is not `LEASE` (KCL 3.5 keeps its leader lock and metrics in
//! the same table) are left out.
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

mod error;
#[cfg(feature = "fuzz-internals")]
#[doc(hidden)]
pub mod fuzz_internals;
mod kcl_mode;
mod layout;
mod request;
mod row;
mod table;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use aws_sdk_dynamodb::{Client, config};
use tokio::time::Duration;

pub use self::layout::MultiStreamKey;

use self::error::{Call, CallWatch};
use self::layout::RowLayout;
use self::request::Expression;
use self::row::{Item, Row};
use crate::{
    Consistency, Lease, LeaseChange, LeaseListing, LeaseStore, LeaseVersion, LeaseWrite, ShardId, StoreError,
    StoreErrorKind, WriteOutcome,
};

/// How long [`prepare`](LeaseStore::prepare) waits for a table to become active, unless told otherwise.
pub const DEFAULT_ACTIVE_WAIT_LIMIT: Duration = Duration::from_secs(600);

/// How a table that the store creates is paid for. An existing table keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BillingMode {
    /// By request, without a fixed limit.
    #[default]
    OnDemand,
    /// By reserved capacity. Each renewal and each checkpoint of a lease costs one write unit.
    Provisioned {
        /// Read units per second.
        read_capacity_units: NonZeroU32,
        /// Write units per second.
        write_capacity_units: NonZeroU32,
    },
}

/// Leases in a DynamoDB table. Clones share the client and the table.
#[derive(Debug, Clone)]
pub struct DynamoDbLeaseStore {
    client: Client,
    table_name: Arc<str>,
    layout: RowLayout,
    billing_mode: BillingMode,
    deletion_protection: bool,
    active_wait_limit: Duration,
}

impl DynamoDbLeaseStore {
    /// A store in this table; [`prepare`](LeaseStore::prepare) creates the table when it is absent.
    ///
    /// Reads are retried as the client is configured; writes are sent once. Give the client an operation timeout well
    /// below the fail-over time of the leases, otherwise a server that does not answer holds a call for ever.
    ///
    /// # Errors
    /// `Invalid` when the name is not 3 to 255 letters, digits, `_`, `.` and `-`.
    pub fn new(client: Client, table_name: impl Into<String>) -> Result<Self, StoreError> {
        let table_name = table_name.into();
        table::check_name(&table_name)?;
        Ok(Self {
            client,
            table_name: table_name.into(),
            layout: RowLayout::SingleStream,
            billing_mode: BillingMode::default(),
            deletion_protection: false,
            active_wait_limit: DEFAULT_ACTIVE_WAIT_LIMIT,
        })
    }

    /// Reads and writes only the rows of this stream, in the layout of a KCL application that reads many streams into one
    /// table. The rows of its other streams are left alone. Unless told otherwise, a table belongs to one stream.
    #[must_use]
    pub fn with_multi_stream_key(mut self, stream: MultiStreamKey) -> Self {
        self.layout = RowLayout::MultiStream(stream);
        self
    }

    /// How the table is paid for if the store creates it; on demand unless told otherwise.
    #[must_use]
    pub fn with_billing_mode(mut self, billing_mode: BillingMode) -> Self {
        self.billing_mode = billing_mode;
        self
    }

    /// Whether DynamoDB shall refuse to delete the table, if the store creates it; off unless told otherwise.
    #[must_use]
    pub fn with_deletion_protection(mut self, deletion_protection: bool) -> Self {
        self.deletion_protection = deletion_protection;
        self
    }

    /// How long [`prepare`](LeaseStore::prepare) waits for the table to become active;
    /// [`DEFAULT_ACTIVE_WAIT_LIMIT`] unless told otherwise.
    #[must_use]
    pub fn with_active_wait_limit(mut self, active_wait_limit: Duration) -> Self {
        self.active_wait_limit = active_wait_limit;
        self
    }

    /// The table.
    pub fn table_name(&self) -> &str {
        &self.table_name
    }

    fn call(&self, operation: &'static str) -> Call<'_> {
        let region = self.client.config().region().map_or("not set", |region| region.as_ref());
        Call { operation, table_name: &self.table_name, region }
    }

    /// The lease in a row, or what is wrong with the row.
    fn lease(&self, item: &Item) -> Result<Lease, StoreError> {
        match row::read(item, &self.layout) {
            Row::Lease(lease) => Ok(*lease),
            Row::Foreign(fault) | Row::Malformed(fault) => Err(StoreError::invalid(format!(
                "table {:?}, {fault}; repair the row, or delete it if it is not needed",
                self.table_name
            ))),
        }
    }

    async fn create(&self, lease: &Lease) -> Result<WriteOutcome, StoreError> {
        let expression = Expression::creation();
        let watch = CallWatch::default();
        let answer = self
            .client
            .put_item()
            .table_name(self.table_name())
            .set_item(Some(row::write(lease, &self.layout)))
            .condition_expression(expression.condition_text())
            .set_expression_attribute_names(Some(expression.names()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(sent_once())
            .interceptor(watch.clone())
            .send()
            .await;
        let Err(error) = answer else {
            return Ok(WriteOutcome::Applied { lease: Some(lease.clone()) });
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                self.lost(&lease.shard_id, failed.item()).await
            }
            _ => self.call("PutItem").failed(error, &watch).into_outcome(),
        }
    }

    async fn update(
        &self,
        shard_id: &ShardId,
        expected: &LeaseVersion,
        change: &LeaseChange,
    ) -> Result<WriteOutcome, StoreError> {
        let expression = Expression::update(expected, change).with_layout(&self.layout, shard_id, change);
        let watch = CallWatch::default();
        let answer = self
            .client
            .update_item()
            .table_name(self.table_name())
            .set_key(Some(row::key(shard_id, &self.layout)))
            .condition_expression(expression.condition_text())
            .update_expression(expression.update_text())
            .set_expression_attribute_names(Some(expression.names()))
            .set_expression_attribute_values(expression.values())
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(sent_once())
            .interceptor(watch.clone())
            .send()
            .await;
        let error = match answer {
            Ok(answer) => return Ok(self.applied(shard_id, answer.attributes())),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                self.lost(shard_id, failed.item()).await
            }
            _ => self.call("UpdateItem").failed(error, &watch).into_outcome(),
        }
    }

    async fn delete(&self, shard_id: &ShardId, expected: &LeaseVersion) -> Result<WriteOutcome, StoreError> {
        let expression = Expression::deletion(expected);
        let watch = CallWatch::default();
        let answer = self
            .client
            .delete_item()
            .table_name(self.table_name())
            .set_key(Some(row::key(shard_id, &self.layout)))
            .condition_expression(expression.condition_text())
            .set_expression_attribute_names(Some(expression.names()))
            .set_expression_attribute_values(expression.values())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(sent_once())
            .interceptor(watch.clone())
            .send()
            .await;
        let Err(error) = answer else { return Ok(WriteOutcome::Applied { lease: None }) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failed)) => {
                self.lost(shard_id, failed.item()).await
            }
            _ => self.call("DeleteItem").failed(error, &watch).into_outcome(),
        }
    }

    /// The answer to an update that was applied. If the row after it cannot be read, an error would claim that nothing
    /// was written; reading again tells what is wrong with the row.
    fn applied(&self, shard_id: &ShardId, row: Option<&Item>) -> WriteOutcome {
        match row.map(|row| self.lease(row)) {
            Some(Ok(lease)) => WriteOutcome::Applied { lease: Some(lease) },
            Some(Err(error)) => WriteOutcome::Unknown(error),
            None => WriteOutcome::Unknown(StoreError::new(
                StoreErrorKind::Unavailable,
                format!(
                    "the lease of {shard_id} in table {:?} was written, but the answer lacks the row; read it again",
                    self.table_name
                ),
            )),
        }
    }

    /// The answer to a write whose condition failed, with the row that made it fail. Some servers do not return that
    /// row with the failure; then it is read. An error here is honest: nothing was written.
    async fn lost(&self, shard_id: &ShardId, returned: Option<&Item>) -> Result<WriteOutcome, StoreError> {
        let lease = match returned {
            Some(item) if !item.is_empty() => Some(self.lease(item)?),
            _ => self.get(shard_id).await?,
        };
        Ok(WriteOutcome::Lost { lease })
    }
}

/// Switches the SDK's own retries off, for one conditional write.
///
/// An attempt that was applied but not answered, retried inside the SDK, fails its own condition: the row is already
/// what the write made of it. The caller would read that as a loss to another worker and give up a lease that it
/// holds. Sent once, a failed condition is the truth, and an unanswered write is reported as
/// [`WriteOutcome::Unknown`], which the caller settles by reading.
fn sent_once() -> config::Builder {
    config::Config::builder().retry_config(RetryConfig::disabled())
}

#[async_trait]
impl LeaseStore for DynamoDbLeaseStore {
    fn name(&self) -> &str {
        self.table_name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        table::prepare(self).await?;
        kcl_mode::check(self).await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let mut listing = LeaseListing::default();
        let mut start = None;
        let mut seen_starts = HashSet::new();
        loop {
            let watch = CallWatch::default();
            let answer = self
                .client
                .scan()
                .table_name(self.table_name())
                .consistent_read(consistency == Consistency::Strong)
                .set_exclusive_start_key(start)
                .customize()
                .interceptor(watch.clone())
                .send()
                .await
                .map_err(|error| self.call("Scan").failed(error, &watch).error)?;
            for item in answer.items() {
                match row::read(item, &self.layout) {
                    Row::Lease(lease) => listing.leases.push(*lease),
                    Row::Malformed(malformed) => listing.malformed.push(malformed),
                    Row::Foreign(_) => {}
                }
            }
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            let Some(key) = &start else { break };
            // Every page starts behind another row; a server that goes in circles would keep us here for ever.
            match key.get(row::LEASE_KEY) {
                Some(AttributeValue::S(key)) if seen_starts.insert(key.clone()) => {}
                other => {
                    return Err(StoreError::new(
                        StoreErrorKind::Unavailable,
                        format!(
                            "the pages of table {:?} do not end: {other:?} is no new place to go on from; try again",
                            self.table_name
                        ),
                    ));
                }
            }
        }
        listing.leases.sort_by(|one, other| one.shard_id.cmp(&other.shard_id));
        listing.malformed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listing)
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        let watch = CallWatch::default();
        let answer = self
            .client
            .get_item()
            .table_name(self.table_name())
            .set_key(Some(row::key(shard_id, &self.layout)))
            .consistent_read(true)
            .customize()
            .interceptor(watch.clone())
            .send()
            .await
            .map_err(|error| self.call("GetItem").failed(error, &watch).error)?;
        answer.item().map(|item| self.lease(item)).transpose()
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        match write {
            LeaseWrite::Create(lease) => self.create(lease).await,
            LeaseWrite::Update { shard_id, expected, change } => {
                self.update(shard_id, expected, change).await
            }
            LeaseWrite::Delete { shard_id, expected } => self.delete(shard_id, expected).await,
        }
    }
}
