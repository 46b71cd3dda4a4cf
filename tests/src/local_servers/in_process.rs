//! Servers in this process: nothing to install, ready at once, and open to injected faults.

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
use super::kinesis_answers::{MAX_BODY_BYTES, answer_as_aws};

/// The limit of open shards of the Kinesis server.
const SHARD_LIMIT: u32 = 1000;

/// The lifetime of a subscription, in milliseconds. It is 5 min on AWS. Here a run spans several subscriptions, and each is
/// longer than the five seconds that must lie between two.
const SUBSCRIPTION_MS: u64 = 7_000;

/// The content type of the server's answers.
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
    /// When no port is free.
    pub async fn start() -> io::Result<Self> {
        Self::start_at("127.0.0.1:0", "127.0.0.1:0").await
    }

    /// Starts both at given addresses.
    ///
    /// # Errors
    /// When an address is in use.
    pub async fn start_at(kinesis: &str, dynamodb: &str) -> io::Result<Self> {
        Self::serve(kinesis, dynamodb, kinesis_app(Answers::AsTheServer)).await
    }

    /// Starts both. The Kinesis server also answers as AWS documents where `ferrokinesis` does not; the Java KCL needs that.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_for_java() -> io::Result<Self> {
        Self::serve("127.0.0.1:0", "127.0.0.1:0", kinesis_app(Answers::AsAws)).await
    }

    /// Starts both. The Kinesis server answers as AWS documents, behind a change by the test.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_changed(change: impl FnOnce(Router) -> Router) -> io::Result<Self> {
        Self::serve("127.0.0.1:0", "127.0.0.1:0", change(kinesis_app(Answers::AsAws))).await
    }

    async fn serve(kinesis: &str, dynamodb: &str, kinesis_app: Router) -> io::Result<Self> {
        let (kinesis, dynamodb) = (TcpListener::bind(kinesis).await?, TcpListener::bind(dynamodb).await?);
        let endpoints = Endpoints {
            kinesis: format!("http://{}", kinesis.local_addr()?),
            dynamodb: format!("http://{}", dynamodb.local_addr()?),
        };
        let mut servers = serve_dynamodb(dynamodb)?;
        servers.spawn(async move {
            if let Err(error) = axum::serve(kinesis, kinesis_app).await {
                eprintln!("the local Kinesis ended: {error}");
            }
        });
        Ok(Self { endpoints, _servers: servers })
    }

    /// The endpoints at which the servers listen.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

/// Starts an empty `dynoxide`. It ends when the set is dropped.
pub(super) fn serve_dynamodb(listener: TcpListener) -> io::Result<JoinSet<()>> {
    let database = dynoxide::Database::memory().map_err(|error| io::Error::other(error.to_string()))?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        if let Err(error) = dynoxide::server::serve_with_shutdown(listener, database, pending()).await {
            eprintln!("the local DynamoDB ended: {error}");
        }
    });
    Ok(server)
}

/// The answers of the local Kinesis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// The answers of `ferrokinesis`. The tests show that our receiver copes with its gaps.
    AsTheServer,
    /// With what [`answer_as_aws`] adds.
    AsAws,
}

/// `ferrokinesis` behind a lock. Without it a reader at the tip can pass a record whose sequence number is assigned but
/// which is not stored yet, and readers among many writers can deadlock the server (both seen with 0.7.0). Writes run one at
/// a time, and all other calls run concurrently.
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

/// Bypasses the server's own parsing of the request, which loses the starting position. The events come outside the lock.
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
