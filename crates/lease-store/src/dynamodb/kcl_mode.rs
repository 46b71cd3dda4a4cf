//! Checks that the workers of the fleet may take leases on their own.
//!
//! A KCL 3.x fleet stores its mode in an item `Migration3.0`: in the lease table (3.5 and later), or in a separate table
//! (3.0 to 3.4). In 3.x mode only the leader assigns leases, based on metrics that every worker reports. A worker that
//! takes leases like the KCL 2.x would work against the leader, so it is refused at the start, and takes nothing more when
//! the mode changes. An index of the lease table, which only KCL 3.x creates, is a second sign: a fleet whose mode cannot
//! be found is refused too.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::TableDescription;

use super::attributes::{Item, LEASE_KEY, text_value};
use super::error::CallWatch;
use super::table::{self, Table};
use crate::error::StoreError;

/// The key of the item with the mode, in either table.
pub(super) const MIGRATION_KEY: &str = "Migration3.0";

/// S, the mode.
pub(super) const CLIENT_VERSION: &str = "cv";

/// The key of the item that decides which of the two tables contains the mode.
const TABLE_MIGRATION_KEY: &str = "TableMigration3.5";

/// S, the state of the move into the lease table.
const TABLE_MIGRATION: &str = "tm";

/// The state from which on the lease table contains the mode.
const TABLE_MIGRATION_COMPLETE: &str = "TABLE_MIGRATION_STATUS_COMPLETE";

/// The mode in which every worker takes leases, until an operator rolls the fleet forward.
pub(super) const TAKES: &str = "CLIENT_VERSION_2X";

/// The mode in which every worker takes leases, until the fleet moves itself to 3.x.
const UPGRADES: &str = "CLIENT_VERSION_UPGRADE_FROM_2X";

/// The mode in which the leader assigns the leases, and from which the migration tool leads back.
const LEADS: &str = "CLIENT_VERSION_3X_WITH_ROLLBACK";

/// The mode in which the leader assigns the leases, and from which nothing leads back.
const LEADS_FOR_GOOD: &str = "CLIENT_VERSION_3X";

/// The key of the separate table.
const COORDINATOR_KEY: &str = "key";

/// The suffix that KCL 3.0 to 3.4 append to the application name for their separate table, whose key is `key`.
pub(super) const COORDINATOR_TABLE_SUFFIX: &str = "-CoordinatorState";

/// The index that KCL 3.x adds to the lease table.
const INDEX: &str = "LeaseOwnerToLeaseKeyIndex";

/// The separate table of the application.
fn coordinator_table(application: &str) -> String {
    format!("{application}{COORDINATOR_TABLE_SUFFIX}")
}

/// Whether the lease table has the index of KCL 3.x.
pub(super) fn has_index(table: &TableDescription) -> bool {
    table.global_secondary_indexes().iter().any(|index| index.index_name() == Some(INDEX))
}

/// Refuses a table whose fleet is in 3.x mode, or may be. Returns a warning about a fleet whose mode may change, or that
/// cannot be read.
pub(super) async fn check(table: &Table, has_index: bool) -> Result<Option<String>, StoreError> {
    let found = locate(table).await?.found;
    match judge(&found, has_index) {
        Verdict::Free => Ok(None),
        Verdict::Warned(remark) => Ok(Some(remark.text(table, &found))),
        Verdict::Refused(remark) => Err(StoreError::invalid(remark.text(table, &found))),
    }
}

/// Where the mode is, or would be, stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) found: Found,
    /// The table that contains the item.
    pub(super) table: String,
    /// The attribute that is the key of that table.
    pub(super) key_attribute: &'static str,
}

