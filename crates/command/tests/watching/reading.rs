//! `tail` and `cat`: a stream in a terminal.

use aws_sdk_kinesis::primitives::Blob;
use serde_json::Value;
use shard_worker::Aggregator;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::bench::{PATIENCE, STREAM, TestBed};
use crate::verify::split;

fn records(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["partitionKey"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cat_reads_to_the_tip_and_ends() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a", "b", "a"]).await;
    let all = bed.run(&["cat", STREAM, "--json"]).await;
    assert_eq!(all.code, 0, "{all:?}");
    let found = records(&all.output);
    assert_eq!(keys(&found), ["a", "b", "a"]);
    assert_eq!(found[0]["data"], "{\"word\":\"a\"}");
    let filtered = bed.run(&["cat", STREAM, "--json", "--key", "b"]).await;
    assert_eq!(keys(&records(&filtered.output)), ["b"]);
    let raw = bed.run(&["cat", STREAM, "--raw", "--max-records", "1"]).await;
    assert_eq!(raw.output, "{\"word\":\"a\"}\n");
    let position = found[1]["sequenceNumber"].as_str().unwrap();
    let shard = found[1]["shardId"].as_str().unwrap();
    let from = bed.run(&["cat", STREAM, "--json", "--from", position, "--shard", shard]).await;
    assert_eq!(keys(&records(&from.output)), ["b", "a"]);
    let without_shard = bed.run(&["cat", STREAM, "--from", position]).await;
    assert_eq!(without_shard.code, 2, "{without_shard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cat_deaggregates() {
    let bed = TestBed::start(1).await;
    let mut aggregator = Aggregator::new(10_000);
    for key in ["a", "b", "c"] {
        assert!(aggregator.add(key, None, key.as_bytes()).unwrap().is_none());
    }
    let aggregate = aggregator.finish().unwrap();
    let kinesis = bed.endpoints().kinesis_client();
    let put = kinesis.put_record().stream_name(STREAM).partition_key("a");
    put.data(Blob::new(aggregate.data.to_vec())).send().await.unwrap();
    let finished = bed.run(&["cat", STREAM, "--json"]).await;
    let found = records(&finished.output);
    assert_eq!(keys(&found), ["a", "b", "c"], "{finished:?}");
    assert_eq!(found[2]["subSequenceNumber"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cat_reads_parents_before_children() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    split(&bed).await;
    bed.put_records(&["a", "a"]).await;
    let finished = bed.run(&["cat", STREAM, "--json"]).await;
    let found = records(&finished.output);
    assert_eq!(found.len(), 3, "{finished:?}");
    assert_eq!(found[0]["shardId"], "shardId-000000000000");
    assert!(found.iter().skip(1).all(|record| record["shardId"] != "shardId-000000000000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_follows_the_stream() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["before"]).await;
    let mut child = bed.program(&["tail", STREAM, "--json", "--from", "trim-horizon"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || timeout(PATIENCE, lines.next_line()).await.expect("in time").unwrap().unwrap();
    assert!(next().await.contains("before"));
    bed.put_records(&["after"]).await;
    assert!(next().await.contains("after"));
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_readings_are_refused() {
    let bed = TestBed::start(1).await;
    for (arguments, code) in [
        (&["cat", "no-such-stream"][..], 3),
        (&["cat", STREAM, "--shard", "shardId-000000000009"], 3),
        (&["cat", STREAM, "--from", "yesterday"], 2),
        (&["cat", STREAM, "--until", "2100-01-01"], 2),
        (&["cat", STREAM, "--json", "--raw"], 2),
        (&["tail", STREAM, "--read-share", "0"], 2),
    ] {
        let finished = bed.run(arguments).await;
        assert_eq!(finished.code, code, "{arguments:?}: {finished:?}");
        assert!(!finished.errors.is_empty());
    }
}
