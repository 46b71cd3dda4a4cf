//! The circumstances of public bug reports about other tools of this kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use end_to_end_tests::local_servers::InProcessServers;
use lease_store::{LeaseChange, LeaseStore as _, LeaseWrite, Position, WorkerId};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{sleep, timeout};

use crate::bench::{APPLICATION, PATIENCE, STREAM, TestBed, finish, lease, shard};
use crate::serve::Server;

/// The largest body that a changed server reads.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The value of the first series whose line starts like this.
fn value(metrics: &str, start: &str) -> Option<f64> {
    metrics.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
}

/// seglo/kafka-lag-exporter #36 and #63, danielqsj/kafka_exporter #463: without a consumer there is no lag at all.
/// linkedin/Burrow #287 and #446: the lag of a consumer that has stopped does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_exported_and_grows_while_no_worker_runs() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    bed.put_lease(lease(0, None)).await;
    let server = Server::start(&bed).await;
    let lag = |metrics: &str| value(metrics, "kinesis_fleet_max_lag_seconds{");
    let first = server.until("/metrics", |answer| lag(&answer.body).is_some_and(|lag| lag > 0.0)).await;
    let first = lag(&first.body).unwrap();
    server.until("/metrics", |answer| lag(&answer.body).is_some_and(|lag| lag > first)).await;
}

/// seglo/kafka-lag-exporter #25 and #244, omarsmak/kafka-consumer-lag-monitoring #20: consumers that are gone keep their series.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_gone_has_no_series() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let server = Server::start(&bed).await;
    server.until("/metrics", |answer| answer.body.contains("worker=\"worker-1\"")).await;
    let row = bed.store().get(&shard(0)).await.unwrap().unwrap();
    let change = LeaseChange::take(WorkerId::new("worker-2".to_owned()).unwrap());
    let taken = LeaseWrite::Update { shard_id: shard(0), expected: row.version(), change };
    bed.store().write(&taken).await.unwrap();
    let metrics = server.until("/metrics", |answer| answer.body.contains("worker=\"worker-2\"")).await;
    assert!(!metrics.body.contains("worker-1"), "{}", metrics.body);
}

/// kedacore/keda #4552 and #7795: an application that has read everything is not scaled down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_has_read_all_wants_no_workers() {
    let bed = TestBed::start(4).await;
    bed.put_records(&["a"]).await;
    let read: Value = serde_json::from_str(&bed.run(&["cat", STREAM, "--json"]).await.output).unwrap();
    for number in 0..4 {
        let mut lease = lease(number, Some("worker-1"));
        if read["shardId"] == shard(number).as_str() {
            let number = read["sequenceNumber"].as_str().unwrap();
            lease.checkpoint = Position::after(number.parse().unwrap(), 0);
        }
        bed.put_lease(lease).await;
    }
    let load = bed.json(&["lag", APPLICATION, "--stream", STREAM, "--json"]).await;
    assert_eq!(load["behindMillis"], 0, "{load}");
    assert_eq!((&load["wantedWorkers"], &load["workers"]), (&Value::from(0), &Value::from(1)), "{load}");
}

/// lumigo-io/lumigo-CLI #112: a stream whose shards were split cannot be followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_stream_is_followed() {
    let bed = TestBed::start(1).await;
    let kinesis = bed.endpoints().kinesis_client();
    let split = kinesis.split_shard().stream_name(STREAM).shard_to_split("shardId-000000000000");
    split.new_starting_hash_key("170141183460469231731687303715884105728").send().await.unwrap();
    let mut child = bed.program(&["tail", STREAM, "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The tip is where the reader was when it started, which shows only in what it reads.
    let line = loop {
        bed.put_records(&["a"]).await;
        if let Ok(line) = timeout(std::time::Duration::from_secs(1), lines.next_line()).await {
            break line.unwrap().expect("it follows the stream");
        }
    };
    assert!(line.contains("\"partitionKey\":\"a\""), "{line}");
    child.kill().await.unwrap();
}

/// Versent/kinesis-tail #3: nothing is shown before all shards have an iterator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_without_an_iterator_holds_up_no_other() {
    let servers = InProcessServers::start_changed(without_iterator_of_the_last).await.unwrap();
    let bed = TestBed::over(servers, 2).await;
    // One of these is in the first shard.
    bed.put_records(&["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    let mut child = bed.program(&["tail", STREAM, "--json", "--from", "trim-horizon"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line =
        timeout(PATIENCE, lines.next_line()).await.expect("the first shard is shown").unwrap().unwrap();
    assert!(line.contains("shardId-000000000000"), "{line}");
    child.kill().await.unwrap();
}

/// fujiwara/kinesis-tailf #8: the first answers behind a time are empty, and a reading with an end shows nothing.
/// mhart/kinesis #5, boto/boto3 #1301: an empty answer is taken for the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_answers_before_the_records_end_no_reading() {
    let servers = InProcessServers::start_changed(with_empty_answers).await.unwrap();
    let bed = TestBed::over(servers, 1).await;
    bed.put_records(&["a", "b"]).await;
    for arguments in
        [&["cat", STREAM, "--from", "1h"][..], &["replay", "records", STREAM, "--from", "1h", "--", "cat"]]
    {
        let mut program = bed.program(arguments);
        program.env("AWS_CBOR_DISABLE", "true");
        let finished = finish(program).await;
        assert_eq!(finished.output.lines().count(), 2, "{arguments:?}: {finished:?}");
    }
}

/// The server, whose answers to the first reads are empty, and far behind the tip.
fn with_empty_answers(app: Router) -> Router {
    let reads = Arc::new(AtomicUsize::new(0));
    app.layer(from_fn(move |request: Request, next: Next| {
        let reads = reads.clone();
        async move {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            let is_read = target.is_some_and(|target| target.ends_with(".GetRecords"));
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
            if is_read && reads.fetch_add(1, Ordering::Relaxed) % 4 < 2 {
                let requested: Value = serde_json::from_slice(&body).unwrap();
                let answer = serde_json::json!({
                    "Records": [],
                    "NextShardIterator": requested["ShardIterator"],
                    "MillisBehindLatest": 3_600_000,
                });
                return ([("content-type", "application/x-amz-json-1.1")], answer.to_string())
                    .into_response();
            }
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
    }))
}

/// The server, which never answers with an iterator of the second shard.
fn without_iterator_of_the_last(app: Router) -> Router {
    app.layer(from_fn(|request: Request, next: Next| async move {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        let is_iterator = target.is_some_and(|target| target.ends_with("GetShardIterator"));
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
        let wanted = b"shardId-000000000001";
        if is_iterator && body.windows(wanted.len()).any(|part| part == wanted) {
            sleep(PATIENCE * 2).await;
        }
        next.run(Request::from_parts(parts, Body::from(body))).await
    }))
}