/// Finds the item with the mode.
pub(super) async fn locate(table: &Table) -> Result<Place, StoreError> {
    let coordinator = coordinator_table(&table.application);
    let mut found = Found::Absent;
    // A name that is not valid for a table cannot be that of a table of the KCL.
    if table::check_name(&coordinator).is_ok() {
        found = item(table, &coordinator, COORDINATOR_KEY, MIGRATION_KEY, CLIENT_VERSION).await?;
        if let Found::Value(_) = found {
            let moved =
                item(table, &coordinator, COORDINATOR_KEY, TABLE_MIGRATION_KEY, TABLE_MIGRATION).await?;
            if moved == Found::Value(TABLE_MIGRATION_COMPLETE.to_owned()) {
                found = Found::Absent;
            }
        }
    }
    if !matches!(found, Found::Value(_)) {
        let in_lease_table = item(table, &table.name, LEASE_KEY, MIGRATION_KEY, CLIENT_VERSION).await?;
        if in_lease_table != Found::Absent {
            return Ok(Place {
                found: in_lease_table,
                table: table.name.to_string(),
                key_attribute: LEASE_KEY,
            });
        }
    }
    Ok(Place { found, table: coordinator, key_attribute: COORDINATOR_KEY })
}

/// The result of looking for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no item, or no table.
    Absent,
    /// The separate table may not be read.
    Denied,
    /// The value; empty when the item lacks it.
    Value(String),
}

/// Whether workers may take leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Free,
    Warned(Remark),
    Refused(Remark),
}

/// The reason for a warning or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remark {
    /// The fleet will move itself to 3.x mode.
    Upgrades,
    /// The mode may not be read, and nothing else shows a KCL 3.x fleet.
    Denied,
    /// The mode may not be read, and KCL 3.x has used the table.
    DeniedWithIndex,
    /// The leader assigns the leases.
    LeaderAssigns,
    /// The mode is not known to this library.
    UnknownMode,
    /// KCL 3.x has used the table, and its mode was not found.
    ModeNotFound,
}

/// Decides whether workers may take leases. Only known modes are accepted.
fn judge(found: &Found, has_index: bool) -> Verdict {
    match found {
        Found::Absent if has_index => Verdict::Refused(Remark::ModeNotFound),
        Found::Absent => Verdict::Free,
        Found::Denied if has_index => Verdict::Refused(Remark::DeniedWithIndex),
        Found::Denied => Verdict::Warned(Remark::Denied),
        Found::Value(mode) if mode == TAKES => Verdict::Free,
        Found::Value(mode) if mode == UPGRADES => Verdict::Warned(Remark::Upgrades),
        Found::Value(mode) if mode == LEADS || mode == LEADS_FOR_GOOD => {
            Verdict::Refused(Remark::LeaderAssigns)
        }
        Found::Value(_) => Verdict::Refused(Remark::UnknownMode),
    }
}

impl Remark {
    fn text(self, table: &Table, found: &Found) -> String {
        let Table { name, application, .. } = table;
        let coordinator = coordinator_table(application);
        let mode = match found {
            Found::Value(mode) => mode.as_str(),
            Found::Absent | Found::Denied => "not known",
        };
        let places = format!("{coordinator:?} or {name:?}");
        let pin = format!(
            "run KclMigrationTool.py in rollback mode, which sets {TAKES}: the fleet then stays in 2.x mode until it is rolled \
             forward"
        );
        let leave = format!(
            "if no KCL worker is left, delete the item {MIGRATION_KEY} in {places} and the index {INDEX} of {name:?}: this \
             worker then continues at the positions of the table"
        );
        let refused = |why: &str| {
            format!(
                "the table {name:?} belongs to a KCL fleet in 3.x mode ({MIGRATION_KEY} is {mode}): {why}"
            )
        };
        match self {
            Self::Upgrades => format!(
                "the KCL fleet of the table {name:?} moves itself to 3.x mode ({MIGRATION_KEY} is {mode}) ten minutes after \
                 every owner of a lease is a KCL worker that reports metrics; this worker then takes no more leases; to \
                 prevent that, {pin}"
            ),
            Self::Denied => format!(
                "the table {coordinator:?} may not be read, in which a KCL 3.x fleet stores its mode: allow dynamodb:GetItem on \
                 it; without it, a fleet in 3.x mode is not recognised"
            ),
            Self::DeniedWithIndex => format!(
                "the table {name:?} has the index {INDEX}, so a KCL 3.x fleet uses it or has used it, and the table \
                 {coordinator:?} with its mode may not be read: allow dynamodb:GetItem on it; or, {leave}"
            ),
            Self::LeaderAssigns if mode == LEADS_FOR_GOOD => refused(&format!(
                "its leader assigns the leases, and a worker that takes leases would work against it; no tool leads back \
                 from this mode (clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X has no effect any more); \
                 give this application another table, or, {leave}"
            )),
            Self::LeaderAssigns => refused(&format!(
                "its leader assigns the leases, and a worker that takes leases would work against it; {pin}; \
                 clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X alone does not, such a fleet moves itself to \
                 this mode; or give this application another table; or, {leave}"
            )),
            Self::UnknownMode => refused(&format!(
                "this version of the library does not know that mode, so it cannot tell who assigns the leases; use a newer \
                 version, or give this application another table; or, {leave}"
            )),
            Self::ModeNotFound => format!(
                "the table {name:?} has the index {INDEX}, so a KCL 3.x fleet uses it or has used it, but there is no item \
                 {MIGRATION_KEY} in {places}; set the application name to that of the KCL fleet, which is part of the name \
                 of its table; {leave}"
            ),
        }
    }
}

