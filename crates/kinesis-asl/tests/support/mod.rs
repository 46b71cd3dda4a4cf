//! Servers for the tests, in this process: Kinesis with faults on demand, and one whose answers are written by hand.
//! They end when they are dropped.

#![allow(dead_code)] // no test program uses all of it

pub(crate) mod cbor;
pub(crate) mod fan_out;
pub(crate) mod scripted;

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

/// Every format of `GetRecords`. A test that fails says in its output in which one.
pub(crate) fn every_format() -> impl Iterator<Item = GetRecordsFormat> {
    let formats = [GetRecordsFormat::Cbor, GetRecordsFormat::Json, GetRecordsFormat::Sdk];
    formats.into_iter().inspect(|format| println!("in {format}"))
}

/// The region that the servers say they are in, unless told otherwise.
pub(crate) const REGION: &str = "us-east-1";

/// The largest request body, in bytes: above the 5 MiB of a full `PutRecords` in base64.
const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// How many open shards the Kinesis server allows.
const SHARD_LIMIT: u32 = 1000;

/// Any credentials will do, but there must be some.
pub(crate) fn credentials() -> Credentials {
    Credentials::new("000000000000", "local", None, None, "local server")
}

/// The configuration of a Kinesis client that sees every failure: the SDK repeats nothing.
pub(crate) fn client_config(endpoint_url: &str, region: &'static str) -> Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials())
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint_url)
}

/// A port with a router behind it.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    _task: JoinSet<()>,
}

impl Server {
    /// Serves a router on a free port.
    pub(crate) async fn start(app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let mut task = JoinSet::new();
        task.spawn(async move {
            axum::serve(listener, app).await.expect("the server goes on until it is dropped");
        });
        Self { url, _task: task }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// An answer that stands in for the one the server would give.
#[derive(Debug, Clone)]
struct Fault {
    operation: &'static str,
    status: u16,
    code: &'static str,
}

/// What the layer before the server knows.
#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<Fault>,
    calls: Vec<String>,
}

/// `ferrokinesis` with a lock and faults before it.
#[derive(Debug)]
pub(crate) struct LocalKinesis {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

impl LocalKinesis {
    /// Starts it, empty.
    pub(crate) async fn start() -> Self {
        Self::start_in(REGION).await
    }

    /// Starts it, empty, in a region.
    ///
    /// Without the lock a tailing reader can pass a record whose sequence number was given but which is not stored yet,
    /// and readers among many writers can stop the server for good (both seen with 0.7.0). Writes go one at a time,
    /// everything else side by side.
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
                if let Some(fault) = locked(&plan).note(&operation) {
                    return refusal(fault.status, fault.code);
                }
                if operation.starts_with("PutRecord") {
                    let _alone = lock.write().await;
                    next.run(request).await
                } else {
                    let _shared = lock.read().await;
                    next.run(request).await
                }
            }
        }));
        Self { server: Server::start(app.layer(DefaultBodyLimit::max(MAX_BODY_BYTES))).await, plan }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// A client for it that repeats nothing.
    pub(crate) fn client(&self) -> Client {
        Client::from_conf(client_config(self.url(), REGION).build())
    }

    /// Answers so many of the next calls of an operation with an error instead.
    pub(crate) fn fail(&self, operation: &'static str, times: usize, status: u16, code: &'static str) {
        let faults = std::iter::repeat_n(Fault { operation, status, code }, times);
        locked(&self.plan).faults.extend(faults);
    }

    /// The operations that were called, in order, since this was last asked.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.plan).calls)
    }

    /// Whether all faults were given.
    pub(crate) fn is_sound(&self) -> bool {
        locked(&self.plan).faults.is_empty()
    }
}

impl Plan {
    /// Notes a call, and gives the fault that is due for it.
    fn note(&mut self, operation: &str) -> Option<Fault> {
        self.calls.push(operation.to_owned());
        let due = self.faults.iter().position(|fault| fault.operation == operation)?;
        self.faults.remove(due)
    }
}

/// A Kinesis server whose answers are written by hand: a closure gets the operation and the body of each request, both as
/// JSON. A request in CBOR gets the answer in CBOR, errors included, unless it was not written as JSON.
#[derive(Debug)]
pub(crate) struct CannedKinesis {
    server: Server,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl CannedKinesis {
    /// Starts it.
    pub(crate) async fn start(
        answer: impl Fn(&str, &Value) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = requests.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (noted, answer) = (noted.clone(), answer.clone());
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
                locked(&noted).push((operation, body));
                if is_cbor { cbor::translated(response).await } else { response }
            }
        });
        Self { server: Server::start(app).await, requests }
    }

    /// A client for it that repeats nothing.
    pub(crate) fn client(&self) -> Client {
        Client::from_conf(client_config(self.server.url(), REGION).build())
    }

    /// The requests so far: operation and body.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        locked(&self.requests).clone()
    }
}

/// A good answer.
pub(crate) fn ok(body: &Value) -> Response {
    json_response(200, body)
}

/// An answer that refuses the request.
pub(crate) fn refusal(status: u16, code: &str) -> Response {
    json_response(status, &json!({ "__type": code, "message": "as the test wants it" }))
}

fn json_response(status: u16, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .body(Body::from(body.to_string()))
        .expect("a response")
}

/// `ListShards` from the header `Kinesis_20131202.ListShards`.
fn operation_of(request: &Request) -> String {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
