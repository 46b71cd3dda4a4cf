//! The table in DynamoDB: its settings, and how it is created, waited for and checked.

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode as TableBillingMode, KeySchemaElement, KeyType,
    PointInTimeRecoverySpecification, ProvisionedThroughput, ScalarAttributeType, TableDescription,
    TableStatus, Tag,
};
use tokio::time::{Duration, Instant, sleep};

use super::attributes::LEASE_KEY;
use super::error::{Call, CallWatch};
use crate::error::{StoreError, StoreErrorKind};
use crate::table_settings::{BillingMode, TableSettings};

/// The default wait of [`prepare`](crate::LeaseStore::prepare) for a table to become active.
pub const DEFAULT_ACTIVE_WAIT_LIMIT: Duration = Duration::from_secs(600);

/// The first wait before the table is described again; each further wait is twice as long.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// The longest wait before the table is described again.
const MAX_POLL: Duration = Duration::from_secs(10);

/// The shortest table name, in characters.
const MIN_NAME_LENGTH: usize = 3;

/// The longest table name, in characters.
const MAX_NAME_LENGTH: usize = 255;

/// A table of one Region or endpoint, and the settings for its creation.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: Arc<str>,
    /// The name of the application, from which the KCL derives the name of its table for the mode of the fleet. Default: the
    /// name of the table.
    pub(super) application: Arc<str>,
    /// How the table is created.
    pub(super) settings: TableSettings,
    /// The longest wait for the table to become active.
    pub(super) active_wait_limit: Duration,
}

impl Table {
    /// A table with the default settings.
    ///
    /// # Errors
    /// `Invalid` when DynamoDB would refuse the name.
    pub(super) fn new(client: Client, name: String) -> Result<Self, StoreError> {
        check_name(&name)?;
        let name: Arc<str> = name.into();
        Ok(Self {
            client,
            application: name.clone(),
            name,
            settings: TableSettings::default(),
            active_wait_limit: DEFAULT_ACTIVE_WAIT_LIMIT,
        })
    }

    /// Describes a call to this table for error messages.
    pub(super) fn call(&self, operation: &'static str) -> Call<'_> {
        let region = self.client.config().region().map_or("not set", |region| region.as_ref());
        Call { operation, table_name: &self.name, region }
    }
}

/// The state of a table, as far as it decides the next step.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The table can be read and written.
    Usable,
    /// The table may become usable; the text completes the sentence "the table ...".
    Changing(String),
    /// The table will not become usable by itself.
    Refused(StoreErrorKind, &'static str),
}

/// Refuses a name that DynamoDB would refuse.
pub(super) fn check_name(table_name: &str) -> Result<(), StoreError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if (MIN_NAME_LENGTH..=MAX_NAME_LENGTH).contains(&table_name.len()) && table_name.bytes().all(allowed) {
        return Ok(());
    }
    Err(StoreError::invalid(format!(
        "table name {table_name:?} must be {MIN_NAME_LENGTH} to {MAX_NAME_LENGTH} letters, digits, '_', '.' or '-'"
    )))
}

/// Creates the table if it is absent, waits until it is active, and checks its layout. Returns its description.
pub(super) async fn prepare(table: &Table) -> Result<TableDescription, StoreError> {
    let started_at = Instant::now();
    let mut poll = FIRST_POLL;
    let mut created = false;
    loop {
        let status = match describe(table).await? {
            Some(description) => match state(&description) {
                State::Usable => {
                    check_layout(&table.name, &description)?;
                    if created && table.settings.point_in_time_recovery {
                        enable_point_in_time_recovery(table).await;
                    }
                    return Ok(description);
                }
                State::Refused(kind, reason) => {
                    return Err(StoreError::new(kind, format!("the table {:?} {reason}", table.name)));
                }
                State::Changing(status) => status,
            },
            None if created => "is not visible yet".to_owned(),
            None => {
                create(table).await?;
                created = true;
                continue;
            }
        };
        let left = table.active_wait_limit.saturating_sub(started_at.elapsed());
        if left.is_zero() {
            return Err(StoreError::new(
                StoreErrorKind::Unavailable,
                format!(
                    "the table {:?} {status} and did not become active within {:?}; check it in the console, try \
                     again, or allow more time",
                    table.name, table.active_wait_limit
                ),
            ));
        }
        sleep(poll.min(left)).await;
        poll = (poll * 2).min(MAX_POLL);
    }
}

