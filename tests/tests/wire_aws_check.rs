//! `cargo xtask aws-check` against local servers: assumptions hold and break as the servers behave, and no payload is reported.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{Consumer, ConsumerStatus};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use ciborium::Value as CborValue;
use end_to_end_tests::aws_check::assumption::{ASSUMPTIONS, Findings, Verdict};
use end_to_end_tests::aws_check::report::Report;
use end_to_end_tests::aws_check::run::{Clients, Options, Outcome, run};
use end_to_end_tests::local_servers::{Endpoints, InProcessServers, REGION};
use end_to_end_tests::programs::program;
use kinesis_streaming::prelude::LeaseStore as _;
use lease_store::dynamodb::DynamoDbLeaseStore;
use serde_json::{Value, json};

const STREAM: &str = "words";

/// In every payload and every partition key.
const MARKER: &str = "PAYLOAD-MARKER";

/// The largest body that is altered, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// A stream of two shards with records in each, one of them split.
async fn prepare(endpoints: &Endpoints) {
    let client = endpoints.kinesis_client();
    client.create_stream().stream_name(STREAM).shard_count(2).send().await.unwrap();
    for number in 0..20 {
        let put = client.put_record().stream_name(STREAM).data(Blob::new(format!("{MARKER} {number}")));
        put.partition_key(format!("{MARKER}-{number}")).send().await.unwrap();
    }
    let split = client.split_shard().stream_name(STREAM).shard_to_split("shardId-000000000000");
    split.new_starting_hash_key((u128::MAX / 4).to_string()).send().await.unwrap();
    for number in 20..40 {
        let put = client.put_record().stream_name(STREAM).data(Blob::new(format!("{MARKER} {number}")));
        put.partition_key(format!("{MARKER}-{number}")).send().await.unwrap();
    }
}

fn options() -> Options {
    Options { is_paced: false, ..Options::of_stream(STREAM) }
}

async fn check(endpoints: &Endpoints, options: &Options) -> Outcome {
    let clients = Clients { kinesis: endpoints.kinesis_client(), dynamodb: endpoints.dynamodb_client() };
    let outcome = run(&clients, options).await;
    let report = Report { stream: &options.stream, region: REGION, findings: &outcome.findings }.to_string();
    assert!(!report.contains(MARKER), "{report}");
    assert_eq!(outcome.left_behind, Vec::<String>::new());
    outcome
}

/// The ids with this verdict.
fn with(verdict: Verdict, findings: &Findings) -> Vec<&'static str> {
    let ids = ASSUMPTIONS.iter().map(|assumption| assumption.id);
    ids.filter(|id| findings.of(id).0 == verdict).collect()
}

/// The options that allow everything.
fn all_options() -> Options {
    Options {
        consumer: Some("check".to_owned()),
        may_register: true,
        table: Some("aws-check".to_owned()),
        ..options()
    }
}

#[tokio::test]
async fn a_plain_local_server_breaks_what_it_lacks() {
    let servers = InProcessServers::start().await.unwrap();
    prepare(servers.endpoints()).await;
    let Outcome { findings, .. } = check(servers.endpoints(), &options()).await;
    let broken = [
        "stream.arn",
        "list.pages",
        "list.open",
        "list.trim-horizon",
        "list.after",
        "cbor.map",
        "cbor.time",
        "end.children",
        "dry-run.iterator",
        "dry-run.records",
    ];
    assert_eq!(with(Verdict::Broken, &findings), broken);
    assert_eq!(findings.of("list.open").1, "4 shards, 3 expected");
    assert_eq!(findings.of("end.children").1, "0 children named, 2 listed");
    // Nothing else was asked for, so nothing was written.
    let not_tried = with(Verdict::NotTried, &findings);
    assert!(
        not_tried
            .iter()
            .all(|id| ["dry-run.subscribe", "fan-out", "table"].iter().any(|part| id.starts_with(part)))
    );
    let consumers = servers.endpoints().kinesis_client().list_stream_consumers();
    let arn = format!("arn:aws:kinesis:{REGION}:000000000000:stream/{STREAM}");
    assert!(consumers.stream_arn(arn).send().await.unwrap().consumers().is_empty());
    assert!(
        servers.endpoints().dynamodb_client().list_tables().send().await.unwrap().table_names().is_empty()
    );
}

