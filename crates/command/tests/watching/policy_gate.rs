//! Servers that refuse each call that a policy does not allow, by action and resource.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// The largest body of a request.
const MAX_BODY_BYTES: usize = 8 << 20;

/// The region and the account of the local servers.
const PLACE: &str = "us-east-1:000000000000";

/// A policy, and what was asked of it.
#[derive(Debug)]
pub(crate) struct Gate {
    statements: Vec<Statement>,
    /// Actions that the test itself uses.
    of_the_test: BTreeSet<&'static str>,
    used: Mutex<BTreeSet<String>>,
    refused: Mutex<BTreeSet<String>>,
}

#[derive(Debug)]
struct Statement {
    actions: Vec<String>,
    resources: Vec<String>,
}

impl Gate {
    /// A gate for a printed policy.
    pub(crate) fn new(policy: &Value, of_the_test: &[&'static str]) -> Arc<Self> {
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let statements = policy["Statement"].as_array().unwrap().iter();
        let statement = |statement: &Value| Statement {
            actions: texts(&statement["Action"]),
            resources: texts(&statement["Resource"]),
        };
        Arc::new(Self {
            statements: statements.map(statement).collect(),
            of_the_test: of_the_test.iter().copied().collect(),
            used: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// The actions that were used.
    pub(crate) fn used(&self) -> BTreeSet<String> {
        self.used.lock().unwrap().clone()
    }

    /// The actions that were refused, each with its resource.
    pub(crate) fn refused(&self) -> BTreeSet<String> {
        self.refused.lock().unwrap().clone()
    }

    fn allows(&self, action: &str, resource: Option<&str>) -> bool {
        if self.of_the_test.contains(action) {
            return true;
        }
        let is_allowed = self.statements.iter().any(|statement| {
            let covers = |pattern: &String| resource.is_none_or(|resource| matches(pattern, resource));
            statement.actions.iter().any(|own| own == action) && statement.resources.iter().any(covers)
        });
        let list = if is_allowed { &self.used } else { &self.refused };
        let entry = match resource {
            Some(resource) if !is_allowed => format!("{action} on {resource}"),
            _ => action.to_owned(),
        };
        list.lock().unwrap().insert(entry);
        is_allowed
    }
}

/// Whether a resource matches a pattern with stars.
fn matches(pattern: &str, resource: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == resource,
        Some((start, rest)) => {
            resource.strip_prefix(start).is_some_and(|left| rest.is_empty() || left.ends_with(rest))
        }
    }
}

fn operation(headers: &HeaderMap) -> String {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}

fn refusal(call: &str) -> Response {
    let body = format!("{{\"__type\":\"AccessDeniedException\",\"message\":\"{call} is not authorized\"}}");
    (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}

/// The stream or the consumer of a call; `None`: an iterator stands for it.
fn resource_of(body: &Value) -> Option<String> {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let by_name = || text("StreamName").map(|name| format!("arn:aws:kinesis:{PLACE}:stream/{name}"));
    text("ConsumerARN").or_else(|| text("StreamARN")).or_else(by_name)
}

/// The Kinesis server behind the gate.
pub(crate) fn kinesis(app: Router, gate: Arc<Gate>) -> Router {
    app.layer(from_fn(move |request: Request, next: Next| {
        let gate = gate.clone();
        async move {
            let call = operation(request.headers());
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap();
            // A request in CBOR has an iterator only.
            let requested = serde_json::from_slice(&body).unwrap_or_default();
            if !gate.allows(&format!("kinesis:{call}"), resource_of(&requested).as_deref()) {
                return refusal(&call);
            }
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
    }))
}

/// A server in front of the DynamoDB server at a URL, which passes on what the gate allows.
pub(crate) async fn dynamodb(url: &str, gate: Arc<Gate>) -> (String, AbortOnDropHandle<()>) {
    let upstream = url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(move |request: Request| {
        let (gate, upstream) = (gate.clone(), upstream.clone());
        async move {
            let call = operation(request.headers());
            let headers = request.headers().clone();
            let body = to_bytes(request.into_body(), MAX_BODY_BYTES).await.unwrap();
            let requested: Value = serde_json::from_slice(&body).unwrap_or_default();
            let table = requested["TableName"].as_str().unwrap_or_default();
            let resource = format!("arn:aws:dynamodb:{PLACE}:table/{table}");
            if !gate.allows(&format!("dynamodb:{call}"), Some(&resource)) {
                return refusal(&call);
            }
            forward(&upstream, &headers, &body).await
        }
    });
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (own, AbortOnDropHandle::new(serving))
}

/// Sends a request on, on a connection of its own.
async fn forward(upstream: &str, headers: &HeaderMap, body: &Bytes) -> Response {
    let mut head = format!("POST / HTTP/1.1\r\nhost: {upstream}\r\nconnection: close\r\n");
    for (name, value) in headers {
        if !["host", "connection", "content-length"].contains(&name.as_str()) {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    let mut connection = TcpStream::connect(upstream).await.unwrap();
    connection.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(!head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = [("content-type", "application/x-amz-json-1.0")];
    (StatusCode::from_u16(status).unwrap(), kind, answer.split_off(end + 4)).into_response()
}

#[test]
fn patterns_of_resources_have_stars() {
    assert!(matches("*", "arn:aws:kinesis:x"));
    assert!(matches("arn:a/consumer/*", "arn:a/consumer/desk:7"));
    assert!(!matches("arn:a/consumer/*", "arn:a"));
    assert!(matches("arn:a", "arn:a") && !matches("arn:a", "arn:ab"));
}
