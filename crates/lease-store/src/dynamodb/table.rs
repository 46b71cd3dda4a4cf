//! The table: created when absent, waited for, and checked.

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode as TableBillingMode, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType, TableDescription, TableStatus,
};
use tokio::time::{Duration, Instant, sleep};

use super::error::CallWatch;
use super::row::LEASE_KEY;
use super::{BillingMode, DynamoDbLeaseStore};
use crate::{StoreError, StoreErrorKind};

/// How long the first wait for the table is; each further one is twice as long.
const FIRST_POLL: Duration = Duration::from_secs(1);

/// The longest wait between two looks at the table.
const MAX_POLL: Duration = Duration::from_secs(10);

/// The shortest table name, in characters.
const MIN_NAME_LENGTH: usize = 3;

/// The longest table name, in characters.
const MAX_NAME_LENGTH: usize = 255;

/// What to do about a table as it is described.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It can be read and written.
    Usable,
    /// It is on the way; what it is doing.
    Changing(String),
    /// It will not become usable by itself.
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

/// Makes the table usable: creates it when it is absent, and waits.
pub(super) async fn prepare(store: &DynamoDbLeaseStore) -> Result<(), StoreError> {
    let started_at = Instant::now();
    let mut poll = FIRST_POLL;
    let mut created = false;
    loop {
        let doing = match describe(store).await? {
            Some(table) => match state(&table) {
                State::Usable => return check_layout(store.table_name(), &table),
                State::Refused(kind, reason) => {
                    return Err(StoreError::new(
                        kind,
                        format!("the table {:?} {reason}", store.table_name()),
                    ));
                }
                State::Changing(doing) => doing,
            },
            None if created => "is not visible yet".to_owned(),
            None => {
                create(store).await?;
                created = true;
                continue;
            }
        };
        let left = store.active_wait_limit.saturating_sub(started_at.elapsed());
        if left.is_zero() {
            return Err(StoreError::new(
                StoreErrorKind::Unavailable,
                format!(
                    "the table {:?} {doing} and did not become active within {:?}; look at it in the console, try \
                     again, or allow it more time",
                    store.table_name(),
                    store.active_wait_limit
                ),
            ));
        }
        sleep(poll.min(left)).await;
        poll = (poll * 2).min(MAX_POLL);
    }
}

/// The table, or `None` when there is none.
async fn describe(store: &DynamoDbLeaseStore) -> Result<Option<TableDescription>, StoreError> {
    let watch = CallWatch::default();
    let request = store.client.describe_table().table_name(store.table_name());
    match request.customize().interceptor(watch.clone()).send().await {
        Ok(answer) => answer.table.map(Some).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Unavailable,
                format!("the description of the table {:?} came back empty; try again", store.table_name()),
            )
        }),
        Err(error)
            if error.as_service_error().is_some_and(DescribeTableError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(store.call("DescribeTable").failed(error, &watch).error),
    }
}

/// Asks for the table, unless somebody else was first. The SDK may retry here: an attempt after one that was applied
/// finds the table there, which is as good.
async fn create(store: &DynamoDbLeaseStore) -> Result<(), StoreError> {
    let watch = CallWatch::default();
    let build_error = |error: BuildError| {
        StoreError::invalid(format!("the table {:?} cannot be described to DynamoDB", store.table_name()))
            .with_source(error)
    };
    let key = KeySchemaElement::builder().attribute_name(LEASE_KEY).key_type(KeyType::Hash);
    let attribute =
        AttributeDefinition::builder().attribute_name(LEASE_KEY).attribute_type(ScalarAttributeType::S);
    let request = store
        .client
        .create_table()
        .table_name(store.table_name())
        .key_schema(key.build().map_err(build_error)?)
        .attribute_definitions(attribute.build().map_err(build_error)?)
        .deletion_protection_enabled(store.deletion_protection);
    let request = match store.billing_mode {
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
        Err(error) => Err(store.call("CreateTable").failed(error, &watch).error),
    }
}

fn state(table: &TableDescription) -> State {
    match table.table_status() {
        Some(TableStatus::Active | TableStatus::Updating) => State::Usable,
        // Once it is gone it is created anew.
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

/// A lease table has exactly one key; nobody could read our rows in a table of another layout.
fn check_layout(table_name: &str, table: &TableDescription) -> Result<(), StoreError> {
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
        "the table {table_name:?} is no lease table: its key is {}, but must be {wanted}; choose another table name, \
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
    fn names_are_those_that_dynamodb_takes() {
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
    fn only_the_kcl_layout_is_taken() {
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
    fn an_updating_table_is_usable_and_one_on_the_way_is_waited_for() {
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
