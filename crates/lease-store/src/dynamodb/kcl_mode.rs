//! Checks that the workers of the fleet may take leases on their own.
//!
//! A KCL 3.x fleet stores its mode in an item `Migration3.0`: in the lease table (3.5 and later), or in a separate table
//! (3.0 to 3.4). In 3.x mode only the leader assigns leases, based on metrics that every worker reports. A worker that
//! takes leases like the KCL 2.x would work against the leader, so it is refused at the start.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::attributes::{LEASE_KEY, text_value};
use super::error::CallWatch;
use super::table::Table;
use crate::error::StoreError;

/// The key of the item, in either table.
const MIGRATION_KEY: &str = "Migration3.0";

/// S, the mode.
const CLIENT_VERSION: &str = "cv";

/// The modes in which only the leader assigns leases.
const LEADER_ASSIGNS: [&str; 2] = ["CLIENT_VERSION_3X", "CLIENT_VERSION_3X_WITH_ROLLBACK"];

/// The suffix that KCL 3.0 to 3.4 append to the application name for their separate table, whose key is `key`.
const COORDINATOR_TABLE_SUFFIX: &str = "-CoordinatorState";

/// Refuses a table whose fleet is in 3.x mode.
pub(super) async fn check(table: &Table) -> Result<(), StoreError> {
    let coordinator = format!("{}{COORDINATOR_TABLE_SUFFIX}", table.name);
    let mode = match mode_in(table, &coordinator, "key").await? {
        Some(mode) => Some(mode),
        None => mode_in(table, &table.name, LEASE_KEY).await?,
    };
    let Some(mode) = mode.filter(|mode| LEADER_ASSIGNS.contains(&mode.as_str())) else { return Ok(()) };
    Err(StoreError::invalid(format!(
        "the table {:?} belongs to a KCL fleet in 3.x mode ({MIGRATION_KEY} is {mode}): its leader assigns the leases, \
         and a worker that takes leases would work against it; either return the fleet to 2.x mode \
         (clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X, and KclMigrationTool.py for a rollback), or \
         give this application another table",
        table.name
    )))
}

/// The mode stored in a table. `None` when the table or the item is absent, or the separate table may not be read.
async fn mode_in(table: &Table, table_name: &str, key_attribute: &str) -> Result<Option<String>, StoreError> {
    let watch = CallWatch::default();
    let key = HashMap::from([(key_attribute.to_owned(), text_value(MIGRATION_KEY))]);
    let answer = table
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
    // A KCL 2.x fleet does not have the separate table, and its workers need no permission to read it.
    let is_absent = matches!(code, Some("ResourceNotFoundException" | "AccessDeniedException"));
    if is_absent && table_name != &*table.name {
        return Ok(None);
    }
    let failure = table.call("GetItem").failed(error, &watch).error;
    Err(StoreError::new(failure.kind(), format!("cannot read the mode of a KCL 3.x fleet: {failure}"))
        .with_source(failure))
}
