//! Servers in this process: nothing to install, ready at once, and a place to inject faults.

use std::future::pending;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use ferrokinesis::actions::subscribe_to_shard;
use ferrokinesis::store::{Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::Endpoints;
use super::kinesis_answers::answer_as_aws;

/// The largest request body, above the 5 MiB of a full `PutRecords` in base64.
pub(super) const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// How many open shards the Kinesis server allows.
const SHARD_LIMIT: u32 = 1000;

/// How long a subscription lives, in milliseconds: 5 min on AWS, here so short that a run goes over several, and longer than
/// the five seconds that must lie between two.
const SUBSCRIPTION_MS: u64 = 7_000;

/// What the server speaks.
const AMZ_JSON: &str = "application/x-amz-json-1.1";

/// `ferrokinesis` and `dynoxide` in this process, each on a port of its own. They end when this is dropped.
#[derive(Debug)]
pub struct InProcessServers {
    endpoints: Endpoints,
    _servers: JoinSet<()>,
}

impl InProcessServers {
    /// Starts both.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> io::Result<Self> {
        Self::start_at("127.0.0.1:0", "127.0.0.1:0").await
    }

    /// Starts both at given addresses.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub async fn start_at(kinesis: &str, dynamodb: &str) -> io::Result<Self> {
        Self::serve(kinesis, dynamodb, kinesis_app(Answers::AsTheServer)).await
    }

    /// Starts both, the Kinesis answering what AWS documents where the server alone does not: what the Java KCL needs.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start_for_java() -> io::Result<Self> {
        Self::serve("127.0.0.1:0", "127.0.0.1:0", kinesis_app(Answers::AsAws)).await
    }

    async fn serve(kinesis: &str, dynamodb: &str, kinesis_app: Router) -> io::Result<Self> {
        let (kinesis, dynamodb) = (TcpListener::bind(kinesis).await?, TcpListener::bind(dynamodb).await?);
        let endpoints = Endpoints {
            kinesis: format!("http://{}", kinesis.local_addr()?),
            dynamodb: format!("http://{}", dynamodb.local_addr()?),
        };
        let database = dynoxide::Database::memory().map_err(|error| io::Error::other(error.to_string()))?;
        let mut servers = JoinSet::new();
        servers.spawn(async move {
            if let Err(error) = axum::serve(kinesis, kinesis_app).await {
                eprintln!("the local Kinesis ended: {error}");
            }
        });
        servers.spawn(async move {
            if let Err(error) = dynoxide::server::serve_with_shutdown(dynamodb, database, pending()).await {
                eprintln!("the local DynamoDB ended: {error}");
            }
        });
        Ok(Self { endpoints, _servers: servers })
    }

    /// Where they listen.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

/// Which answers the local Kinesis gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Those of the server: where it lacks something, our receiver is tested to do without.
    AsTheServer,
    /// With what [`answer_as_aws`] adds.
    AsAws,
}

/// `ferrokinesis` behind a lock: without it a tailing reader can pass a record whose sequence number was given but
/// which is not stored yet, and readers among many writers can stop the server for good (both seen with 0.7.0). Writes
/// go one at a time, everything else side by side.
fn kinesis_app(answers: Answers) -> Router {
    let options = StoreOptions {
        create_stream_ms: 0,
        delete_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: SHARD_LIMIT,
        subscribe_to_shard_session_ms: SUBSCRIPTION_MS,
        ..Default::default()
    };
    let (app, store) = ferrokinesis::create_app(options);
    let lock = Arc::new(RwLock::new(()));
    let servers = store.clone();
    let app = app.layer(from_fn(move |request: Request, next: Next| {
        let (lock, store) = (lock.clone(), servers.clone());
        async move {
            let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
            if target.is_some_and(|target| target.ends_with(".SubscribeToShard")) {
                subscribe(&store, request.into_body()).await
            } else if target.is_some_and(|target| target.contains(".PutRecord")) {
                let _alone = lock.write().await;
                next.run(request).await
            } else {
                let _shared = lock.read().await;
                next.run(request).await
            }
        }
    }));
    let app = match answers {
        Answers::AsTheServer => app,
        Answers::AsAws => app.layer(from_fn(move |request: Request, next: Next| {
            let store = store.clone();
            async move { answer_as_aws(&store, request, next).await }
        })),
    };
    app.layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// Past the server's own reading of the request, which loses where to start. The events come outside the lock.
async fn subscribe(store: &Store, body: Body) -> Response {
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or_default();
    match subscribe_to_shard::execute_streaming(store, request, AMZ_JSON).await {
        Ok(events) => ([(CONTENT_TYPE, "application/vnd.amazon.eventstream")], events).into_response(),
        Err(error) => {
            let mut response = serde_json::to_string(&error.body).unwrap_or_default().into_response();
            if let Ok(status) = error.status_code.try_into() {
                *response.status_mut() = status;
            }
            response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static(AMZ_JSON));
            response
        }
    }
}