/// An attribute of an item. `Absent` when the table or the item is absent, `Denied` when the separate table may not be read.
async fn item(
    table: &Table,
    table_name: &str,
    key_attribute: &str,
    key: &str,
    attribute: &str,
) -> Result<Found, StoreError> {
    let watch = CallWatch::default();
    let key = HashMap::from([(key_attribute.to_owned(), text_value(key))]);
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
            let text = |item: &Item| item.get(attribute).and_then(|value| value.as_s().ok().cloned());
            let value = |item: &Item| Found::Value(text(item).unwrap_or_default());
            return Ok(answer.item().map_or(Found::Absent, value));
        }
        Err(error) => error,
    };
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    // A KCL 2.x fleet does not have the separate table, and its workers need no permission to read it.
    match code {
        Some("ResourceNotFoundException") if table_name != &*table.name => return Ok(Found::Absent),
        Some("AccessDeniedException") if table_name != &*table.name => return Ok(Found::Denied),
        _ => {}
    }
    let failure = table.call("GetItem").failed(&error, &watch).error;
    Err(StoreError::new(failure.kind(), format!("cannot read the mode of a KCL 3.x fleet: {failure}"))
        .caused_by(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_modes_are_accepted() {
        let of = |mode: &str, has_index| judge(&Found::Value(mode.to_owned()), has_index);
        for has_index in [false, true] {
            assert_eq!(of("CLIENT_VERSION_2X", has_index), Verdict::Free);
            let upgrades = of("CLIENT_VERSION_UPGRADE_FROM_2X", has_index);
            assert_eq!(upgrades, Verdict::Warned(Remark::Upgrades));
            for mode in ["CLIENT_VERSION_3X_WITH_ROLLBACK", "CLIENT_VERSION_3X"] {
                assert_eq!(of(mode, has_index), Verdict::Refused(Remark::LeaderAssigns), "{mode}");
            }
            for mode in
                ["", "CLIENT_VERSION_3XX", "CLIENT_VERSION_4X", "CLIENT_VERSION_INIT", "client_version_2x"]
            {
                assert_eq!(of(mode, has_index), Verdict::Refused(Remark::UnknownMode), "{mode}");
            }
        }
        assert_eq!(judge(&Found::Absent, false), Verdict::Free);
        assert_eq!(judge(&Found::Absent, true), Verdict::Refused(Remark::ModeNotFound));
        assert_eq!(judge(&Found::Denied, false), Verdict::Warned(Remark::Denied));
        assert_eq!(judge(&Found::Denied, true), Verdict::Refused(Remark::DeniedWithIndex));
    }
}
