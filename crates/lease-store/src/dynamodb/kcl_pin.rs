//! Pins the mode of a KCL 3.x fleet to 2.x, in which every worker takes leases: one conditional write of the item with the mode.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;

use super::attributes::text_value;
use super::error::CallWatch;
use super::kcl_mode::{self, CLIENT_VERSION, MIGRATION_KEY, TAKES};
use super::store::DynamoDbLeaseStore;
use crate::error::{StoreError, StoreErrorKind};

/// S, who changed the mode last.
const MODIFIED_BY: &str = "mb";

/// N, when the mode was changed last, in milliseconds since 1970.
const MODIFIED_AT: &str = "mts";

/// The mode of a KCL 3.x fleet, and where the fleet stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KclFleetMode {
    /// The mode in the words of the KCL, such as `CLIENT_VERSION_3X`.
    pub mode: String,
    /// The table that contains it.
    pub table: String,
    /// The attribute that is the key of that table.
    key_attribute: &'static str,
}

impl KclFleetMode {
    /// The mode in which every worker takes leases until an operator changes it.
    pub const PINNED: &'static str = TAKES;

    /// Whether every worker takes leases, and goes on to do so.
    pub fn is_pinned(&self) -> bool {
        self.mode == TAKES
    }
}

impl DynamoDbLeaseStore {
    /// The mode that a KCL 3.x fleet has stored; `None`: it has stored none, or there is no such fleet.
    ///
    /// # Errors
    /// `Denied` when the table of the mode may not be read; the errors of reading the lease table.
    pub async fn kcl_fleet_mode(&self) -> Result<Option<KclFleetMode>, StoreError> {
        let table = self.table();
        let place = kcl_mode::locate(table).await?;
        match place.found {
            kcl_mode::Found::Absent => Ok(None),
            kcl_mode::Found::Denied => Err(StoreError::new(
                StoreErrorKind::Denied,
                format!(
                    "the table {:?} may not be read, in which a KCL 3.x fleet stores its mode; allow dynamodb:GetItem on it",
                    place.table
                ),
            )),
            kcl_mode::Found::Value(mode) => {
                Ok(Some(KclFleetMode { mode, table: place.table, key_attribute: place.key_attribute }))
            }
        }
    }

    /// Sets the mode to 2.x, as the migration tool of the KCL does, if it is still the seen one. `by` and `at_millis` are recorded
    /// for people. No worker of the fleet may run.
    ///
    /// # Errors
    /// `Invalid` when the mode has changed since; `Denied` without `dynamodb:UpdateItem`; `Throttled` or `Unavailable`, after which
    /// the mode may or may not be set.
    pub async fn pin_kcl_fleet_mode(
        &self,
        seen: &KclFleetMode,
        by: &str,
        at_millis: u64,
    ) -> Result<(), StoreError> {
        let watch = CallWatch::default();
        let key = HashMap::from([(seen.key_attribute.to_owned(), text_value(MIGRATION_KEY))]);
        let answer = self
            .table()
            .client
            .update_item()
            .table_name(&seen.table)
            .set_key(Some(key))
            .condition_expression("#cv = :seen")
            .update_expression("SET #cv = :pinned, #mb = :by, #mts = :at")
            .expression_attribute_names("#cv", CLIENT_VERSION)
            .expression_attribute_names("#mb", MODIFIED_BY)
            .expression_attribute_names("#mts", MODIFIED_AT)
            .expression_attribute_values(":seen", text_value(&seen.mode))
            .expression_attribute_values(":pinned", text_value(TAKES))
            .expression_attribute_values(":by", text_value(by))
            .expression_attribute_values(":at", AttributeValue::N(at_millis.to_string()))
            .customize()
            .interceptor(watch.clone())
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) {
            // An earlier attempt may have been applied.
            if self.kcl_fleet_mode().await?.is_some_and(|mode| mode.is_pinned()) {
                return Ok(());
            }
            return Err(StoreError::invalid(format!(
                "{MIGRATION_KEY} in {:?} is no longer {}, so a worker of the KCL runs; stop it and look again",
                seen.table, seen.mode
            )));
        }
        Err(self.table().call("UpdateItem").failed(&error, &watch).error)
    }
}
