//! The lease store over a DynamoDB table.

use std::collections::HashSet;

use async_trait::async_trait;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use aws_sdk_dynamodb::{Client, config};
use tokio::time::Duration;

use super::attributes::{Item, LEASE_KEY};
use super::error::CallWatch;
use super::kcl_mode;
use super::layout::{MultiStreamKey, RowLayout};
use super::request::Expression;
use super::row_reader::{self, Row};
use super::row_writer;
use super::table::{self, Table};
use crate::error::{StoreError, StoreErrorKind};
use crate::lease::{Lease, LeaseVersion};
use crate::shard_id::ShardId;
use crate::store::{Consistency, LeaseListing, LeaseStore, WriteOutcome};
use crate::table_settings::{BillingMode, TableSettings};
use crate::write::{LeaseChange, LeaseWrite};

/// Leases in a DynamoDB table. Clones share the client and the table.
#[derive(Debug, Clone)]
pub struct DynamoDbLeaseStore {
    table: Table,
    layout: RowLayout,
}

impl DynamoDbLeaseStore {
    /// A store in this table; [`prepare`](LeaseStore::prepare) creates the table if it is absent.
    ///
    /// Reads are retried as configured in the client; writes are sent once. Set the operation timeout of the client well
    /// below the fail-over time of the leases. Without a timeout, a server that never answers blocks a call forever.
    ///
    /// # Errors
    /// `Invalid` when the name is not 3 to 255 letters, digits, `_`, `.` and `-`.
    pub fn new(client: Client, table_name: impl Into<String>) -> Result<Self, StoreError> {
        Ok(Self { table: Table::new(client, table_name.into())?, layout: RowLayout::SingleStream })
    }

    /// Sets the layout of a KCL application that keeps the leases of many streams in one table. The store then reads and
    /// writes only the rows of this stream. Default: the table belongs to one stream.
    #[must_use]
    pub fn with_multi_stream_key(mut self, stream: MultiStreamKey) -> Self {
        self.layout = RowLayout::MultiStream(stream);
        self
    }

    /// Sets the name of the application. A KCL 3.x fleet stores its mode in a table `<application>-CoordinatorState`, which is
    /// read to find out whether workers may take leases. Default: the name of the table.
    #[must_use]
    pub fn with_application_name(mut self, application: &str) -> Self {
        self.table.application = application.into();
        self
    }

    /// The billing mode of the table, if the store creates it. Default: on demand.
    #[must_use]
    pub fn with_billing_mode(mut self, billing_mode: BillingMode) -> Self {
        self.table.settings.billing_mode = billing_mode;
        self
    }

    /// Whether DynamoDB protects the table from deletion, if the store creates it. Default: off.
    #[must_use]
    pub fn with_deletion_protection(mut self, deletion_protection: bool) -> Self {
        self.table.settings.deletion_protection = deletion_protection;
        self
    }

    /// How the table is created, if the store creates it: billing, deletion protection, point-in-time recovery and tags.
    #[must_use]
    pub fn with_table_settings(mut self, settings: TableSettings) -> Self {
        self.table.settings = settings;
        self
    }

    /// The longest wait of [`prepare`](LeaseStore::prepare) for the table to become active. Default:
    /// [`DEFAULT_ACTIVE_WAIT_LIMIT`](super::DEFAULT_ACTIVE_WAIT_LIMIT).
    #[must_use]
    pub fn with_active_wait_limit(mut self, active_wait_limit: Duration) -> Self {
        self.table.active_wait_limit = active_wait_limit;
        self
    }

    /// The name of the table.
    pub fn table_name(&self) -> &str {
        &self.table.name
    }

    /// The table, for the other files of this module.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// The layout of the keys, for the other files of this module.
    pub(super) fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// Passes every row of the table to `row`, page by page.
    pub(super) async fn scan_rows(
        &self,
        consistency: Consistency,
        mut row: impl FnMut(&Item) + Send,
    ) -> Result<(), StoreError> {
        let mut start = None;
        let mut seen_starts = HashSet::new();
        loop {
            let watch = CallWatch::default();
            let answer = self
                .table
                .client
                .scan()
                .table_name(self.table_name())
                .consistent_read(consistency == Consistency::Strong)
                .set_exclusive_start_key(start)
                .customize()
                .interceptor(watch.clone())
                .send()
                .await
                .map_err(|error| self.table.call("Scan").failed(&error, &watch).error)?;
            answer.items().iter().for_each(&mut row);
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            let Some(key) = &start else { return Ok(()) };
            // Each page must start at a new key. Otherwise a server that repeats its pages would keep this loop forever.
            match key.get(LEASE_KEY) {
                Some(AttributeValue::S(key)) if seen_starts.insert(key.clone()) => {}
                other => {
                    return Err(StoreError::new(
                        StoreErrorKind::Unavailable,
                        format!(
                            "the scan of table {:?} does not end: its next page starts at {other:?}, which is not a \
                             new key; try again",
                            self.table.name
                        ),
                    ));
                }
            }
        }
    }

