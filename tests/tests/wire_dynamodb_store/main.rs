//! The DynamoDB store over the wire: with an in-process DynamoDB, and with servers that misbehave.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

mod kcl_modes;
mod outcomes;
mod several_streams;

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode as TableBillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use aws_sdk_dynamodb::{Client, Config};
use axum::http::{HeaderMap, StatusCode};
use kinesis_streaming::prelude::{
    Consumer, InMemoryStream, MultiStreamLeaseStore as _, RecordBatch, ShardContext, StreamConfig,
    StreamSource as _, batch_handler,
};
use lease_store::dynamodb::{
    BillingMode, DynamoDbLeaseStore, DynamoDbMultiStreamLeaseStore, MultiStreamKey, TableSettings,
};
use lease_store::{
    Consistency, Lease, LeaseChange, LeaseStore, LeaseWrite, Position, ShardId, StoreError, StoreErrorKind,
    WorkerId, WriteOutcome,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const TABLE: &str = "orders-application";

type Item = HashMap<String, AttributeValue>;

/// A client without credentials.
fn anonymous(endpoint: &str) -> Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        // The default number of attempts, with short waits between them.
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .endpoint_url(endpoint)
}

fn client(endpoint: &str) -> Client {
    let credentials = Credentials::new("key", "secret", None, None, "test");
    Client::from_conf(anonymous(endpoint).credentials_provider(credentials).build())
}

fn client_at(address: SocketAddr) -> Client {
    client(&format!("http://{address}"))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An in-process DynamoDB that lives as long as the test.
async fn dynamodb() -> SocketAddr {
    let (listener, address) = listener().await;
    let database = dynoxide::Database::memory().unwrap();
    tokio::spawn(dynoxide::server::serve_with_shutdown(listener, database, pending()));
    address
}

async fn prepared(client: &Client) -> DynamoDbLeaseStore {
    let store = DynamoDbLeaseStore::new(client.clone(), TABLE).unwrap();
    store.prepare().await.unwrap();
    store
}

/// A client of a server with canned answers, and the requests that the server received.
async fn answering<A>(answer: A) -> (Client, Arc<Mutex<Vec<(String, Value)>>>)
where
    A: Fn(&str, &Value) -> (u16, Value) + Clone + Send + Sync + 'static,
{
    let (listener, address) = listener().await;
    let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let received = seen.clone();
    let handler = async move |headers: HeaderMap, body: String| {
        let target = headers["x-amz-target"].to_str().unwrap();
        let operation = target.rsplit('.').next().unwrap().to_owned();
        let request: Value = serde_json::from_str(&body).unwrap();
        let (status, answer) = answer(&operation, &request);
        received.lock().unwrap().push((operation, request));
        let content_type = [("content-type", "application/x-amz-json-1.0")];
        (StatusCode::from_u16(status).unwrap(), content_type, answer.to_string())
    };
    let router = axum::Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (client_at(address), seen)
}

/// A store on a server that fails every request with this error.
async fn failing(status: u16, code: &'static str) -> (DynamoDbLeaseStore, Arc<Mutex<Vec<(String, Value)>>>) {
    let (client, seen) =
        answering(move |_, _| (status, json!({ "__type": code, "message": "because" }))).await;
    (DynamoDbLeaseStore::new(client, TABLE).unwrap(), seen)
}

fn worker(name: &'static str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn shard(index: usize) -> ShardId {
    ShardId::new(format!("shardId-{index:012}")).unwrap()
}

fn unowned(index: usize) -> Lease {
    Lease::unowned(shard(index), Position::TrimHorizon)
}

fn creation() -> LeaseWrite {
    LeaseWrite::Create(unowned(0))
}

fn update(seen: &Lease, change: LeaseChange) -> LeaseWrite {
    LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change }
}

fn checkpoint(number: u128) -> LeaseChange {
    LeaseChange::Checkpoint { position: Position::after(number.into(), 2), children: BTreeSet::new() }
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}

