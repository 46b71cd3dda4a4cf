//! Stands before a DynamoDB server and refuses writes of checkpoints on request; everything else passes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The largest request.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The headers that the server needs.
const PASSED_HEADERS: [&str; 4] = ["authorization", "content-type", "x-amz-date", "x-amz-target"];

/// Only the write of a checkpoint names this attribute.
const OF_CHECKPOINTS: &[u8] = b"pendingCheckpointState";

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// The code of the error.
    pub code: &'static str,
}

#[derive(Debug, Clone, Copy, Default)]
struct Refusals {
    of_checkpoints: Option<Refusal>,
    of_all: Option<Refusal>,
}

/// A running front. It ends when this is dropped.
#[derive(Debug)]
pub struct DynamoDbFront {
    address: SocketAddr,
    refusals: Arc<Mutex<Refusals>>,
    _task: JoinSet<()>,
}

impl DynamoDbFront {
    /// Starts before the server at this URL.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: &str) -> io::Result<Self> {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let refusals = Arc::new(Mutex::new(Refusals::default()));
        let shared = refusals.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (server, shared) = (server.clone(), shared.clone());
            async move { answer(&server, &shared, request).await }
        });
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the DynamoDB front ended: {error}");
            }
        });
        Ok(Self { address, refusals, _task: task })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers each write of a checkpoint with this from now on; `None`: passes it on.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).of_checkpoints = refusal;
    }

    /// Answers each call with this from now on; `None`: passes it on.
    pub fn refuse_all(&self, refusal: Option<Refusal>) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).of_all = refusal;
    }
}

async fn answer(server: &str, refusals: &Mutex<Refusals>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let target = header("x-amz-target").unwrap_or_default().to_owned();
    let passed = PASSED_HEADERS.iter().filter_map(|name| Some(format!("{name}: {}\r\n", header(name)?)));
    let headers: String = passed.collect();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let refusals = *refusals.lock().unwrap_or_else(PoisonError::into_inner);
    let is_checkpoint = target.ends_with(".UpdateItem")
        && body.windows(OF_CHECKPOINTS.len()).any(|part| part == OF_CHECKPOINTS);
    let refusal = refusals.of_all.or(refusals.of_checkpoints.filter(|_| is_checkpoint));
    if let Some(Refusal { status, code }) = refusal {
        let text =
            format!("{{\"__type\":\"com.amazonaws.dynamodb.v20120810#{code}\",\"message\":\"refused\"}}");
        return (StatusCode::from_u16(status).unwrap_or_default(), text).into_response();
    }
    match passed_on(server, &headers, &body).await {
        Ok(answer) => answer,
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// One request over a connection of its own, read to its end.
async fn passed_on(server: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {server}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut connection = TcpStream::connect(server).await?;
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    let malformed = || io::Error::other("no HTTP answer");
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    let mut response = Response::new(Body::from(answer.split_off(end + 4)));
    *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-amz-json-1.0"));
    Ok(response)
}