    /// Reads the lease in a row; a row that is not a lease of this application is an error.
    fn lease(&self, item: &Item) -> Result<Lease, StoreError> {
        match row_reader::read(item, &self.layout) {
            Row::Lease(lease) => Ok(*lease),
            Row::Foreign(fault) | Row::Malformed(fault) => Err(StoreError::invalid(format!(
                "table {:?}, {fault}; repair the row, or delete it if it is not needed",
                self.table.name
            ))),
        }
    }

    async fn create(&self, lease: &Lease) -> Result<WriteOutcome, StoreError> {
        let expression = Expression::creation();
        let watch = CallWatch::default();
        let answer = self
            .table
            .client
            .put_item()
            .table_name(self.table_name())
            .set_item(Some(row_writer::write(lease, &self.layout)))
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
            _ => self.table.call("PutItem").failed(&error, &watch).into_outcome(),
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
            .table
            .client
            .update_item()
            .table_name(self.table_name())
            .set_key(Some(row_writer::key(shard_id, &self.layout)))
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
            _ => self.table.call("UpdateItem").failed(&error, &watch).into_outcome(),
        }
    }

    async fn delete(&self, shard_id: &ShardId, expected: &LeaseVersion) -> Result<WriteOutcome, StoreError> {
        let expression = Expression::deletion(expected);
        let watch = CallWatch::default();
        let answer = self
            .table
            .client
            .delete_item()
            .table_name(self.table_name())
            .set_key(Some(row_writer::key(shard_id, &self.layout)))
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
            _ => self.table.call("DeleteItem").failed(&error, &watch).into_outcome(),
        }
    }

    /// The outcome of an applied update. If the row after it is malformed, the outcome is unknown: an error would claim
    /// that nothing was written. Reading the row again reports the fault.
    fn applied(&self, shard_id: &ShardId, row: Option<&Item>) -> WriteOutcome {
        match row.map(|row| self.lease(row)) {
            Some(Ok(lease)) => WriteOutcome::Applied { lease: Some(lease) },
            Some(Err(error)) => WriteOutcome::Unknown(error),
            None => WriteOutcome::Unknown(StoreError::new(
                StoreErrorKind::Unavailable,
                format!(
                    "the lease of {shard_id} in table {:?} was written, but the answer lacks the row; read it again",
                    self.table.name
                ),
            )),
        }
    }

    /// The outcome of a write whose condition failed, with the row that made it fail. Some servers do not return that
    /// row; then it is read. An error here is correct, because nothing was written.
    async fn lost(&self, shard_id: &ShardId, returned: Option<&Item>) -> Result<WriteOutcome, StoreError> {
        let lease = match returned {
            Some(item) if !item.is_empty() => Some(self.lease(item)?),
            _ => self.get(shard_id).await?,
        };
        Ok(WriteOutcome::Lost { lease })
    }
}

/// Disables the SDK's own retries for one conditional write.
///
/// Suppose an attempt is applied but not answered, and the SDK retries it. The retry fails its condition, because the row
/// already has the change. The caller would conclude that another worker took the lease, and give up a lease that it
/// holds. When a write is sent once, a failed condition is reliable. An unanswered write is reported as
/// [`WriteOutcome::Unknown`], which the caller settles by reading the row.
fn sent_once() -> config::Builder {
    config::Config::builder().retry_config(RetryConfig::disabled())
}

#[async_trait]
impl LeaseStore for DynamoDbLeaseStore {
    fn name(&self) -> &str {
        self.table_name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let description = table::prepare(&self.table).await?;
        kcl_mode::check(&self.table, kcl_mode::has_index(&description)).await.map(drop)
    }

    async fn check_fleet_mode(&self) -> Result<Option<String>, StoreError> {
        // A missing table shows no mode.
        let Some(description) = table::describe(&self.table).await? else { return Ok(None) };
        kcl_mode::check(&self.table, kcl_mode::has_index(&description)).await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let mut listing = LeaseListing::default();
        self.scan_rows(consistency, |item| match row_reader::read(item, &self.layout) {
            Row::Lease(lease) => listing.leases.push(*lease),
            Row::Malformed(malformed) => listing.malformed.push(malformed),
            Row::Foreign(_) => {}
        })
        .await?;
        listing.leases.sort_by(|one, other| one.shard_id.cmp(&other.shard_id));
        listing.malformed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listing)
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        let watch = CallWatch::default();
        let answer = self
            .table
            .client
            .get_item()
            .table_name(self.table_name())
            .set_key(Some(row_writer::key(shard_id, &self.layout)))
            .consistent_read(true)
            .customize()
            .interceptor(watch.clone())
            .send()
            .await
            .map_err(|error| self.table.call("GetItem").failed(&error, &watch).error)?;
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
