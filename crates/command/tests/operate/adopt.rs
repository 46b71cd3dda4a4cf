//! `adopt`: a table of the KCL becomes one that the workers of this library accept.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use lease_store::{LeaseStore as _, Position, StoreErrorKind};

use crate::bed::{APPLICATION, Bed, lease_after};

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The item with the mode, as KCL 3.5 writes it into the lease table.
fn mode(mode: &str) -> Vec<(&'static str, AttributeValue)> {
    vec![
        ("leaseKey", s("Migration3.0")),
        ("cv", s(mode)),
        ("mb", s("worker-7")),
        ("mts", n(1_796_000_000_000)),
        ("entityType", s("CLIENT_VERSION_MIGRATION")),
    ]
}

async fn stored_mode(bed: &Bed) -> HashMap<String, AttributeValue> {
    let found = bed.endpoints().dynamodb_client().get_item().table_name(APPLICATION);
    found.key("leaseKey", s("Migration3.0")).consistent_read(true).send().await.unwrap().item.unwrap()
}

/// A row that a worker of the KCL 3.x leaves when it ends.
fn row_of_java(shard: &str, checkpoint: &str) -> Vec<(&'static str, AttributeValue)> {
    vec![
        ("leaseKey", s(shard)),
        ("leaseCounter", n(40)),
        ("ownerSwitchesSinceCheckpoint", n(0)),
        ("checkpoint", s(checkpoint)),
        ("checkpointSubSequenceNumber", n(0)),
        ("entityType", s("LEASE")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_a_fleet_in_3x_mode_is_adopted() {
    let bed = Bed::start().await;
    bed.put_item(&mode("CLIENT_VERSION_3X")).await;
    bed.put_item(&row_of_java("shardId-000000000000", "LATEST")).await;
    bed.put_item(&row_of_java("shardId-000000000001", "LATEST")).await;
    bed.put_records(0..5).await;
    let refused = bed.store(APPLICATION).prepare().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid, "our workers refuse the table");
    let shown = bed.run(&["adopt", APPLICATION]).await;
    shown.assert(0, "CLIENT_VERSION_3X -> CLIENT_VERSION_2X");
    shown.assert(0, "nothing was changed; add --execute");
    assert_eq!(stored_mode(&bed).await["cv"], s("CLIENT_VERSION_3X"));
    bed.run(&["adopt", APPLICATION, "--execute"]).await.assert(0, "2 done");
    let stored = stored_mode(&bed).await;
    assert_eq!((&stored["cv"], &stored["mb"]), (&s("CLIENT_VERSION_2X"), &s("kinesis-streaming-adopt")));
    assert_eq!(bed.row(0).await.checkpoint, Position::Latest);
    assert!(bed.row(0).await.initial_time_millis.is_some());
    // Nothing that arrived after the adoption is skipped, however late the first worker starts.
    bed.put_records(5..15).await;
    let worker = bed.start_worker("w1");
    worker.wait_for(10, 1).await;
    worker.stop().await;
    bed.run(&["adopt", APPLICATION, "--execute"]).await.assert(0, "0 rows change");
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_disturbs_no_live_worker() {
    let bed = Bed::start().await;
    let worker = bed.start_worker("w1");
    bed.put_records(0..10).await;
    worker.wait_for(10, 1).await;
    bed.run(&["adopt", APPLICATION, "--execute"]).await.assert(1, "worker w1 renews");
    worker.stop().await;
    // A worker of KCL 3.x that owns no lease reports about itself, with the time of its clock.
    let report =
        [("leaseKey", s("idle")), ("entityType", s("WORKER_METRIC_STATS")), ("lut", n(now_seconds()))];
    bed.put_item(&report).await;
    bed.run(&["adopt", APPLICATION, "--execute"]).await.assert(1, "worker idle reported about itself");
}

/// The wall clock, as workers of the KCL report it.
#[allow(clippy::disallowed_methods)]
fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_report_in_their_own_table_are_seen() {
    let bed = Bed::start().await;
    bed.put_item(&row_of_java("shardId-000000000000", "TRIM_HORIZON")).await;
    let mode = [("key", s("Migration3.0")), ("cv", s("CLIENT_VERSION_3X")), ("mb", s("idle")), ("mts", n(7))];
    bed.endpoints().put_into_new_table("orders-CoordinatorState", "key", &mode).await;
    let report = |seconds| [("wid", s("idle")), ("lut", n(seconds))];
    bed.endpoints().put_into_new_table("orders-WorkerMetricStats", "wid", &report(now_seconds())).await;
    bed.run(&["describe", APPLICATION, "--json"]).await.assert(0, "\"idle\"");
    let refused = bed.run(&["adopt", APPLICATION, "--execute"]).await;
    refused.assert(1, "worker idle reported about itself");
    let gone = report(now_seconds() - 3_600);
    let gone = gone.map(|(name, value)| (name.to_owned(), value));
    let dynamodb = bed.endpoints().dynamodb_client();
    let put = dynamodb.put_item().table_name("orders-WorkerMetricStats").set_item(Some(gone.into()));
    put.send().await.unwrap();
    bed.run(&["adopt", APPLICATION, "--execute"])
        .await
        .assert(0, "CLIENT_VERSION_3X -> CLIENT_VERSION_2X, done");
    let shown = bed.run(&["delete", APPLICATION]).await;
    for name in ["orders-CoordinatorState", "orders-WorkerMetricStats"] {
        shown.assert(0, &format!("the table {name:?} of a KCL 3.0 to 3.4 fleet stays"));
    }
}

#[tokio::test]
async fn what_is_no_lease_table_is_not_adopted() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_item(&[("leaseKey", s("shardId-000000000001")), ("checkpoint", s("no number"))]).await;
    bed.run(&["adopt", APPLICATION, "--execute"]).await.assert(1, "cannot be read");
    bed.run(&["adopt", "no-such-table", "--execute"]).await.assert(3, "no-such-table");
    assert_eq!(bed.row(0).await, lease_after(0, 4711));
}
