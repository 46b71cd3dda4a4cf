//! Whether the fleet that uses the table lets its workers take leases by themselves.
//!
//! A KCL 3.x fleet notes its mode in an item `Migration3.0`: in the lease table itself (3.5 and later), or in a table of
//! its own beside it (3.0 to 3.4). Once it is in 3.x mode only its leader assigns leases, by metrics that every worker
//! reports. A worker that takes leases as the KCL 2.x does would fight it, so it is refused at the start.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::error::CallWatch;
use super::{DynamoDbLeaseStore, row};
use crate::StoreError;

/// The key of the item, in either table.
const MIGRATION_KEY: &str = "Migration3.0";

/// S, the mode.
const CLIENT_VERSION: &str = "cv";

/// The modes in which only the leader assigns leases.
const LEADER_ASSIGNS: [&str; 2] = ["CLIENT_VERSION_3X", "CLIENT_VERSION_3X_WITH_ROLLBACK"];

/// What KCL 3.0 to 3.4 append to the name of the application for their own table, whose key is `key`.
const COORDINATOR_TABLE_SUFFIX: &str = "-CoordinatorState";

/// Refuses a table whose fleet is in 3.x mode.
pub(super) async fn check(store: &DynamoDbLeaseStore) -> Result<(), StoreError> {
    let table = store.table_name();
    let coordinator = format!("{table}{COORDINATOR_TABLE_SUFFIX}");
    let mode = match mode_in(store, &coordinator, "key").await? {
        Some(mode) => Some(mode),
        None => mode_in(store, table, row::LEASE_KEY).await?,
    };
    let Some(mode) = mode.filter(|mode| LEADER_ASSIGNS.contains(&mode.as_str())) else { return Ok(()) };
    Err(StoreError::invalid(format!(
        "the table {table:?} belongs to a KCL fleet in 3.x mode ({MIGRATION_KEY} says {mode}): its leader assigns the \
         leases, and a worker that takes them would fight it. Either take the fleet back to 2.x mode \
         (clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X, and KclMigrationTool.py for a rollback), or \
         give this application another table"
    )))
}

/// The mode that is noted in a table; `None` when there is no such table, no such item, or no permission to look.
async fn mode_in(
    store: &DynamoDbLeaseStore,
    table_name: &str,
    key_attribute: &str,
) -> Result<Option<String>, StoreError> {
    let watch = CallWatch::default();
    let key = HashMap::from([(key_attribute.to_owned(), row::text_value(MIGRATION_KEY))]);
    let answer = store
        .client
        .get_item()
        .table_name(table_name)
        .set_key(Some(key))
        .consistent_read(true)
        .customize()
        .interceptor(watch.clone())
        .send()
        .await;
    let error = match answer {
        Ok(answer) => {
            let mode = answer.item().and_then(|item| item.get(CLIENT_VERSION));
            return Ok(mode.and_then(|mode| mode.as_s().ok().cloned()));
        }
        Err(error) => error,
    };
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    // Fleets of the KCL 2.x have no such table, and need no permission to read it.
    let is_absent = matches!(code, Some("ResourceNotFoundException" | "AccessDeniedException"));
    if is_absent && table_name != store.table_name() {
        return Ok(None);
    }
    let failure = store.call("GetItem").failed(error, &watch).error;
    Err(StoreError::new(failure.kind(), format!("looking for the mode of a KCL 3.x fleet: {failure}"))
        .with_source(failure))
}
