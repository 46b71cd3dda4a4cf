//! Operations on tables without live workers: rows of this library and of the KCL.

use aws_sdk_dynamodb::types::AttributeValue;
use fleet_view::PositionsFile;
use lease_store::{Consistency, LeaseStore as _, Position};
use serde_json::Value;

use crate::bed::{APPLICATION, Bed, STREAM, lease_after, shard, worker};

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The row that a worker of the KCL 3.x writes, after its owner has left.
fn row_of_java(key: &str) -> Vec<(&'static str, AttributeValue)> {
    vec![
        ("leaseKey", s(key)),
        ("leaseCounter", n(1187)),
        ("ownerSwitchesSinceCheckpoint", n(2)),
        ("checkpoint", s("49590338271490256608559692538361571095921575989136588898")),
        ("checkpointSubSequenceNumber", n(5)),
        ("pendingCheckpoint", s("49590338271490256608559692538361571095921575989136588899")),
        ("entityType", s("LEASE")),
        ("throughputKBps", AttributeValue::N("12.345678".to_owned())),
        ("teamNote", s("do not touch")),
    ]
}

#[tokio::test]
async fn reset_acts_only_with_execute() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    let arguments = ["reset", APPLICATION, "--to", "trim-horizon"];
    let shown = bed.run(&arguments).await;
    shown.assert(0, "shardId-000000000000 reads records again: 4711 -> TRIM_HORIZON");
    shown.assert(0, "nothing was changed; add --execute to act");
    assert_eq!(bed.row(0).await, lease_after(0, 4711));
    let one = [&arguments[..], &["--shard", "shardId-000000000001", "--execute"]].concat();
    bed.run(&one).await.assert(0, "1 done");
    let row = bed.row(1).await;
    assert_eq!((row.checkpoint, row.counter), (Position::TrimHorizon, 1));
    assert!(row.reset_id.is_some());
    assert_eq!(bed.row(0).await, lease_after(0, 4711), "the other shard stays");
    let json = [&arguments[..], &["--execute", "--json"]].concat();
    let finished = bed.run(&json).await;
    let report: Value = serde_json::from_str(&finished.output).unwrap();
    assert_eq!(report["outcomes"][0]["outcome"], "done", "{report}");
    assert_eq!(bed.row(0).await.checkpoint, Position::TrimHorizon);
}

#[tokio::test]
async fn rows_of_java_are_reset_and_keep_their_attributes() {
    let bed = Bed::start().await;
    bed.put_item(&row_of_java("shardId-000000000000")).await;
    bed.put_item(&row_of_java("shardId-000000000001")).await;
    bed.run(&["reset", APPLICATION, "--to", "latest", "--execute"]).await.assert(0, "2 done");
    let item = bed.item(0).await;
    assert_eq!(item["checkpoint"], s("LATEST"));
    assert_eq!(item["checkpointSubSequenceNumber"], n(0));
    assert_eq!(item["leaseCounter"], n(1188));
    assert!(item.contains_key("initialTimeMillis") && !item.contains_key("pendingCheckpoint"));
    assert_eq!((&item["teamNote"], &item["entityType"]), (&s("do not touch"), &s("LEASE")));
    bed.run(&["reset", APPLICATION, "--to", "trim-horizon", "--execute"]).await.assert(0, "2 done");
    assert!(!bed.item(0).await.contains_key("initialTimeMillis"), "the instant goes with its position");
}

#[tokio::test]
async fn reset_to_latest_ends_closed_shards_and_adds_children() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    bed.split(0).await;
    bed.run(&["reset", APPLICATION, "--to", "latest", "--execute"]).await.assert(0, "4 done");
    let parent = bed.row(0).await;
    assert_eq!((parent.checkpoint, parent.children), (Position::ShardEnd, [shard(2), shard(3)].into()));
    for number in [1, 2, 3] {
        let row = bed.row(number).await;
        assert_eq!(row.checkpoint, Position::Latest, "{number}");
        assert!(row.initial_time_millis.is_some(), "{number}");
    }
    bed.run(&["reset", APPLICATION, "--to", "trim-horizon", "--execute"]).await.assert(0, "4 done");
    assert_eq!(
        bed.row(0).await.checkpoint,
        Position::TrimHorizon,
        "the parent is read again, before its children"
    );
}

#[tokio::test]
async fn impossible_resets_name_their_remedy() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    let reset = |to: &'static str| ["reset", APPLICATION, "--to", to, "--execute"];
    bed.run(&reset("2999-01-01")).await.assert(1, "lies in the future");
    bed.run(&reset("yesterday")).await.assert(2, "--to \"yesterday\"");
    let other = ["reset", APPLICATION, "--to", "latest", "--shard", "shardId-000000000009"];
    bed.run(&other).await.assert(1, "neither stream nor table has shardId-000000000009");
    bed.run(&["reset", "no-such-table", "--to", "latest"]).await.assert(3, "no-such-table");
    assert_eq!(bed.row(0).await, lease_after(0, 4711));
}