#[tokio::test]
async fn a_server_like_aws_holds_the_assumptions() {
    let servers = InProcessServers::start_changed(|app| app.layer(from_fn(like_aws))).await.unwrap();
    prepare(servers.endpoints()).await;
    let Outcome { findings, .. } = check(servers.endpoints(), &all_options()).await;
    // What the server behind it cannot do: ids of subscriptions, pages by a token alone, refusing a second subscription, and a last
    // event without continuation.
    let broken = ["answer.ids", "list.pages", "fan-out.refusal", "fan-out.end"];
    assert_eq!(with(Verdict::Broken, &findings), broken);
    assert_eq!(with(Verdict::NotTried, &findings), Vec::<&str>::new());
    // What was created is removed; the server takes a moment to remove a consumer.
    let consumers = servers.endpoints().kinesis_client().list_stream_consumers();
    let arn = format!("arn:aws:kinesis:{REGION}:000000000000:stream/{STREAM}");
    let consumers = consumers.stream_arn(arn).send().await.unwrap();
    let is_removed = |consumer: &Consumer| consumer.consumer_status == ConsumerStatus::Deleting;
    assert!(consumers.consumers().iter().all(is_removed), "{consumers:?}");
    assert!(
        servers.endpoints().dynamodb_client().list_tables().send().await.unwrap().table_names().is_empty()
    );
}

#[tokio::test]
async fn a_missing_member_breaks_its_assumption() {
    for (member, broken) in [("Records", "read.records"), ("MillisBehindLatest", "read.lag")] {
        let change = move |request: Request, next: Next| async move {
            changed(request, next, |answer| answer.retain(|(key, _)| key.as_text() != Some(member))).await
        };
        let servers = InProcessServers::start_changed(|app| app.layer(from_fn(change))).await.unwrap();
        prepare(servers.endpoints()).await;
        let Outcome { findings, .. } = check(servers.endpoints(), &options()).await;
        assert_eq!(findings.of(broken).0, Verdict::Broken, "{member}");
    }
}

#[tokio::test]
async fn a_denied_call_breaks_no_assumption() {
    let deny = |request: Request, next: Next| async move {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
        if String::from_utf8_lossy(&body).contains("AT_LATEST") {
            let refusal = json!({"__type": "AccessDeniedException", "message": "no"}).to_string();
            return (StatusCode::BAD_REQUEST, refusal).into_response();
        }
        next.run(Request::from_parts(parts, Body::from(body))).await
    };
    let servers = InProcessServers::start_changed(|app| app.layer(from_fn(deny))).await.unwrap();
    prepare(servers.endpoints()).await;
    let Outcome { findings, .. } = check(servers.endpoints(), &options()).await;
    assert_eq!(findings.of("list.open"), (Verdict::NotTried, "refused: AccessDeniedException (400)"));
    assert_eq!(findings.of("list.after").0, Verdict::Held);
}

