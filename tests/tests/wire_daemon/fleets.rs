//! Several daemons on one lease table: they share, hand over and take over.

use std::collections::{BTreeMap, BTreeSet};

use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::{Scene, is_running};
use end_to_end_tests::interop::lease_rows::LeaseRows;

/// For the test that waits for a fail-over.
const SHORT_FAILOVER: &str = "failoverTimeMillis = 3000";

/// How many leases each worker holds.
fn loads(rows: &LeaseRows) -> BTreeMap<&str, usize> {
    let mut loads = BTreeMap::new();
    for owner in rows.values().filter_map(|row| row.owner.as_deref()) {
        *loads.entry(owner).or_default() += 1;
    }
    loads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_daemon_is_taken_over_with_nothing_missing() {
    let mut scene = Scene::new("killed", 2).await;
    scene.put(1000).await;
    let mut killed = scene.start("killed", "checkpoint-always", SHORT_FAILOVER);
    killed.wait_for("records flow", 200, |event| matches!(event, Event::Record { .. })).await;
    scene.put(1000).await;
    killed.process.kill().await.unwrap();
    let children: BTreeSet<u32> = killed.entries().into_iter().map(|entry| entry.process).collect();
    let mut other = scene.start("other", "checkpoint-always", SHORT_FAILOVER);
    scene.put(500).await;
    scene.wait_for_all().await;
    assert_eq!(other.terminate().await, Some(0), "{}", other.log());
    assert!(children.iter().all(|child| !is_running(*child)), "they exit with the end of their input");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_share_the_leases_and_lose_no_record() {
    let mut scene = Scene::new("fleet", 4).await;
    scene.put(500).await;
    let mut first = scene.start("first", "checkpoint-always", "maxLeasesToStealAtOneTime = 2");
    scene.wait_for_rows("the first holds all", |rows| loads(rows) == BTreeMap::from([("first", 4)])).await;
    let mut second = scene.start("second", "checkpoint-always", "maxLeasesToStealAtOneTime = 2");
    scene.put(500).await;
    let is_even = |rows: &LeaseRows| loads(rows) == BTreeMap::from([("first", 2), ("second", 2)]);
    scene.wait_for_rows("both hold two", is_even).await;
    // The children of the shards that moved were asked to shut down, and then told of the loss.
    let told = |action: &str| {
        let meant = Event::Told(action.to_owned());
        first.entries().iter().filter(|entry| entry.event == meant).count()
    };
    assert_eq!((told("shutdownRequested"), told("leaseLost")), (2, 2));
    scene.put(500).await;
    scene.wait_for_all().await;
    assert_eq!(first.terminate().await, Some(0), "{}", first.log());
    scene.wait_for_rows("the second holds all", |rows| loads(rows) == BTreeMap::from([("second", 4)])).await;
    scene.put(500).await;
    scene.wait_for_all().await;
    assert_eq!(second.terminate().await, Some(0), "{}", second.log());
    assert!(scene.deliveries().values().all(|count| *count == 1), "planned moves repeat nothing");
}

/// Another worker writes its name into the row, as a KCL worker does that steals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stolen_lease_reaches_the_child_and_its_checkpoint() {
    use aws_sdk_dynamodb::types::AttributeValue;

    let mut scene = Scene::new("stolen", 1).await;
    let mut daemon = scene.start("w", "checkpoint-always", "failoverTimeMillis = 20000");
    daemon.wait_for("the child is initialized", 1, |event| matches!(event, Event::Initialize { .. })).await;
    let shard = daemon.entries()[0].shard.clone();
    let client = scene.endpoints.dynamodb_client();
    client
        .update_item()
        .table_name(&scene.application)
        .key("leaseKey", AttributeValue::S(shard))
        .update_expression("SET leaseOwner = :o ADD leaseCounter :c")
        .expression_attribute_values(":o", AttributeValue::S("thief".to_owned()))
        .expression_attribute_values(":c", AttributeValue::N("1".to_owned()))
        .send()
        .await
        .unwrap();
    scene.put(1).await;
    let is_refused = |event: &Event| matches!(event, Event::Checkpoint { error: Some(error), .. } if error == "ShutdownException");
    daemon.wait_for("the checkpoint is refused", 1, is_refused).await;
    let lost = Event::Told("leaseLost".to_owned());
    daemon.wait_for("the child is told", 1, |event| *event == lost).await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
}
