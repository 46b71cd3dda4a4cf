//! `describe`, `lag` and what all commands share: exit codes, missing permissions, tables of all kinds.

use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use end_to_end_tests::local_servers::InProcessServers;
use fleet_view::{FleetView, History, Look};
use lease_store::{LagReport, LeaseStore as _};

use crate::bench::{APPLICATION, STREAM, TestBed, finish, lease, shard};

/// The largest body that a changed server reads.
const MAX_BODY_BYTES: usize = 1 << 20;

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_shows_shards_workers_and_lag() {
    let bed = TestBed::start(2).await;
    bed.put_records(&["a", "b", "c", "d"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    bed.put_lease(lease(1, None)).await;
    let arguments = ["describe", APPLICATION, "--stream", STREAM, "--probe-time", "20s"];
    let found = bed.json(&[&arguments[..], &["--json"]].concat()).await;
    let shards = found["snapshot"]["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    assert_eq!(shards[0]["owner"], "worker-1");
    assert_eq!(shards[0]["state"], "owned");
    assert_eq!(shards[1]["state"], "unowned");
    // The four records are in one shard or both.
    let behind = found["verdict"]["behind_millis"].as_u64().unwrap();
    assert!(behind > 0, "{found}");
    assert_eq!(found["snapshot"]["stream"]["status"], "ACTIVE");
    assert_eq!(found["gaps"], serde_json::json!([]));
    let lines = bed.run(&arguments).await;
    assert!(lines.output.contains("worker-1") && lines.output.contains("1 worker"), "{lines:?}");
    assert!(!lines.output.contains('\u{1b}'), "no colour where there is no terminal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_looks_lead_to_the_shown_verdict() {
    let bed = TestBed::start(2).await;
    bed.put_records(&["a", "b", "c", "d"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorded-looks.jsonl");
    let _ = std::fs::remove_file(&path);
    let record = ["--record", path.to_str().unwrap()];
    let describe = ["describe", APPLICATION, "--stream", STREAM, "--json", "--probe-time", "20s"];
    let shown = bed.json(&[&describe[..], &record].concat()).await;
    let looks: Vec<Look> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut history = History::new();
    history.add(&looks[0]).unwrap();
    let replayed = serde_json::to_value(FleetView::of(&history).unwrap()).unwrap();
    assert_eq!(replayed["verdict"], shown["verdict"]);
    assert_eq!(replayed["snapshot"], shown["snapshot"]);
    // Another run appends, and a folder that is missing is named.
    bed.json(&[&describe[..], &record].concat()).await;
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    let refused = bed.run(&[&describe[..], &["--record", "/missing/looks.jsonl"]].concat()).await;
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.errors.contains("/missing/looks.jsonl"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_of_our_workers_is_shown_without_reading_a_record() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a record that a probe would find"]).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let report = LagReport {
        behind_millis: 0,
        measured_at_millis: u64::try_from(now.as_millis()).unwrap(),
        processed_bytes_per_second: Some(2_048),
    };
    let mut row = lease(0, Some("worker-1"));
    row.lag_report_text = Some(report.text(row.counter));
    bed.put_lease(row).await;
    let arguments = ["describe", APPLICATION, "--stream", STREAM, "--probe-time", "20s", "--json"];
    let found = bed.json(&arguments).await;
    assert_eq!(found["snapshot"]["shards"][0]["lag"]["origin"], "worker", "{found}");
    assert_eq!(found["verdict"]["behind_millis"], 0);
    assert_eq!(found["snapshot"]["workers"][0]["processed_bytes_per_second"], 2_048);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_never_write() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let before = bed.store().get(&shard(0)).await.unwrap();
    bed.json(&["describe", APPLICATION, "--stream", STREAM, "--json"]).await;
    bed.json(&["lag", APPLICATION, "--stream", STREAM, "--json"]).await;
    assert_eq!(bed.store().get(&shard(0)).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_one_number_or_the_json_of_a_scaler() {
    let bed = TestBed::start(1).await;
    bed.put_records(&["a"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let arguments = ["lag", APPLICATION, "--stream", STREAM];
    let finished = bed.run(&arguments).await;
    assert!(finished.output.trim().parse::<u64>().unwrap() > 0, "{finished:?}");
    let load = bed.json(&[&arguments[..], &["--json", "--max-workers", "5"]].concat()).await;
    assert_eq!(load["wantedWorkers"], 1);
    assert_eq!(load["workers"], 1);
    assert_eq!(load["waitingShards"], 1);
    assert!(load["behindMillis"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_failures_apart() {
    let bed = TestBed::start(1).await;
    let missing = bed.run(&["describe", "no-such-table"]).await;
    assert_eq!(missing.code, 3, "{missing:?}");
    assert!(missing.errors.contains("no-such-table"), "{missing:?}");
    let other = [vec![("leaseKey", text("42")), ("total", number(7))]];
    bed.put_rows(APPLICATION, other.to_vec()).await;
    let foreign = bed.run(&["describe", APPLICATION]).await;
    assert_eq!(foreign.code, 6, "{foreign:?}");
    assert!(foreign.errors.contains("is no lease table"), "{foreign:?}");
    assert_eq!(bed.run(&["describe"]).await.code, 2);
    assert_eq!(bed.run(&["describe", APPLICATION, "--interval", "soon"]).await.code, 2);
    let mut unreachable = bed.program(&["describe", APPLICATION]);
    unreachable.args(["--dynamodb-endpoint-url", "http://127.0.0.1:9"]);
    assert_eq!(finish(unreachable).await.code, 2, "an option that is given twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_can_end_with_an_exit_code() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, None)).await;
    let healthy = bed.run(&["describe", APPLICATION, "--stream", STREAM, "--fail-on-alarm"]).await;
    assert_eq!(healthy.code, 0, "{healthy:?}");
    bed.put_rows(APPLICATION, vec![vec![("leaseKey", text("shardId-000000000009"))]]).await;
    let broken = bed.run(&["describe", APPLICATION, "--stream", STREAM, "--fail-on-alarm"]).await;
    assert_eq!(broken.code, 1, "{broken:?}");
    assert!(broken.output.contains("malformed"), "{broken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named_and_the_rest_works() {
    for (call, action) in
        [("ListShards", "kinesis:ListShards"), ("DescribeStreamSummary", "kinesis:DescribeStreamSummary")]
    {
        let servers = InProcessServers::start_changed(|app| denying(app, call)).await.unwrap();
        let bed = TestBed::over(servers, 1).await;
        bed.put_lease(lease(0, Some("worker-1"))).await;
        let found = bed.json(&["describe", APPLICATION, "--stream", STREAM, "--json"]).await;
        assert_eq!(found["snapshot"]["shards"].as_array().unwrap().len(), 1);
        let gaps = found["gaps"].as_array().unwrap();
        assert!(gaps.iter().any(|gap| gap["missing_action"] == action), "{found}");
    }
}

/// The server, which refuses one call.
fn denying(app: Router, call: &'static str) -> Router {
    app.layer(from_fn(move |request: Request, next: Next| async move {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
        if target.is_some_and(|target| target.ends_with(call)) {
            return denied();
        }
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
        next.run(Request::from_parts(parts, Body::from(body))).await
    }))
}

fn denied() -> Response {
    let body = r#"{"__type":"AccessDeniedException","message":"not authorized"}"#;
    (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_gone_leaves_the_table() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let found = bed.json(&["describe", APPLICATION, "--stream", "deleted", "--json"]).await;
    assert_eq!(found["snapshot"]["shards"].as_array().unwrap().len(), 1);
    assert_eq!(found["gaps"][0]["missing_action"], serde_json::Value::Null);
    let nameless = bed.json(&["describe", APPLICATION, "--json"]).await;
    assert_eq!(nameless["gaps"][0]["unknown"], "the stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_all_kinds_are_read() {
    let bed = TestBed::start(1).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let leader = vec![("leaseKey", text("Leader")), ("entityType", text("LEADER"))];
    let metrics = vec![
        ("leaseKey", text("java-1")),
        ("entityType", text("WORKER_METRIC_STATS")),
        ("lut", number(1_700_000_000)),
    ];
    let unknown = vec![("leaseKey", text("x")), ("entityType", text("NOTE"))];
    bed.put_rows(APPLICATION, vec![leader, metrics, unknown]).await;
    let found = bed.json(&["describe", APPLICATION, "--stream", STREAM, "--json"]).await;
    let workers = found["snapshot"]["workers"].as_array().unwrap();
    let names: Vec<_> = workers.iter().map(|worker| worker["worker_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["java-1", "worker-1"]);
    let signs = found["verdict"]["signs"].to_string();
    assert!(signs.contains("unknown-rows") && signs.contains("\"x\""), "{signs}");
    assert!(!signs.contains("Leader"), "{signs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_shared_table_is_chosen() {
    let bed = TestBed::start(1).await;
    let row = |stream: &str| {
        let key = format!("{stream}:shardId-000000000000");
        vec![
            ("leaseKey", text(&key)),
            ("streamName", text(stream)),
            ("shardId", text("shardId-000000000000")),
            ("leaseOwner", text("worker-1")),
            ("leaseCounter", number(3)),
            ("ownerSwitchesSinceCheckpoint", number(0)),
            ("checkpoint", text("TRIM_HORIZON")),
        ]
    };
    bed.put_rows(APPLICATION, vec![row("111122223333:words:7"), row("111122223333:lines:8")]).await;
    let found = bed.json(&["describe", APPLICATION, "--stream", STREAM, "--json"]).await;
    assert_eq!(found["snapshot"]["shards"][0]["owner"], "worker-1");
    let several = bed.run(&["describe", APPLICATION]).await;
    assert_eq!(several.code, 2, "{several:?}");
    assert!(several.errors.contains("111122223333:lines:8"), "{several:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrow_terminals_have_narrow_lines() {
    let bed = TestBed::start(4).await;
    for number in 0..4 {
        bed.put_lease(lease(number, Some("a-worker-with-a-rather-long-name-1"))).await;
    }
    let mut command = bed.program(&["describe", APPLICATION, "--stream", STREAM]);
    command.env("COLUMNS", "40");
    let finished = finish(command).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    for line in finished.output.lines() {
        assert!(line.chars().count() <= 40, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_of_2000_leases_is_whole() {
    let bed = TestBed::start(4).await;
    let row = |shard: u64| {
        vec![
            ("leaseKey", AttributeValue::S(format!("shardId-{shard:012}"))),
            ("leaseOwner", AttributeValue::S(format!("worker-{}", shard % 20))),
            ("leaseCounter", number(1_000 + shard)),
            ("ownerSwitchesSinceCheckpoint", number(0)),
            ("checkpoint", text("49590338271490256608559692538361571095921575989136588898")),
            ("checkpointSubSequenceNumber", number(0)),
            ("startingHashKey", text(&(u128::from(shard) * (u128::MAX / 2_000)).to_string())),
            ("endingHashKey", text(&(u128::from(shard + 1) * (u128::MAX / 2_000) - 1).to_string())),
        ]
    };
    bed.put_rows(APPLICATION, (0..2_000).map(row).collect()).await;
    let started_at = tokio::time::Instant::now();
    let finished = bed.run(&["describe", APPLICATION, "--stream", STREAM]).await;
    println!("describe of 2000 leases took {:?}", started_at.elapsed());
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(finished.output.contains("20 workers"), "{finished:?}");
    assert!(finished.output.contains("1960 shards more"), "{finished:?}");
}
