//! What DynamoDB reports about a table, for programs that check it. Nothing is created or changed.

use std::num::NonZeroU32;

use aws_sdk_dynamodb::types::{BillingMode as TableBillingMode, TableDescription};

use super::kcl_mode;
use super::store::DynamoDbLeaseStore;
use super::table;
use crate::error::{StoreError, StoreErrorKind};
use crate::table_settings::BillingMode;

/// The description of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableReport {
    /// Its status in the service's words, such as `ACTIVE`.
    pub status: String,
    /// Why it cannot be a lease table, with the remedy; `None`: its key is that of the KCL.
    pub layout_fault: Option<String>,
    /// How it is billed; `None`: not reported.
    pub billing_mode: Option<BillingMode>,
    /// Whether DynamoDB refuses to delete it.
    pub deletion_protection: bool,
    /// Whether it has the index that KCL 3.x adds.
    pub has_kcl_index: bool,
}

impl DynamoDbLeaseStore {
    /// Describes the table.
    ///
    /// # Errors
    /// `NotFound` without a table; `Denied` without `dynamodb:DescribeTable`; `Throttled` or `Unavailable`.
    pub async fn table_report(&self) -> Result<TableReport, StoreError> {
        let described = table::describe(self.table()).await?.ok_or_else(|| {
            let name = self.table_name();
            StoreError::new(
                StoreErrorKind::NotFound,
                format!("the table {name:?} does not exist; check its name and the region"),
            )
        })?;
        Ok(report(self.table_name(), &described))
    }
}

fn report(table_name: &str, described: &TableDescription) -> TableReport {
    TableReport {
        status: described.table_status().map_or("UNKNOWN", |status| status.as_str()).to_owned(),
        layout_fault: table::check_layout(table_name, described).err().map(|error| error.to_string()),
        billing_mode: billing_mode(described),
        deletion_protection: described.deletion_protection_enabled().unwrap_or(false),
        has_kcl_index: kcl_mode::has_index(described),
    }
}

/// A table that was never on demand has no summary of its billing mode.
fn billing_mode(described: &TableDescription) -> Option<BillingMode> {
    let mode = described.billing_mode_summary().and_then(|summary| summary.billing_mode());
    if mode == Some(&TableBillingMode::PayPerRequest) {
        return Some(BillingMode::OnDemand);
    }
    let throughput = described.provisioned_throughput()?;
    let units = |units: Option<i64>| NonZeroU32::new(u32::try_from(units?).ok()?);
    Some(BillingMode::Provisioned {
        read_capacity_units: units(throughput.read_capacity_units())?,
        write_capacity_units: units(throughput.write_capacity_units())?,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingModeSummary, KeySchemaElement, KeyType, ProvisionedThroughputDescription,
        ScalarAttributeType, TableStatus,
    };

    use super::*;

    fn described(key: &str) -> TableDescription {
        let key_type = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
        let attribute =
            AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
        TableDescription::builder()
            .table_status(TableStatus::Active)
            .key_schema(key_type.build().unwrap())
            .attribute_definitions(attribute.build().unwrap())
            .build()
    }

    #[test]
    fn layout_and_billing_are_reported() {
        let mut table = described("leaseKey");
        assert_eq!(report("orders", &table).layout_fault, None);
        assert_eq!(report("orders", &table).billing_mode, None);
        let throughput = |units| {
            ProvisionedThroughputDescription::builder().read_capacity_units(units).write_capacity_units(units)
        };
        table.provisioned_throughput = Some(throughput(7).build());
        let seven = NonZeroU32::new(7).unwrap();
        let provisioned =
            BillingMode::Provisioned { read_capacity_units: seven, write_capacity_units: seven };
        assert_eq!(report("orders", &table).billing_mode, Some(provisioned));
        // A table on demand reports no units.
        table.provisioned_throughput = Some(throughput(0).build());
        let on_demand = BillingModeSummary::builder().billing_mode(TableBillingMode::PayPerRequest);
        table.billing_mode_summary = Some(on_demand.build());
        assert_eq!(report("orders", &table).billing_mode, Some(BillingMode::OnDemand));
        let fault = report("orders", &described("id")).layout_fault.unwrap();
        assert!(fault.contains("is not a lease table"), "{fault}");
    }
}
