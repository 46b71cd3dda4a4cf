//! `replay`: ranges of a stream and dead letters into files, streams and programs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_kinesis::primitives::Blob;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use end_to_end_tests::local_servers::InProcessServers;
use kinesis_asl::KinesisDeadLetters;
use serde_json::Value;
use shard_worker::{Aggregator, DeadLetter, DeadLetterSink as _, FileDeadLetters, Record};

use crate::bench::{Finished, STREAM, TestBed, shard};
use crate::verify::split;

/// The stream that gets the replayed records.
const COPY: &str = "copy";

/// The largest body that a changed server reads.
const MAX_BODY_BYTES: usize = 1 << 20;

/// A file for one test, which does not exist yet.
fn file(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("replay-{}-{test}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["partitionKey"].as_str().unwrap()).collect()
}

fn position(line: &Value) -> String {
    let number = line["sequenceNumber"].as_str().unwrap();
    match line["subSequenceNumber"].as_u64().unwrap() {
        0 => number.to_owned(),
        sub => format!("{number}/{sub}"),
    }
}

#[track_caller]
fn assert_ended(finished: &Finished, code: i32, part: &str) {
    assert_eq!(finished.code, code, "{finished:?}");
    assert!(finished.errors.contains(part), "{part:?} is not in {}", finished.errors);
}

async fn create_copy(bed: &TestBed) {
    bed.endpoints().kinesis_client().create_stream().stream_name(COPY).shard_count(1).send().await.unwrap();
}

/// Partition keys and payloads of a stream, in order.
async fn copied(bed: &TestBed) -> Vec<(String, String)> {
    let finished = bed.run(&["cat", COPY, "--json"]).await;
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines(&finished.output).iter().map(|line| (text(line, "partitionKey"), text(line, "data"))).collect()
}

/// The server, which fails the puts into the copy that a closure chooses by their number.
fn failing(app: Router, puts: Arc<AtomicUsize>, code: &'static str, fails: fn(usize) -> bool) -> Router {
    app.layer(from_fn(move |request: Request, next: Next| {
        let puts = puts.clone();
        async move {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            let is_put = target.is_some_and(|target| target.ends_with(".PutRecord"));
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
            let is_copy = String::from_utf8_lossy(&body).contains("\"copy\"");
            if is_put && is_copy && fails(puts.fetch_add(1, Ordering::Relaxed)) {
                let answer = format!("{{\"__type\":\"{code}\",\"message\":\"refused by the test\"}}");
                let kind = [("content-type", "application/x-amz-json-1.1")];
                return (StatusCode::BAD_REQUEST, kind, answer).into_response();
            }
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_becomes_a_file_and_is_continued() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a", "b"]).await;
    let mut aggregator = Aggregator::new(10_000);
    for key in ["c", "d", "e"] {
        assert!(aggregator.add(key, None, key.as_bytes()).unwrap().is_none());
    }
    let kinesis = bed.endpoints().kinesis_client();
    let put = kinesis.put_record().stream_name(STREAM).partition_key("c");
    put.data(Blob::new(aggregator.finish().unwrap().data.to_vec())).send().await.unwrap();
    bed.put_records(&["f"]).await;
    let path = file("range");
    let output = path.to_str().unwrap();
    let all = ["replay", "records", STREAM, "--from", "trim-horizon", "--output", output];
    // The first run ends inside the aggregate.
    let first = bed.run(&[&all[..], &["--max-records", "4"]].concat()).await;
    assert_ended(&first, 0, "4 records replayed; last position done: shardId-000000000000 ");
    assert_ended(&bed.run(&all).await, 7, "--append");
    let written = lines(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(keys(&written), ["a", "b", "c", "d"]);
    let done = position(&written[3]);
    assert!(done.ends_with("/1") && first.errors.contains(&done), "{first:?}");
    let id = shard(0).to_string();
    let next =
        ["replay", "records", STREAM, "--shard", &id, "--after", &done, "--output", output, "--append"];
    assert_ended(&bed.run(&next).await, 0, "2 records replayed");
    let written = lines(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(keys(&written), ["a", "b", "c", "d", "e", "f"], "nothing is missing, nothing is repeated");
    // From a position to a position, both in the range.
    std::fs::remove_file(&path).unwrap();
    let (from, until) = (position(&written[1]), position(&written[4]));
    let part =
        ["replay", "records", STREAM, "--shard", &id, "--from", &from, "--until", &until, "--output", output];
    assert_ended(&bed.run(&part).await, 0, "4 records replayed");
    assert_eq!(keys(&lines(&std::fs::read_to_string(&path).unwrap())), ["b", "c", "d", "e"]);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parents_are_replayed_before_their_children() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a", "b", "c"]).await;
    split(&bed).await;
    bed.put_records(&["a", "b", "c"]).await;
    let path = file("split");
    let (output, progress) = (path.to_str().unwrap(), file("split-progress"));
    let all = ["replay", "records", STREAM, "--from", "trim-horizon", "--output", output];
    let by_file = [&all[..], &["--append", "--progress", progress.to_str().unwrap()]].concat();
    // Cut short in the middle of the parent, and again in a child.
    for (count, total) in [("2", 2), ("2", 4), ("9", 6)] {
        let finished = bed.run(&[&by_file[..], &["--max-records", count]].concat()).await;
        assert_ended(&finished, 0, "records replayed");
        assert_eq!(lines(&std::fs::read_to_string(&path).unwrap()).len(), total, "{finished:?}");
    }
    assert_ended(&bed.run(&by_file).await, 0, "0 records replayed");
    let written = lines(&std::fs::read_to_string(&path).unwrap());
    let shards: Vec<&str> = written.iter().map(|line| line["shardId"].as_str().unwrap()).collect();
    assert_eq!(shards[..3], ["shardId-000000000000"; 3]);
    assert!(shards[3..].iter().all(|id| *id != "shardId-000000000000"), "{shards:?}");
    let distinct: BTreeSet<String> = written.iter().map(position).collect();
    assert_eq!(distinct.len(), 6, "no record is replayed twice");
    // A shard alone says where its later records are, and an end that lies in a child is not reached.
    let parent = ["replay", "records", STREAM, "--shard", "shardId-000000000000"];
    let alone = [&parent[..], &["--from", "trim-horizon", "--", "cat"]].concat();
    let finished = bed.run(&alone).await;
    assert_ended(&finished, 0, "later records are in shardId-000000000001, shardId-000000000002");
    assert_eq!(finished.output.lines().count(), 3);
    let last = position(&written[5]);
    let beyond = [&parent[..], &["--from", "trim-horizon", "--until", &last, "--", "cat"]].concat();
    assert_ended(&bed.run(&beyond).await, 1, "ends before the record at");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&progress).unwrap();
}

/// vectordotdev/vector #16954 and #359, NerdWalletOSS/kinesis-python #25: records that the stream refuses are lost.
/// aws/amazon-kinesis-streams-for-fluent-bit #31: a retry sends what the stream already has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttled_puts_are_made_again_in_order() {
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = puts.clone();
    let code = "ProvisionedThroughputExceededException";
    let servers =
        InProcessServers::start_changed(|app| failing(app, counted, code, |put| put % 3 == 1)).await.unwrap();
    let bed = TestBed::over(servers, 1).await;
    create_copy(&bed).await;
    bed.put_records(&["a", "b", "a", "a", "c"]).await;
    let all = ["replay", "records", STREAM, "--from", "trim-horizon", "--to-stream", COPY];
    assert_ended(&bed.run(&all).await, 0, "5 records replayed");
    let copied = copied(&bed).await;
    let mut found: Vec<&str> = copied.iter().map(|(key, _)| key.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["a", "a", "a", "b", "c"], "each record once");
    assert!(puts.load(Ordering::Relaxed) > 5, "some puts were refused");
}

/// faiscadev/fakecloud #1675: a destination that is gone destroys what is moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_stream_ends_the_replay_and_loses_nothing() {
    let puts = Arc::new(AtomicUsize::new(0));
    let counted = puts.clone();
    // A record is refused for good, and accepted once its stream has been repaired.
    let fails = |put: usize| (3..9).contains(&put);
    let servers =
        InProcessServers::start_changed(|app| failing(app, counted, "InvalidArgumentException", fails));
    let bed = TestBed::over(servers.await.unwrap(), 1).await;
    bed.put_records(&["a", "a", "a", "a", "a", "a"]).await;
    let progress = file("failing-progress");
    let all = ["replay", "records", STREAM, "--from", "trim-horizon", "--to-stream", COPY];
    let all = [&all[..], &["--progress", progress.to_str().unwrap()]].concat();
    let missing = bed.run(&all).await;
    assert_ended(&missing, 3, "nothing was replayed");
    create_copy(&bed).await;
    puts.store(0, Ordering::Relaxed);
    let mut runs = 0;
    loop {
        let finished = bed.run(&all).await;
        runs += 1;
        if finished.code == 0 {
            break;
        }
        assert_ended(&finished, 6, "refused by the test");
        assert!(runs < 20, "{finished:?}");
    }
    assert!(runs > 1, "the destination has failed");
    assert!(copied(&bed).await.len() >= 6, "no record is skipped");
    std::fs::remove_file(&progress).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_confirms_by_its_success() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a", "b", "c"]).await;
    let all = ["replay", "records", STREAM, "--from", "trim-horizon"];
    let to = |program: &[&'static str]| [&all[..], &["--"], program].concat();
    let finished = bed.run(&to(&["cat"])).await;
    assert_ended(&finished, 0, "3 records replayed");
    assert_eq!(keys(&lines(&finished.output)), ["a", "b", "c"]);
    let failed = bed.run(&to(&["sh", "-c", "head -n 1 > /dev/null; cat > /dev/null; exit 3"])).await;
    assert_ended(&failed, 1, "it is not known which of them were processed");
    assert!(failed.errors.contains("exit status: 3"), "{failed:?}");
    assert_ended(&bed.run(&to(&["no-such-program"])).await, 6, "cannot be started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn range_outside_the_retention_is_refused() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a", "b"]).await;
    let replay = async |arguments: &[&str]| {
        bed.run(&[&["replay", "records", STREAM][..], arguments, &["--", "cat"]].concat()).await
    };
    let old = replay(&["--from", "3d"]).await;
    assert_ended(&old, 1, "before the oldest record that the stream keeps");
    assert_eq!(old.output, "", "nothing is replayed");
    assert_ended(&replay(&["--from", "3d", "--even-with-gap"]).await, 0, "2 records replayed");
    // A record of 2018.
    let gone = "49590338271490256608559692538361571095921575989136588898";
    let id = shard(0).to_string();
    assert_ended(&replay(&["--shard", &id, "--from", gone]).await, 1, "--even-with-gap");
    assert_ended(&replay(&["--shard", &id, "--after", gone]).await, 1, "--even-with-gap");
    // Nothing is wrong with an hour in which the shard was not there yet.
    assert_ended(&replay(&["--from", "1h"]).await, 0, "2 records replayed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_replays_name_their_remedy() {
    let bed = TestBed::start(1).await;
    for (arguments, code, part) in [
        (&["records", STREAM, "--", "cat"][..], 2, "--from trim-horizon"),
        (&["records", STREAM, "--from", "1h"], 2, "--output"),
        (&["records", STREAM, "--from", "1h", "--output", "x", "--", "cat"], 2, "cannot be used with"),
        (
            &["records", STREAM, "--from", "1h", "--shard", "shardId-000000000009", "--", "cat"],
            3,
            "does not list",
        ),
        (&["records", "no-such-stream", "--from", "1h", "--", "cat"], 3, "no-such-stream"),
        (&["records", STREAM, "--from", "1h", "--to-stream", STREAM], 2, "its own records"),
        (&["dead-letters", "--file", "/no/such/file", "--", "cat"], 6, "cannot be read"),
    ] {
        let finished = bed.run(&[&["replay"], arguments].concat()).await;
        assert_ended(&finished, code, part);
    }
}

fn letter(number: u64, payload: &'static str) -> DeadLetter {
    let record = Record::new(number.to_string().parse().unwrap(), payload.into())
        .with_partition_key(Some(format!("key-{number}").into()));
    DeadLetter::new("desk", STREAM, shard(3), record, "no price")
}

/// cds-snc/forms-terraform #278: a redrive wraps each message in one more layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_file_become_records_again() {
    let bed = TestBed::start(1).await;
    create_copy(&bed).await;
    let path = file("letters");
    let sink = FileDeadLetters::new(&path);
    for (number, payload) in [(7, "{\"price\":null}"), (8, "{\"price\":\"x\"}")] {
        sink.put(&letter(number, payload)).await.unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{written}no letter\n{written}")).unwrap();
    let of_file = ["replay", "dead-letters", "--file", path.to_str().unwrap()];
    let run = async |rest: &[&str]| bed.run(&[&of_file[..], rest].concat()).await;
    // What is no letter ends the replay, and what was before it is done.
    let stopped = run(&["--to-stream", COPY]).await;
    assert_ended(&stopped, 6, "line 3 of");
    assert!(stopped.errors.contains("2 records are done; last position done: line 2"), "{stopped:?}");
    assert!(stopped.errors.contains("continue with --after-line 2"), "{stopped:?}");
    let rest = run(&["--to-stream", COPY, "--after-line", "2", "--skip-malformed"]).await;
    assert_ended(&rest, 0, "2 records replayed, 1 left out; last position done: line 5");
    let expected = |number: u64, payload: &str| (format!("key-{number}"), payload.to_owned());
    let once = || [expected(7, "{\"price\":null}"), expected(8, "{\"price\":\"x\"}")];
    let mut twice = [once(), once()].concat();
    let mut found = copied(&bed).await;
    found.sort();
    twice.sort();
    assert_eq!(found, twice);
    let shown = run(&["--skip-malformed", "--", "cat"]).await;
    let shown = lines(&shown.output);
    assert_eq!(
        (&shown[0]["shardId"], &shown[0]["sequenceNumber"]),
        (&"shardId-000000000003".into(), &"7".into())
    );
    assert_eq!(shown[0]["letter"]["error"], "no price");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_stream_become_records_again() {
    let bed = TestBed::start(1).await;
    create_copy(&bed).await;
    let sink = KinesisDeadLetters::from_client(bed.endpoints().kinesis_client(), STREAM);
    for (number, payload) in [(7, "one"), (8, "two")] {
        sink.put(&letter(number, payload)).await.unwrap();
    }
    let to_copy = ["replay", "dead-letters", "--stream", STREAM, "--to-stream", COPY];
    assert_ended(&bed.run(&to_copy).await, 0, "2 records replayed");
    let mut found = copied(&bed).await;
    found.sort();
    assert_eq!(found, [("key-7".to_owned(), "one".to_owned()), ("key-8".to_owned(), "two".to_owned())]);
    bed.put_records(&["no letter"]).await;
    assert_ended(&bed.run(&to_copy).await, 6, "it is no dead letter");
    let skipping = [&to_copy[..], &["--skip-malformed"]].concat();
    assert_ended(&bed.run(&skipping).await, 0, "2 records replayed, 1 left out");
}