/// The description of the table; `None` when the table is absent.
pub(super) async fn describe(table: &Table) -> Result<Option<TableDescription>, StoreError> {
    let watch = CallWatch::default();
    let request = table.client.describe_table().table_name(&*table.name);
    match request.customize().interceptor(watch.clone()).send().await {
        Ok(answer) => answer.table.map(Some).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Unavailable,
                format!("the answer to DescribeTable of {:?} has no table; try again", table.name),
            )
        }),
        Err(error)
            if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(table.call("DescribeTable").failed(&error, &watch).error),
    }
}

/// Creates the table, unless another worker was first. The SDK may retry here: a retry after an applied attempt finds
/// the table, which is as good as creating it.
async fn create(table: &Table) -> Result<(), StoreError> {
    let watch = CallWatch::default();
    let build_error = |error: BuildError| {
        StoreError::invalid(format!("the request to create the table {:?} cannot be built", table.name))
            .with_source(error)
    };
    let key = KeySchemaElement::builder().attribute_name(LEASE_KEY).key_type(KeyType::Hash);
    let attribute =
        AttributeDefinition::builder().attribute_name(LEASE_KEY).attribute_type(ScalarAttributeType::S);
    let tags = table.settings.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    let tags: Vec<Tag> = tags.collect::<Result<_, _>>().map_err(build_error)?;
    let tags = (!tags.is_empty()).then_some(tags);
    let request = table
        .client
        .create_table()
        .table_name(&*table.name)
        .key_schema(key.build().map_err(build_error)?)
        .attribute_definitions(attribute.build().map_err(build_error)?)
        .deletion_protection_enabled(table.settings.deletion_protection)
        .set_tags(tags);
    let request = match table.settings.billing_mode {
        BillingMode::OnDemand => request.billing_mode(TableBillingMode::PayPerRequest),
        BillingMode::Provisioned { read_capacity_units, write_capacity_units } => {
            let throughput = ProvisionedThroughput::builder()
                .read_capacity_units(read_capacity_units.get().into())
                .write_capacity_units(write_capacity_units.get().into());
            request
                .billing_mode(TableBillingMode::Provisioned)
                .provisioned_throughput(throughput.build().map_err(build_error)?)
        }
    };
    match request.customize().interceptor(watch.clone()).send().await {
        Ok(_) => Ok(()),
        Err(error)
            if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) =>
        {
            Ok(())
        }
        Err(error) => Err(table.call("CreateTable").failed(&error, &watch).error),
    }
}

/// Turns on continuous backups of a new table. The table can be used without them, so a failure is only logged.
async fn enable_point_in_time_recovery(table: &Table) {
    let enabled = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
    let Ok(enabled) = enabled else { return };
    let watch = CallWatch::default();
    let request = table.client.update_continuous_backups().table_name(&*table.name);
    let request = request.point_in_time_recovery_specification(enabled);
    match request.customize().interceptor(watch.clone()).send().await {
        Ok(_) => tracing::info!(table = %table.name, "point-in-time recovery of the new table is on"),
        Err(error) => {
            let error = table.call("UpdateContinuousBackups").failed(&error, &watch).error;
            tracing::warn!(
                %error,
                "point-in-time recovery of the new table is not on, the table is used without it; turn it on in the console, \
                 or allow dynamodb:UpdateContinuousBackups before the table is created"
            );
        }
    }
}

fn state(table: &TableDescription) -> State {
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => State::Usable,
        // It is created again after the deletion.
        Some(TableStatus::Deleting) => State::Changing("is being deleted".to_owned()),
        Some(TableStatus::Archiving | TableStatus::Archived) => State::Refused(
            StoreErrorKind::Invalid,
            "is archived; restore it from its backup, or choose another table name",
        ),
        Some(TableStatus::InaccessibleEncryptionCredentials) => State::Refused(
            StoreErrorKind::Denied,
            "cannot be read because its encryption key is not accessible; check the key and its policy",
        ),
        Some(other) => State::Changing(format!("is {other}")),
        None => State::Changing("has no status".to_owned()),
    }
}