#[tokio::test]
async fn a_stream_that_does_not_exist_is_no_success() {
    let servers = InProcessServers::start().await.unwrap();
    let mut command = program("aws_check");
    command.args(["--stream", STREAM, "--endpoint-url", &servers.endpoints().kinesis]);
    let output = command.output().await.unwrap();
    assert!(!output.status.success());
    let (report, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(report.contains("| refused: ResourceNotFoundException (400) | not tried |"), "{report}");
    assert!(error.contains("check the name of the stream"), "{error}");
}

#[tokio::test]
async fn a_table_that_exists_is_left_alone() {
    let servers = InProcessServers::start_for_java().await.unwrap();
    prepare(servers.endpoints()).await;
    let first = check(servers.endpoints(), &all_options()).await;
    assert_eq!(first.findings.of("table.scan").0, Verdict::Held);
    let client = servers.endpoints().dynamodb_client();
    DynamoDbLeaseStore::new(client.clone(), "aws-check").unwrap().prepare().await.unwrap();
    let second = check(servers.endpoints(), &all_options()).await;
    let (verdict, seen) = second.findings.of("table.condition");
    assert_eq!((verdict, seen), (Verdict::NotTried, "the table cannot be created: ResourceInUseException"));
    assert_eq!(client.list_tables().send().await.unwrap().table_names(), ["aws-check"]);
}

#[tokio::test]
async fn the_program_writes_a_report_and_fails() {
    let servers = InProcessServers::start().await.unwrap();
    prepare(servers.endpoints()).await;
    let report = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("aws-check.md");
    let mut command = program("aws_check");
    command
        .args(["--stream", STREAM, "--endpoint-url", &servers.endpoints().kinesis, "--report"])
        .arg(&report);
    let output = command.output().await.unwrap();
    assert!(!output.status.success());
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.starts_with("15 held, 10 broken, 9 not tried"), "{summary}");
    let report = std::fs::read_to_string(report).unwrap();
    assert!(report.contains("| a map of stated length | BROKEN |") && !report.contains(MARKER), "{report}");
}

/// Answers dry runs, and writes CBOR as AWS does: indefinite maps, and milliseconds.
async fn like_aws(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
    let requested: Value = serde_json::from_slice(&body).unwrap_or_default();
    if requested["DryRun"] == json!(true) {
        let refusal = json!({"__type": "DryRunOperationException", "message": "allowed"}).to_string();
        return (
            StatusCode::BAD_REQUEST,
            [("x-amzn-requestid", "1"), ("x-amz-id-2", "2"), ("date", DATE)],
            refusal,
        )
            .into_response();
    }
    let request = Request::from_parts(parts, Body::from(body));
    changed(request, next, |answer| {
        let records = answer.iter_mut().find(|(key, _)| key.as_text() == Some("Records"));
        let records = records.and_then(|(_, records)| records.as_array_mut()).into_iter().flatten();
        for (key, value) in records.filter_map(CborValue::as_map_mut).flatten() {
            if key.as_text() == Some("ApproximateArrivalTimestamp") {
                // JSON has floating-point seconds, which stay.
                let seconds = untagged(value).as_integer().and_then(|seconds| i64::try_from(seconds).ok());
                let Some(seconds) = seconds else { continue };
                *value = CborValue::Tag(1, Box::new(CborValue::Integer((seconds * 1000).into())));
            }
        }
    })
    .await
}

/// A date of answers that do not come from the server.
const DATE: &str = "Sun, 29 Nov 2026 00:00:00 GMT";

fn untagged(value: &CborValue) -> &CborValue {
    match value {
        CborValue::Tag(_, inner) => inner,
        value => value,
    }
}

/// Passes a request on, and changes the members of an answer of `GetRecords`: in CBOR, where it becomes an indefinite map, and in
/// JSON.
async fn changed(
    request: Request,
    next: Next,
    change: impl FnOnce(&mut Vec<(CborValue, CborValue)>),
) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    if target.is_none_or(|target| !target.ends_with(".GetRecords")) {
        return next.run(request).await;
    }
    let answer = next.run(request).await;
    if answer.status() != StatusCode::OK {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
    let is_json = body.starts_with(b"{");
    let answer: CborValue =
        if is_json { serde_json::from_slice(&body).unwrap() } else { ciborium::from_reader(&*body).unwrap() };
    let mut members = answer.into_map().unwrap();
    let mut body = Vec::new();
    if is_json {
        // Only the times of CBOR are changed.
        let before = members.clone();
        change(&mut members);
        members = before.into_iter().filter(|(key, _)| members.iter().any(|(kept, _)| kept == key)).collect();
        body = serde_json::to_vec(&CborValue::Map(members)).unwrap();
    } else {
        change(&mut members);
        body.push(0xbf);
        for (key, value) in &members {
            ciborium::into_writer(key, &mut body).unwrap();
            ciborium::into_writer(value, &mut body).unwrap();
        }
        body.push(0xff);
    }
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    Response::from_parts(parts, Body::from(body))
}