#[tokio::test]
async fn positions_are_exported_and_imported() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    let exported = bed.run(&["positions", "export", APPLICATION]).await;
    exported.assert(0, "\"application\": \"orders\"");
    let file = std::env::temp_dir().join(format!("positions-{}.json", std::process::id()));
    std::fs::write(&file, &exported.output).unwrap();
    let path = file.to_str().unwrap();
    bed.run(&["reset", APPLICATION, "--to", "trim-horizon", "--execute"]).await.assert(0, "2 done");
    bed.run(&["positions", "import", APPLICATION, "--file", path]).await.assert(0, "skips records");
    let import = ["positions", "import", APPLICATION, "--file", path, "--execute"];
    bed.run(&import).await.assert(0, "2 done");
    assert_eq!(bed.row(0).await.checkpoint, lease_after(0, 4711).checkpoint);
    bed.run(&["reset", APPLICATION, "--to", path]).await.assert(0, "nothing changes for");
    let mut other = PositionsFile::from_json(&exported.output).unwrap();
    other.stream.as_mut().unwrap().creation_epoch_seconds += 1;
    std::fs::write(&file, other.to_json().unwrap()).unwrap();
    bed.run(&import).await.assert(1, "belong to the stream");
    std::fs::write(&file, "{}").unwrap();
    bed.run(&import).await.assert(6, "malformed");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn copy_makes_a_second_application() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    bed.run(&["copy", APPLICATION, "replay"]).await.assert(0, "add --execute to copy");
    bed.run(&["copy", APPLICATION, "replay", "--execute"]).await.assert(0, "2 done");
    let rows = bed.store("replay").list(Consistency::Strong).await.unwrap().leases;
    let positions: Vec<&Position> = rows.iter().map(|row| &row.checkpoint).collect();
    assert_eq!(positions, [&lease_after(0, 4711).checkpoint, &lease_after(1, 4712).checkpoint]);
    assert!(rows.iter().all(|row| row.owner.is_none() && row.stream.is_some()));
    bed.run(&["copy", APPLICATION, "replay", "--execute"]).await.assert(0, "0 rows change");
    bed.run(&["reset", "replay", "--to", "trim-horizon", "--execute"]).await.assert(0, "2 done");
    bed.run(&["copy", APPLICATION, "replay", "--execute"]).await.assert(1, "already has other positions");
}

#[tokio::test]
async fn pause_is_recorded_and_removed() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    bed.run(&["pause", APPLICATION]).await.assert(2, "needs an end");
    let pause = ["pause", APPLICATION, "--for", "30m", "--by", "alice", "--shard", "shardId-000000000001"];
    bed.run(&[&pause[..], &["--dry-run"]].concat()).await.assert(0, "leave out --dry-run");
    assert!(bed.row(1).await.pause_text.is_none());
    bed.run(&pause).await.assert(0, "1 done");
    let paused = bed.row(1).await.pause().unwrap();
    assert!(paused.by == "alice" && paused.until_millis.is_some());
    assert!(bed.row(0).await.pause_text.is_none());
    let described = bed.run(&["describe", APPLICATION, "--json"]).await;
    described.assert(0, "\"alice\"");
    bed.run(&["resume", APPLICATION]).await.assert(0, "1 done");
    assert!(bed.row(1).await.pause_text.is_none());
    bed.run(&["pause", APPLICATION, "--until", "2020-01-01"]).await.assert(1, "in the past");
    bed.run(&["pause", APPLICATION, "--without-end"]).await.assert(0, "2 done");
}

#[tokio::test]
async fn free_lease_is_assigned_and_released() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    let assign = ["assign", APPLICATION, "shardId-000000000000", "w1"];
    bed.run(&assign).await.assert(1, "no lease that worker w1 renews is known");
    bed.run(&[&assign[..], &["--unknown-worker"]].concat()).await.assert(0, "1 done");
    assert_eq!(bed.row(0).await.owner, Some(worker("w1")));
    let release = ["release", APPLICATION, "--shard", "shardId-000000000009", "--look-time", "0s"];
    bed.run(&release).await.assert(1, "shardId-000000000009");
}

#[tokio::test]
async fn delete_removes_the_rows() {
    let bed = Bed::start().await;
    bed.put_row(lease_after(0, 4711)).await;
    bed.put_row(lease_after(1, 4712)).await;
    bed.run(&["delete", APPLICATION]).await.assert(0, "loses its position");
    bed.run(&["delete", APPLICATION, "--execute"]).await.assert(0, "2 done");
    let rows = bed.store(APPLICATION).list(Consistency::Strong).await.unwrap().leases;
    assert_eq!(rows, []);
    assert_eq!((shard(0).as_str(), STREAM), ("shardId-000000000000", "sales"));
}