/// A lease table has exactly one key attribute. No KCL worker could read rows in a table of another layout.
pub(super) fn check_layout(table_name: &str, table: &TableDescription) -> Result<(), StoreError> {
    let mut found: Vec<String> = table
        .key_schema()
        .iter()
        .map(|key| {
            let attribute = table
                .attribute_definitions()
                .iter()
                .find(|attribute| attribute.attribute_name() == key.attribute_name());
            let attribute_type = attribute.map_or("unknown", |attribute| attribute.attribute_type().as_str());
            key_text(key.key_type().as_str(), key.attribute_name(), attribute_type)
        })
        .collect();
    found.sort();
    let wanted = key_text(KeyType::Hash.as_str(), LEASE_KEY, ScalarAttributeType::S.as_str());
    if found == [wanted.as_str()] {
        return Ok(());
    }
    Err(StoreError::invalid(format!(
        "the table {table_name:?} is not a lease table: its key is {}, but must be {wanted}; choose another table name, \
         or delete the table if it is not needed",
        found.join(" and ")
    )))
}

fn key_text(key_type: &str, attribute_name: &str, attribute_type: &str) -> String {
    format!("{key_type} {attribute_name:?} of type {attribute_type}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(status: TableStatus, keys: &[(&str, KeyType, ScalarAttributeType)]) -> TableDescription {
        let mut table = TableDescription::builder().table_status(status);
        for (name, key_type, attribute_type) in keys {
            let key = KeySchemaElement::builder().attribute_name(*name).key_type(key_type.clone());
            let attribute =
                AttributeDefinition::builder().attribute_name(*name).attribute_type(attribute_type.clone());
            table = table.key_schema(key.build().unwrap()).attribute_definitions(attribute.build().unwrap());
        }
        table.build()
    }

    #[test]
    fn accepts_the_table_names_of_dynamodb_only() {
        let longest = "a".repeat(MAX_NAME_LENGTH);
        for name in ["abc", "My-App_1.leases", longest.as_str()] {
            check_name(name).unwrap();
        }
        let too_long = "a".repeat(MAX_NAME_LENGTH + 1);
        for name in ["", "ab", "my app", "äbc", "a/b", too_long.as_str()] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Invalid);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn accepts_the_kcl_layout_only() {
        use KeyType::{Hash, Range};
        use ScalarAttributeType::{N, S};
        check_layout("orders", &table(TableStatus::Active, &[(LEASE_KEY, Hash, S)])).unwrap();
        for (keys, found) in [
            (vec![("id", Hash, S)], "HASH \"id\" of type S"),
            (vec![(LEASE_KEY, Hash, N)], "HASH \"leaseKey\" of type N"),
            (
                vec![(LEASE_KEY, Hash, S), ("at", Range, N)],
                "HASH \"leaseKey\" of type S and RANGE \"at\" of type N",
            ),
        ] {
            let error = check_layout("orders", &table(TableStatus::Active, &keys)).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Invalid);
            for part in ["\"orders\"", found, "another table name", "delete the table"] {
                assert!(error.to_string().contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn the_status_decides_whether_to_use_or_await_a_table() {
        let state_of = |status| state(&table(status, &[]));
        assert_eq!(state_of(TableStatus::Active), State::Usable);
        assert_eq!(state_of(TableStatus::Updating), State::Usable);
        assert_eq!(state_of(TableStatus::Creating), State::Changing("is CREATING".to_owned()));
        assert_eq!(state_of(TableStatus::Deleting), State::Changing("is being deleted".to_owned()));
        assert!(matches!(state_of(TableStatus::Archived), State::Refused(StoreErrorKind::Invalid, _)));
        let locked = TableStatus::InaccessibleEncryptionCredentials;
        assert!(matches!(state_of(locked), State::Refused(StoreErrorKind::Denied, _)));
    }
}
