//! `verify`: what of a table contradicts its stream.

use aws_sdk_dynamodb::types::AttributeValue;
use lease_store::{Consistency, LeaseStore as _, LeaseWrite, Position};
use serde_json::Value;
use tokio::time::timeout;

use crate::bench::{APPLICATION, PATIENCE, STREAM, TestBed, lease, shard};

fn texts(findings: &Value, severity: &str) -> String {
    let of_severity = findings.as_array().unwrap().iter().filter(|finding| finding["severity"] == severity);
    of_severity.map(|finding| format!("{}\n", finding["text"].as_str().unwrap())).collect()
}

const VERIFY: [&str; 5] = ["verify", APPLICATION, "--stream", STREAM, "--json"];

/// Splits the only shard in its middle.
pub(crate) async fn split(bed: &TestBed) {
    let kinesis = bed.endpoints().kinesis_client();
    let split = kinesis.split_shard().stream_name(STREAM).shard_to_split(shard(0).as_str());
    split.new_starting_hash_key("170141183460469231731687303715884105728").send().await.unwrap();
    let active = async {
        loop {
            let answer = kinesis.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
            let summary = answer.stream_description_summary.unwrap();
            if summary.stream_status.as_str() == "ACTIVE" && summary.open_shard_count == 2 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, active).await.expect("the stream is split in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_table_is_verified_and_left_alone() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    bed.put_lease(lease(0, None)).await;
    let before = bed.store().list(Consistency::Strong).await.unwrap();
    let found = bed.json(&VERIFY).await;
    assert_eq!(texts(&found, "error"), "", "{found}");
    for part in
        ["its key is that of a lease table", "on demand", "every worker takes", "agree with the stream"]
    {
        assert!(texts(&found, "good").contains(part), "{part} is not in {found}");
    }
    assert_eq!(bed.store().list(Consistency::Strong).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_contradict_the_stream_are_errors() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    split(&bed).await;
    let mut parent = lease(0, None);
    parent.checkpoint = Position::ShardEnd;
    bed.put_lease(parent).await;
    let mut child = lease(1, None);
    child.checkpoint = Position::ShardEnd;
    child.hash_key_range = Some(lease_store::HashKeyRange::FULL);
    bed.put_lease(child).await;
    let mode = vec![
        ("leaseKey", AttributeValue::S("Migration3.0".to_owned())),
        ("cv", AttributeValue::S("CLIENT_VERSION_3X".to_owned())),
        ("entityType", AttributeValue::S("CLIENT_VERSION_MIGRATION".to_owned())),
    ];
    bed.put_rows(APPLICATION, vec![mode]).await;
    let finished = bed.run(&VERIFY).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    let found: Value = serde_json::from_str(&finished.output).unwrap();
    let errors = texts(&found, "error");
    for part in
        ["still take records", "shardId-000000000002 have no row", "other hash keys", "no lease covers"]
    {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
    assert!(texts(&found, "warning").contains("adopt changes that"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_outside_the_retention_is_an_error() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    let mut row = lease(0, None);
    row.checkpoint = Position::AtTimestamp;
    row.initial_time_millis = Some(1_700_000_000_000);
    bed.put_lease(row.clone()).await;
    let finished = bed.run(&VERIFY).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.output.contains("before the oldest record"), "{}", finished.output);
    // A record of 2018, from a deleted stream of the same name.
    let number = "49590338271490256608559692538361571095921575989136588898";
    row.checkpoint = Position::from_checkpoint(number, 0).unwrap();
    row.initial_time_millis = None;
    bed.store().write(&LeaseWrite::Delete { shard_id: shard(0), expected: row.version() }).await.unwrap();
    bed.put_lease(row).await;
    let finished = bed.run(&VERIFY).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.output.contains("deleted stream of the same name"), "{}", finished.output);
    let missing = bed.run(&["verify", "no-such-table"]).await;
    assert_eq!(missing.code, 3, "{missing:?}");
}