/// The row that the KCL writes for a new lease, with the given attributes added or replaced.
fn kcl_row(key: &str, others: &[(&str, AttributeValue)]) -> Item {
    let fresh = [
        ("leaseKey", s(key)),
        ("leaseCounter", n("0")),
        ("ownerSwitchesSinceCheckpoint", n("0")),
        ("checkpoint", s("TRIM_HORIZON")),
        ("checkpointSubSequenceNumber", n("0")),
    ];
    let attributes = fresh.iter().chain(others);
    attributes.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

async fn put(client: &Client, item: Item) {
    client.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
}

async fn raw(client: &Client, shard_id: &ShardId) -> Item {
    let answer =
        client.get_item().table_name(TABLE).key("leaseKey", s(shard_id.as_str())).consistent_read(true);
    answer.send().await.unwrap().item.unwrap()
}

async fn applied(store: &DynamoDbLeaseStore, write: &LeaseWrite) -> Lease {
    match store.write(write).await.unwrap() {
        WriteOutcome::Applied { lease: Some(lease) } => lease,
        other => panic!("{write:?}: {other:?}"),
    }
}

async fn unknown(store: &DynamoDbLeaseStore, write: &LeaseWrite) -> StoreError {
    match store.write(write).await.unwrap() {
        WriteOutcome::Unknown(error) => error,
        other => panic!("{write:?}: {other:?}"),
    }
}

/// Asserts the kind of an error and that its message contains all parts.
fn assert_error(error: &StoreError, kind: StoreErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn the_dynamodb_store_conforms() {
    let client = client_at(dynamodb().await);
    let mut tables = 0;
    lease_store::conformance::check_all(|| {
        tables += 1;
        DynamoDbLeaseStore::new(client.clone(), format!("table-{tables}")).unwrap()
    })
    .await;
}

#[tokio::test]
async fn unknown_attributes_survive_every_change() {
    let client = client_at(dynamodb().await);
    let store = prepared(&client).await;
    let others = [
        ("throughputKBps", n("12.345678")),
        ("entityType", s("LEASE")),
        ("note", AttributeValue::M(HashMap::from([("by".to_owned(), s("the night shift"))]))),
    ];
    put(&client, kcl_row("shardId-000000000000", &others)).await;
    let mut lease = store.get(&shard(0)).await.unwrap().unwrap();
    let end = LeaseChange::Checkpoint { position: Position::ShardEnd, children: BTreeSet::from([shard(8)]) };
    let take = LeaseChange::take(worker("a"));
    for change in [take, LeaseChange::Renew, checkpoint(7), end, LeaseChange::Release] {
        lease = applied(&store, &update(&lease, change.clone())).await;
        let row = raw(&client, &shard(0)).await;
        for (name, value) in &others {
            assert_eq!(row.get(*name), Some(value), "{name} after {change:?}");
        }
    }
}

/// All combinations of owner, checkpoint owner and change, each on a row that a KCL worker could have left.
#[tokio::test]
async fn rows_of_the_kcl_change_like_the_model() {
    let client = client_at(dynamodb().await);
    let store = prepared(&client).await;
    let workers = [None, Some("a"), Some("b"), Some("c")];
    let changes = [LeaseChange::Renew, checkpoint(7), LeaseChange::take(worker("b")), LeaseChange::Release];
    for owner in workers {
        for checkpoint_owner in workers {
            for change in &changes {
                let mut others = vec![
                    ("leaseCounter", n("41")),
                    ("ownerSwitchesSinceCheckpoint", n("3")),
                    ("pendingCheckpoint", s("5")),
                    ("pendingCheckpointSubSequenceNumber", n("1")),
                    ("pendingCheckpointState", AttributeValue::B(Blob::new([1, 2]))),
                    ("childShardIds", AttributeValue::Ss(vec!["shardId-000000000009".to_owned()])),
                    ("startingHashKey", s("0")),
                    ("endingHashKey", s("5")),
                ];
                others.extend(owner.map(|owner| ("leaseOwner", s(owner))));
                others.extend(checkpoint_owner.map(|owner| ("checkpointOwner", s(owner))));
                put(&client, kcl_row("shardId-000000000000", &others)).await;
                let seen = store.get(&shard(0)).await.unwrap().unwrap();
                let mut stale = seen.clone();
                stale.checkpoint_owner = Some(worker("d"));
                // A hand-over begins and ends with the same counter. A writer that did not see it must lose.
                let lost = store.write(&update(&stale, change.clone())).await.unwrap();
                assert!(matches!(lost, WriteOutcome::Lost { lease: Some(lease) } if lease == seen));
                let expected = change.apply(&seen);
                let context = format!("{change:?} of {owner:?}, {checkpoint_owner:?}");
                assert_eq!(applied(&store, &update(&seen, change.clone())).await, expected, "{context}");
                assert_eq!(store.get(&shard(0)).await.unwrap(), Some(expected), "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_table_of_another_layout_is_refused() {
    let client = client_at(dynamodb().await);
    let key = |name, key_type| KeySchemaElement::builder().attribute_name(name).key_type(key_type).build();
    let attribute = |name| {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attribute.attribute_type(ScalarAttributeType::S).build().unwrap()
    };
    let request = client.create_table().table_name(TABLE).billing_mode(TableBillingMode::PayPerRequest);
    let request = request.key_schema(key("leaseKey", KeyType::Hash).unwrap());
    let request = request.key_schema(key("at", KeyType::Range).unwrap());
    let request = request.attribute_definitions(attribute("leaseKey")).attribute_definitions(attribute("at"));
    request.send().await.unwrap();
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    let error = store.prepare().await.unwrap_err();
    assert_error(&error, StoreErrorKind::Invalid, &[TABLE, "RANGE \"at\"", "another table name"]);
}

#[tokio::test]
async fn many_stores_prepare_one_absent_table() {
    let client = client_at(dynamodb().await);
    let preparing: Vec<_> = (0..16)
        .map(|_| {
            let store = DynamoDbLeaseStore::new(client.clone(), TABLE).unwrap();
            tokio::spawn(async move { store.prepare().await })
        })
        .collect();
    for prepared in preparing {
        prepared.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_table_is_created_as_asked() {
    let client = client_at(dynamodb().await);
    let units = |units| NonZeroU32::new(units).unwrap();
    let store = DynamoDbLeaseStore::new(client.clone(), TABLE)
        .unwrap()
        .with_billing_mode(BillingMode::Provisioned {
            read_capacity_units: units(11),
            write_capacity_units: units(12),
        })
        .with_deletion_protection(true);
    store.prepare().await.unwrap();
    let table = client.describe_table().table_name(TABLE).send().await.unwrap().table.unwrap();
    let throughput = table.provisioned_throughput().unwrap();
    assert_eq!(throughput.read_capacity_units(), Some(11));
    assert_eq!(throughput.write_capacity_units(), Some(12));
    assert_eq!(table.deletion_protection_enabled(), Some(true));
}

#[tokio::test]
async fn new_table_gets_its_tags_and_recovery() {
    let is_created = Arc::new(Mutex::new(false));
    let (client, seen) = answering(move |operation, _| {
        let was_created = std::mem::replace(&mut *is_created.lock().unwrap(), true);
        let key = json!([{ "AttributeName": "leaseKey", "KeyType": "HASH" }]);
        let attribute = json!([{ "AttributeName": "leaseKey", "AttributeType": "S" }]);
        match operation {
            "DescribeTable" if !was_created => (400, json!({ "__type": "ResourceNotFoundException" })),
            "UpdateContinuousBackups" => (400, json!({ "__type": "AccessDeniedException" })),
            _ => (200, json!({ "Table": { "TableStatus": "ACTIVE", "KeySchema": key, "AttributeDefinitions": attribute } })),
        }
    })
    .await;
    let mut settings = TableSettings::default();
    settings.point_in_time_recovery = true;
    settings.tags.insert("team".to_owned(), "orders".to_owned());
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap().with_table_settings(settings);
    store.prepare().await.unwrap();
    store.prepare().await.unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.retain(|(operation, _)| operation != "GetItem");
    let operations: Vec<&str> = seen.iter().map(|(operation, _)| operation.as_str()).collect();
    let expected = "DescribeTable CreateTable DescribeTable UpdateContinuousBackups DescribeTable";
    assert_eq!(operations.join(" "), expected, "an existing table is left as it is");
    assert_eq!(seen[1].1["Tags"], json!([{ "Key": "team", "Value": "orders" }]));
    let enabled = json!({ "PointInTimeRecoveryEnabled": true });
    assert_eq!(seen[3].1["PointInTimeRecoverySpecification"], enabled);
}

#[tokio::test]
async fn the_wait_for_a_table_is_bounded() {
    let (client, seen) = answering(|operation, _| match operation {
        "CreateTable" => (400, json!({ "__type": "ResourceInUseException" })),
        _ => (200, json!({ "Table": { "TableStatus": "CREATING" } })),
    })
    .await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    let error = store.with_active_wait_limit(Duration::from_millis(20)).prepare().await.unwrap_err();
    assert_error(&error, StoreErrorKind::Unavailable, &[TABLE, "is CREATING", "20ms"]);
    // On a slow machine the first DescribeTable call takes the whole wait.
    let operations = seen.lock().unwrap().len();
    assert!(operations <= 2, "{operations} operations instead of one before and one after the wait");
}

#[tokio::test]
async fn a_malformed_row_leaves_the_others_usable() {
    let client = client_at(dynamodb().await);
    let store = prepared(&client).await;
    for index in [2, 0] {
        applied(&store, &LeaseWrite::Create(unowned(index))).await;
    }
    put(&client, kcl_row("shardId-000000000001", &[("leaseCounter", s("seven"))])).await;
    let multi_stream = "123456789012:orders:1700000000:shardId-000000000003";
    put(&client, kcl_row(multi_stream, &[("streamName", s("123456789012:orders:1700000000"))])).await;
    put(&client, kcl_row("Leader", &[("entityType", s("LEADER"))])).await;

    let listing = store.list(Consistency::Strong).await.unwrap();
    assert_eq!(listing.leases, [unowned(0), unowned(2)]);
    let malformed: Vec<_> =
        listing.malformed.iter().map(|row| (row.key.as_str(), row.attribute.as_str())).collect();
    assert_eq!(malformed, [(multi_stream, "streamName"), ("shardId-000000000001", "leaseCounter")]);

    let named = [TABLE, "shardId-000000000001", "leaseCounter"];
    assert_error(&store.get(&shard(1)).await.unwrap_err(), StoreErrorKind::Invalid, &named);
    let refused = store.write(&LeaseWrite::Create(unowned(1))).await.unwrap_err();
    assert_error(&refused, StoreErrorKind::Invalid, &named);
    let leader = store.get(&ShardId::new("Leader").unwrap()).await.unwrap_err();
    assert_error(&leader, StoreErrorKind::Invalid, &["Leader", "entityType"]);
    applied(&store, &update(&unowned(2), LeaseChange::take(worker("a")))).await;
}

/// The write was applied, so an error would be wrong; the row is malformed, so there is no lease to return.
#[tokio::test]
async fn an_applied_write_to_a_malformed_row_is_unknown() {
    let client = client_at(dynamodb().await);
    let store = prepared(&client).await;
    put(&client, kcl_row("shardId-000000000000", &[("startingHashKey", s("x"))])).await;
    let error = unknown(&store, &update(&unowned(0), LeaseChange::Renew)).await;
    assert_error(&error, StoreErrorKind::Invalid, &[TABLE, "startingHashKey"]);
}

#[tokio::test]
async fn the_error_of_an_absent_table_names_its_location() {
    let address = dynamodb().await;
    let store = DynamoDbLeaseStore::new(client_at(address), TABLE).unwrap();
    let location = [TABLE, "eu-west-1", &address.to_string(), "prepare()"];
    let listed = store.list(Consistency::Eventual).await.unwrap_err();
    assert_error(&listed, StoreErrorKind::NotFound, &location);
    assert_error(&store.get(&shard(0)).await.unwrap_err(), StoreErrorKind::NotFound, &location);
    for write in [
        creation(),
        update(&unowned(0), LeaseChange::Renew),
        LeaseWrite::Delete { shard_id: shard(0), expected: unowned(0).version() },
    ] {
        assert_error(&store.write(&write).await.unwrap_err(), StoreErrorKind::NotFound, &location);
    }
}

/// Not every server returns the row that made a condition fail.
#[tokio::test]
async fn a_missing_row_in_a_failed_condition_is_read() {
    let (client, seen) = answering(|operation, _| match operation {
        "GetItem" => {
            let row = json!({
                "leaseKey": { "S": "shardId-000000000000" },
                "leaseCounter": { "N": "8" },
                "leaseOwner": { "S": "b" },
                "ownerSwitchesSinceCheckpoint": { "N": "0" },
                "checkpoint": { "S": "TRIM_HORIZON" },
            });
            (200, json!({ "Item": row }))
        }
        _ => (400, json!({ "__type": "ConditionalCheckFailedException", "message": "no" })),
    })
    .await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    for write in [
        creation(),
        update(&unowned(0), LeaseChange::take(worker("a"))),
        LeaseWrite::Delete { shard_id: shard(0), expected: unowned(0).version() },
    ] {
        seen.lock().unwrap().clear();
        let WriteOutcome::Lost { lease: Some(lease) } = store.write(&write).await.unwrap() else {
            panic!("{write:?}")
        };
        assert_eq!((lease.owner, lease.counter), (Some(worker("b")), 8));
        let calls = seen.lock().unwrap();
        let [_, (operation, request)] = calls.as_slice() else { panic!("{calls:?}") };
        assert_eq!((operation.as_str(), &request["ConsistentRead"]), ("GetItem", &json!(true)));
    }
}

#[tokio::test]
async fn a_listing_follows_the_pages() {
    let page = |key: &str, last: Option<&str>| {
        let row = json!({
            "leaseKey": { "S": key },
            "leaseCounter": { "N": "0" },
            "ownerSwitchesSinceCheckpoint": { "N": "0" },
            "checkpoint": { "S": "TRIM_HORIZON" },
        });
        let mut page = json!({ "Items": [row] });
        if let Some(last) = last {
            page["LastEvaluatedKey"] = json!({ "leaseKey": { "S": last } });
        }
        (200, page)
    };
    let (client, seen) =
        answering(move |_, request| match request["ExclusiveStartKey"]["leaseKey"]["S"].as_str() {
            None => page("shardId-000000000002", Some("first")),
            Some("first") => page("shardId-000000000001", Some("second")),
            _ => page("shardId-000000000000", None),
        })
        .await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    for (consistency, consistent_read) in [(Consistency::Strong, true), (Consistency::Eventual, false)] {
        seen.lock().unwrap().clear();
        let listing = store.list(consistency).await.unwrap();
        assert_eq!(listing.leases, [unowned(0), unowned(1), unowned(2)]);
        let calls = seen.lock().unwrap();
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|(_, request)| request["ConsistentRead"] == json!(consistent_read)));
    }
}

#[tokio::test]
async fn a_scan_with_repeated_pages_ends_with_an_error() {
    let (client, seen) = answering(|_, request| {
        let next = match request["ExclusiveStartKey"]["leaseKey"]["S"].as_str() {
            Some("first") => "second",
            _ => "first",
        };
        (200, json!({ "Items": [], "LastEvaluatedKey": { "leaseKey": { "S": next } } }))
    })
    .await;
    let store = DynamoDbLeaseStore::new(client, TABLE).unwrap();
    let error = store.list(Consistency::Eventual).await.unwrap_err();
    assert_error(&error, StoreErrorKind::Unavailable, &[TABLE, "first"]);
    assert_eq!(seen.lock().unwrap().len(), 3);
}
