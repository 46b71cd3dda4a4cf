//! Tables of KCL 3.x fleets, whose mode decides who assigns the leases.

use super::*;

/// Creates a table with the item in which KCL 3.x stores its mode.
async fn with_mode(client: &Client, table_name: &str, key: &str, mode: &str) {
    let request = client
        .create_table()
        .table_name(table_name)
        .billing_mode(TableBillingMode::PayPerRequest)
        .key_schema(KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash).build().unwrap())
        .attribute_definitions(
            AttributeDefinition::builder()
                .attribute_name(key)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap(),
        );
    request.send().await.unwrap();
    let item = [(key, "Migration3.0"), ("cv", mode)].map(|(name, value)| (name.to_owned(), s(value)));
    client.put_item().table_name(table_name).set_item(Some(item.into())).send().await.unwrap();
}

#[tokio::test]
async fn a_kcl_fleet_in_3x_mode_is_refused() {
    for (table, key) in [(TABLE.to_owned(), "leaseKey"), (format!("{TABLE}-CoordinatorState"), "key")] {
        for (mode, is_refused) in [
            ("CLIENT_VERSION_3X", true),
            ("CLIENT_VERSION_3X_WITH_ROLLBACK", true),
            ("CLIENT_VERSION_2X", false),
            ("CLIENT_VERSION_UPGRADE_FROM_2X", false),
        ] {
            let client = client_at(dynamodb().await);
            with_mode(&client, &table, key, mode).await;
            let prepared = DynamoDbLeaseStore::new(client, TABLE).unwrap().prepare().await;
            assert_eq!(prepared.is_err(), is_refused, "{table}: {mode}");
            if let Err(error) = prepared {
                let ways_out = ["COMPATIBLE_WITH_2X", "another table", mode, TABLE];
                assert_error(&error, StoreErrorKind::Invalid, &ways_out);
            }
        }
    }
}

async fn set_mode(client: &Client, table_name: &str, item: [(&str, &str); 2]) {
    let item = item.map(|(name, value)| (name.to_owned(), s(value)));
    client.put_item().table_name(table_name).set_item(Some(item.into())).send().await.unwrap();
}

#[tokio::test]
async fn the_mode_is_read_from_the_table_of_the_application() {
    let client = client_at(dynamodb().await);
    with_mode(&client, "orders-CoordinatorState", "key", "CLIENT_VERSION_3X_WITH_ROLLBACK").await;
    // The lease table has another name than the application, as with the KCL's `tableName`.
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    store.prepare().await.unwrap();
    let error = store.with_application_name("orders").prepare().await.unwrap_err();
    let ways_out =
        [TABLE, "orders-CoordinatorState", "KclMigrationTool.py in rollback mode", "delete the item"];
    assert_error(&error, StoreErrorKind::Invalid, &ways_out);
}

#[tokio::test]
async fn a_changed_mode_is_found_while_running() {
    let client = client_at(dynamodb().await);
    let coordinator = format!("{TABLE}-CoordinatorState");
    with_mode(&client, &coordinator, "key", "CLIENT_VERSION_2X").await;
    let store = DynamoDbLeaseStore::new(client.clone(), TABLE).unwrap();
    store.prepare().await.unwrap();
    assert_eq!(store.check_fleet_mode().await.unwrap(), None);
    let set = async |mode| set_mode(&client, &coordinator, [("key", "Migration3.0"), ("cv", mode)]).await;
    set("CLIENT_VERSION_UPGRADE_FROM_2X").await;
    let warning = store.check_fleet_mode().await.unwrap().unwrap();
    assert!(warning.contains("KclMigrationTool.py") && warning.contains("ten minutes"), "{warning}");
    for mode in ["CLIENT_VERSION_3X_WITH_ROLLBACK", "CLIENT_VERSION_3X", "CLIENT_VERSION_4X"] {
        set(mode).await;
        let error = store.check_fleet_mode().await.unwrap_err();
        assert_error(
            &error,
            StoreErrorKind::Invalid,
            &[mode, TABLE, "another table", "no KCL worker is left"],
        );
    }
    // The fleet moved its items into the lease table, and was rolled back there.
    set_mode(
        &client,
        &coordinator,
        [("key", "TableMigration3.5"), ("tm", "TABLE_MIGRATION_STATUS_COMPLETE")],
    )
    .await;
    set_mode(&client, TABLE, [("leaseKey", "Migration3.0"), ("cv", "CLIENT_VERSION_2X")]).await;
    assert_eq!(store.check_fleet_mode().await.unwrap(), None);
}

/// A server with a lease table, with or without the index of KCL 3.x, and this answer to reads of the separate table.
async fn mode_of(has_index: bool, status: u16, separate: Value) -> Result<Option<String>, StoreError> {
    let (client, _) = answering(move |operation, request| {
        let index = json!([{ "IndexName": "LeaseOwnerToLeaseKeyIndex", "IndexStatus": "ACTIVE" }]);
        match operation {
            "DescribeTable" => {
                let key = json!([{ "AttributeName": "leaseKey", "KeyType": "HASH" }]);
                let attribute = json!([{ "AttributeName": "leaseKey", "AttributeType": "S" }]);
                let mut table =
                    json!({ "TableStatus": "ACTIVE", "KeySchema": key, "AttributeDefinitions": attribute });
                if has_index {
                    table["GlobalSecondaryIndexes"] = index;
                }
                (200, json!({ "Table": table }))
            }
            _ if request["TableName"] == "orders-CoordinatorState" => (status, separate.clone()),
            _ => (200, json!({})),
        }
    })
    .await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap().with_application_name("orders");
    let prepared = store.prepare().await;
    let found = store.check_fleet_mode().await;
    assert_eq!(prepared.is_err(), found.is_err(), "{prepared:?}, {found:?}");
    found
}

#[tokio::test]
async fn an_index_of_the_kcl_without_a_mode_is_refused() {
    let absent = || json!({ "__type": "ResourceNotFoundException" });
    assert_eq!(mode_of(false, 400, absent()).await.unwrap(), None);
    let error = mode_of(true, 400, absent()).await.unwrap_err();
    let parts = ["LeaseOwnerToLeaseKeyIndex", "orders-CoordinatorState", "set the application name", TABLE];
    assert_error(&error, StoreErrorKind::Invalid, &parts);
    let pinned = json!({ "Item": { "key": { "S": "Migration3.0" }, "cv": { "S": "CLIENT_VERSION_2X" } } });
    assert_eq!(mode_of(true, 200, pinned).await.unwrap(), None);
}

#[tokio::test]
async fn a_denied_read_of_the_mode_names_the_permission() {
    let denied = || json!({ "__type": "AccessDeniedException", "message": "no" });
    let permission = ["dynamodb:GetItem", "orders-CoordinatorState"];
    let warning = mode_of(false, 400, denied()).await.unwrap().unwrap();
    assert!(permission.iter().all(|part| warning.contains(part)), "{warning}");
    let error = mode_of(true, 400, denied()).await.unwrap_err();
    assert_error(&error, StoreErrorKind::Invalid, &permission);
}
