//! The checks of DynamoDB, on a table that is created for them and deleted afterwards.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TableStatus,
};
use tokio::time::{Instant, sleep};

use super::assumption::Findings;

/// How long a new table may take to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(120);

/// The wait between two looks at the table.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// All checks of this file.
pub(super) const IDS: [&str; 4] = ["table.active", "table.condition", "table.old-row", "table.scan"];

/// The key and the counter of the row.
const KEY: &str = "leaseKey";
const COUNTER: &str = "leaseCounter";
const ROW: &str = "aws-check";

/// The code of a false condition.
const FALSE_CONDITION: &str = "ConditionalCheckFailedException";

fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> String {
    error.code().unwrap_or("no answer").to_owned()
}

/// Creates the table. `false`: it exists or cannot be created, and must not be touched.
pub(super) async fn create(client: &Client, table: &str, findings: &mut Findings) -> bool {
    let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash).build();
    let attribute =
        AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S).build();
    let (Ok(key), Ok(attribute)) = (key, attribute) else { return false };
    let request = client.create_table().table_name(table).billing_mode(BillingMode::PayPerRequest);
    let created = request.key_schema(key).attribute_definitions(attribute).send().await;
    if let Err(error) = created {
        findings.skip(&IDS, &format!("the table cannot be created: {}", code(&error)));
        return false;
    }
    true
}

/// Waits for the new table, and judges conditions on it.
pub(super) async fn check(client: &Client, table: &str, findings: &mut Findings) {
    if !wait_until_active(client, table, findings).await {
        return;
    }
    let key = || AttributeValue::S(ROW.to_owned());
    let counter = |counter: u32| AttributeValue::N(counter.to_string());
    let put = |with: u32| {
        let request = client.put_item().table_name(table).item(KEY, key()).item(COUNTER, counter(with));
        request
            .condition_expression("attribute_not_exists(#key)")
            .expression_attribute_names("#key", KEY)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    };
    if let Err(error) = put(1).send().await {
        findings.check("table.condition", false, format!("a true condition was refused: {}", code(&error)));
        return;
    }
    let Err(refused) = put(2).send().await else {
        findings.check("table.condition", false, "a put with a false condition was carried out");
        return;
    };
    let old_row = refused.as_service_error().and_then(|error| match error {
        aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(refusal) => {
            refusal.item().and_then(|row| row.get(COUNTER)).cloned()
        }
        _ => None,
    });
    let has_old_row = old_row == Some(counter(1));
    findings.check(
        "table.old-row",
        has_old_row,
        if has_old_row { "with the row" } else { "without the row" },
    );

    let update = |seen: u32, to: u32| {
        let request = client.update_item().table_name(table).key(KEY, key());
        request
            .update_expression("SET #counter = :to")
            .condition_expression("#counter = :seen")
            .expression_attribute_names("#counter", COUNTER)
            .expression_attribute_values(":to", counter(to))
            .expression_attribute_values(":seen", counter(seen))
    };
    let (stale, fresh) = (update(9, 5).send().await, update(1, 3).send().await);
    let stale = stale.map_or_else(|error| code(&error), |_| "carried out".to_owned());
    let is_refused = code(&refused) == FALSE_CONDITION && stale == FALSE_CONDITION;
    let is_applied = fresh.is_ok();
    let scanned = client.scan().table_name(table).consistent_read(true).send().await;
    let rows = scanned.ok().and_then(|answer| answer.items).unwrap_or_default();
    let counters: Vec<_> = rows.iter().filter_map(|row| row.get(COUNTER)).collect();
    findings.check(
        "table.condition",
        is_refused && is_applied && !counters.contains(&&counter(5)),
        format!("false conditions: {} and {stale}", code(&refused)),
    );
    findings.check("table.scan", counters == [&counter(3)], format!("{} rows", rows.len()));
}

async fn wait_until_active(client: &Client, table: &str, findings: &mut Findings) -> bool {
    let started_at = Instant::now();
    while started_at.elapsed() < ACTIVE_LIMIT {
        let described = client.describe_table().table_name(table).send().await;
        let status = described.ok().and_then(|answer| answer.table?.table_status);
        if status == Some(TableStatus::Active) {
            let seen = format!("active after {} s", started_at.elapsed().as_secs());
            findings.check("table.active", true, seen);
            return true;
        }
        sleep(BETWEEN_LOOKS).await;
    }
    findings.check("table.active", false, format!("not active after {} s", ACTIVE_LIMIT.as_secs()));
    false
}

/// Deletes the table that was created here. Returns the fault.
pub(super) async fn delete(client: &Client, table: &str) -> Result<(), String> {
    client.delete_table().table_name(table).send().await.map(drop).map_err(|error| code(&error))
}
