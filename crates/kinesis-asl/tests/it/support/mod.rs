//! In-process servers for the tests: a local Kinesis with injected faults, and one with canned answers. Dropping a server
//! stops it.

pub(crate) mod cbor;
pub(crate) mod fan_out;
pub(crate) mod scripted;
pub(crate) mod tls;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_kinesis::{Client, Config};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use ferrokinesis::store::StoreOptions;
use kinesis_asl::GetRecordsFormat;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

/// Every format of `GetRecords`. The output of a failing test names the current one.
pub(crate) fn every_format() -> impl Iterator<Item = GetRecordsFormat> {
    let formats = [GetRecordsFormat::Cbor, GetRecordsFormat::Json, GetRecordsFormat::Sdk];
    formats.into_iter().inspect(|format| println!("in {format}"))
}

/// The stream of the tests.
pub(crate) const STREAM: &str = "words";

/// The default region of the servers.
pub(crate) const REGION: &str = "us-east-1";

/// The largest request body, in bytes: above the 5 MiB of a full `PutRecords` in base64.
const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// The most open shards of the local Kinesis server.
const SHARD_LIMIT: u32 = 1000;

/// Credentials for servers that do not check them.
pub(crate) fn credentials() -> Credentials {
    Credentials::new("000000000000", "local", None, None, "local server")
}

/// The configuration of a Kinesis client without SDK retries, so that the tests see every failure.
pub(crate) fn client_config(endpoint_url: &str, region: &'static str) -> Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials())
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint_url)
}

/// A router that listens on a port of its own.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    _task: JoinSet<()>,
}

impl Server {
    /// Serves a router on a free port.
    pub(crate) async fn start(app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let mut task = JoinSet::new();
        task.spawn(async move {
            axum::serve(listener, app).await.expect("the server runs until it is dropped");
        });
        Self { url, _task: task }
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// An error to return instead of the server's answer.
#[derive(Debug, Clone)]
struct Fault {
    operation: &'static str,
    status: u16,
    code: &'static str,
}

/// The state of the layer in front of the local server.
#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<Fault>,
    calls: Vec<String>,
}

/// `ferrokinesis` behind a layer that serialises writes and injects faults.
#[derive(Debug)]
pub(crate) struct LocalKinesis {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

impl LocalKinesis {
    /// Starts an empty server.
    pub(crate) async fn start() -> Self {
        Self::start_in(REGION).await
    }

    /// Starts an empty server in a region.
    ///
    /// A lock serialises writes; all other calls run concurrently. Without the lock, a reader at the tip can miss a record that
    /// has a sequence number but is not stored yet. Concurrent readers and writers can also deadlock the server. Both were seen
    /// with 0.7.0.
    pub(crate) async fn start_in(region: &str) -> Self {
        let options = StoreOptions {
            create_stream_ms: 0,
            delete_stream_ms: 0,
            update_stream_ms: 0,
            shard_limit: SHARD_LIMIT,
            aws_region: region.to_owned(),
            ..Default::default()
        };
        let (app, _store) = ferrokinesis::create_app(options);
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (lock, shared) = (Arc::new(RwLock::new(())), plan.clone());
        let app = app.layer(from_fn(move |request: Request, next: Next| {
            let (lock, plan) = (lock.clone(), shared.clone());
            async move {
                let operation = operation_of(&request);
                if let Some(fault) = locked(&plan).record(&operation) {
                    return refusal(fault.status, fault.code);
                }
                if operation.starts_with("PutRecord") {
                    let _exclusive = lock.write().await;
                    next.run(request).await
                } else {
                    let _shared = lock.read().await;
                    next.run(request).await
                }
            }
        }));
        Self { server: Server::start(app.layer(DefaultBodyLimit::max(MAX_BODY_BYTES))).await, plan }
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// A client of the server without SDK retries.
    pub(crate) fn client(&self) -> Client {
        Client::from_conf(client_config(self.url(), REGION).build())
    }

    /// Answers the next `times` calls of an operation with an error.
    pub(crate) fn fail(&self, operation: &'static str, times: usize, status: u16, code: &'static str) {
        let faults = std::iter::repeat_n(Fault { operation, status, code }, times);
        locked(&self.plan).faults.extend(faults);
    }

    /// The operations called since the last call of this function, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.plan).calls)
    }

    /// Whether all injected faults were used up.
    pub(crate) fn has_no_faults_left(&self) -> bool {
        locked(&self.plan).faults.is_empty()
    }
}

impl Plan {
    /// Records a call, and returns the fault to inject, if one is due.
    fn record(&mut self, operation: &str) -> Option<Fault> {
        self.calls.push(operation.to_owned());
        let due = self.faults.iter().position(|fault| fault.operation == operation)?;
        self.faults.remove(due)
    }
}

/// A Kinesis server with canned answers: a closure maps the operation and the JSON body of each request to an answer. For a
/// CBOR request, a JSON answer is converted to CBOR, even if it is an error.
#[derive(Debug)]
pub(crate) struct CannedKinesis {
    server: Server,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl CannedKinesis {
    /// Starts the server.
    pub(crate) async fn start(
        answer: impl Fn(&str, &Value) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = requests.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (recorded, answer) = (recorded.clone(), answer.clone());
            async move {
                let operation = operation_of(&request);
                let content_type = request.headers().get("content-type").cloned();
                let content_type = content_type.as_ref().map_or("", |value| value.to_str().unwrap_or(""));
                let content_type = content_type.to_owned();
                let body = to_bytes(request.into_body(), MAX_BODY_BYTES).await.expect("a body");
                let is_cbor = content_type == cbor::CONTENT_TYPE;
                let body =
                    if is_cbor { cbor::to_json(&body) } else { serde_json::from_slice(&body).expect("JSON") };
                let response = answer(&operation, &body);
                locked(&recorded).push((operation, body));
                if is_cbor { cbor::to_cbor(response).await } else { response }
            }
        });
        Self { server: Server::start(app).await, requests }
    }

    /// A client of the server without SDK retries.
    pub(crate) fn client(&self) -> Client {
        Client::from_conf(client_config(self.server.url(), REGION).build())
    }

    /// The operation and the body of each request so far.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        locked(&self.requests).clone()
    }
}

/// A successful answer.
pub(crate) fn ok(body: &Value) -> Response {
    json_response(200, body)
}

/// An answer that refuses the request.
pub(crate) fn refusal(status: u16, code: &str) -> Response {
    json_response(status, &json!({ "__type": code, "message": "scripted by the test" }))
}

fn json_response(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .body(Body::from(body.to_string()))
        .expect("a response")
}

/// The operation of a request, such as `ListShards` from the header value `Kinesis_20131202.ListShards`.
pub(crate) fn operation_of(request: &Request) -> String {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
