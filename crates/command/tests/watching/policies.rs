//! `iam-policy`: what it prints is enough.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use end_to_end_tests::local_servers::InProcessServers;
use serde_json::Value;

use crate::bench::{APPLICATION, STREAM, TestBed, lease};

/// The calls by which the test prepares the stream.
const OF_THE_TEST: [&str; 2] = ["CreateStream", "PutRecord"];

/// The server, which refuses each call of Kinesis that is not allowed.
fn allowing(app: Router, allowed: Arc<BTreeSet<String>>) -> Router {
    app.layer(from_fn(move |request: Request, next: Next| {
        let allowed = allowed.clone();
        async move {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            let call = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
            if allowed.contains(&call) {
                return next.run(request).await;
            }
            let body =
                format!("{{\"__type\":\"AccessDeniedException\",\"message\":\"{call} is not authorized\"}}");
            (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body).into_response()
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_policy_is_enough_to_watch() {
    let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}");
    let program = env!("CARGO_BIN_EXE_kinesis-streaming");
    let arguments = ["iam-policy", APPLICATION, "--stream-arn", &arn, "--for", "watch"];
    let printed = tokio::process::Command::new(program).args(arguments).output().await.unwrap();
    let policy: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let actions = policy["Statement"].as_array().unwrap().iter().map(|statement| &statement["Action"]);
    let actions =
        actions.flat_map(|action| action.as_array().cloned().unwrap_or_else(|| vec![action.clone()]));
    let allowed = actions.filter_map(|action| action.as_str()?.strip_prefix("kinesis:").map(str::to_owned));
    let allowed: BTreeSet<String> = allowed.chain(OF_THE_TEST.map(str::to_owned)).collect();
    assert_eq!(allowed.len(), 6, "{allowed:?}");
    let allowed = Arc::new(allowed);
    let servers = InProcessServers::start_changed(|app| allowing(app, allowed)).await.unwrap();
    let bed = TestBed::over(servers, 1).await;
    bed.put_records(&["a"]).await;
    bed.put_lease(lease(0, Some("worker-1"))).await;
    let found =
        bed.json(&["describe", APPLICATION, "--stream", STREAM, "--json", "--probe-time", "10s"]).await;
    assert_eq!(found["gaps"], serde_json::json!([]), "{found}");
    assert!(found["verdict"]["behind_millis"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(bed.run(&["cat", STREAM]).await.output.lines().count(), 1);
}
