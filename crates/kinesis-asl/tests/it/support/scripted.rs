//! An HTTP client without a network: scripted answers and event streams, in virtual time.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::primitives::event_stream::{Header, HeaderValue, Message};
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use aws_sdk_kinesis::{Client, error::ConnectorError};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep};

use super::{REGION, cbor, client_config, locked};

/// The start of the virtual time by the service's clock, in seconds since 1970.
pub(crate) const EPOCH_SECONDS: u64 = 1_700_000_000;

/// The ids in the headers `x-amzn-requestid` and `x-amz-id-2` of every answer.
pub(crate) const REQUEST_IDS: (&str, &str) = ("request-1", "extended-2");

/// The service's reaction to one request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A JSON answer with this status.
    Json(u16, Value),
    /// A successful answer in the encoding of the request.
    SameEncoding(Value),
    /// A successful answer with these bytes, labelled with the encoding of the request.
    Bytes(Vec<u8>),
    /// An event stream.
    Events(Vec<Part>),
    /// A JSON answer that arrives in these parts.
    InParts(Vec<Part>),
    /// No answer.
    Silence,
    /// The connection breaks.
    Broken,
}

/// A part of an event stream. After the last part the stream ends normally.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// The first message of AWS: the subscription is accepted.
    Accepted,
    Wait(Duration),
    /// A `SubscribeToShardEvent`.
    Event(Value),
    /// The same in three frames, each of which counts as one read.
    EventInFrames(Value),
    /// A frame with these bytes.
    Frame(Vec<u8>),
    /// An exception of this type instead of an event.
    Exception(&'static str),
    /// The first half of an event.
    HalfAnEvent,
    /// The connection breaks.
    Tear,
    /// No further frame, but the connection stays open.
    Hang,
}

/// One request, and when it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    pub(crate) operation: String,
    pub(crate) body: Value,
}

type Answering = dyn Fn(&str, &Value) -> Answer + Send + Sync;

/// A Kinesis service scripted by the test.
#[derive(Clone)]
pub(crate) struct ScriptedKinesis {
    answer: Arc<Answering>,
    requests: Arc<Mutex<Vec<Request>>>,
    frames_read: Arc<AtomicUsize>,
    started_at: Instant,
    sends_date: bool,
}

impl std::fmt::Debug for ScriptedKinesis {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ScriptedKinesis").finish_non_exhaustive()
    }
}

impl ScriptedKinesis {
    /// Answers each request with the result of the closure for its operation and body.
    pub(crate) fn new(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            requests: Arc::default(),
            frames_read: Arc::default(),
            started_at: Instant::now(),
            sends_date: true,
        }
    }

    /// The same service without a date in its answers.
    pub(crate) fn without_date(mut self) -> Self {
        self.sends_date = false;
        self
    }

    /// A client of the service without SDK retries.
    pub(crate) fn client(&self) -> Client {
        let connector = SharedHttpConnector::new(self.clone());
        let config = client_config("http://kinesis.test", REGION)
            .http_client(http_client_fn(move |_, _| connector.clone()));
        Client::from_conf(config.build())
    }

    /// The bodies of the requests of one operation so far.
    pub(crate) fn bodies(&self, operation: &str) -> Vec<Value> {
        self.requests(operation).into_iter().map(|request| request.body).collect()
    }

    /// The requests of one operation so far.
    pub(crate) fn requests(&self, operation: &str) -> Vec<Request> {
        let requests = locked(&self.requests);
        requests.iter().filter(|request| request.operation == operation).cloned().collect()
    }

    /// The number of frames read from event streams so far.
    pub(crate) fn frames_read(&self) -> usize {
        self.frames_read.load(Ordering::Relaxed)
    }

    fn date(&self) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECONDS) + self.started_at.elapsed();
        DateTime::from(now).fmt(DateTimeFormat::HttpDate).expect("a date")
    }
}

impl HttpConnector for ScriptedKinesis {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().expect("a body in memory");
        // A CBOR request is answered in JSON like all others.
        let is_cbor = request.headers().get("content-type") == Some(cbor::CONTENT_TYPE);
        let json_type = "application/x-amz-json-1.1";
        let requested_type = if is_cbor { cbor::CONTENT_TYPE } else { json_type };
        let body = if is_cbor { cbor::to_json(body) } else { serde_json::from_slice(body).expect("JSON") };
        let answer = (self.answer)(&operation, &body);
        locked(&self.requests).push(Request { at: Instant::now(), operation, body });
        let (status, content_type, body) = match answer {
            Answer::Silence => return HttpConnectorFuture::new(std::future::pending()),
            Answer::Broken => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("the connection broke".into())));
            }
            Answer::Json(status, body) => (status, json_type, SdkBody::from(body.to_string())),
            Answer::SameEncoding(body) if is_cbor => {
                (200, requested_type, SdkBody::from(cbor::encoded(&body)))
            }
            Answer::InParts(parts) => {
                let body = SdkBody::from_body_1_x(Events::new(parts, self.frames_read.clone()));
                (200, "application/x-amz-json-1.1", body)
            }
            Answer::SameEncoding(body) => (200, requested_type, SdkBody::from(body.to_string())),
            Answer::Bytes(body) => (200, requested_type, SdkBody::from(body)),
            Answer::Events(parts) => {
                let body = SdkBody::from_body_1_x(Events::new(parts, self.frames_read.clone()));
                (200, "application/vnd.amazon.eventstream", body)
            }
        };
        let mut response = HttpResponse::new(status.try_into().expect("a status"), body);
        response.headers_mut().insert("content-type", content_type);
        response.headers_mut().insert("x-amzn-requestid", REQUEST_IDS.0);
        response.headers_mut().insert("x-amz-id-2", REQUEST_IDS.1);
        if self.sends_date {
            response.headers_mut().insert("date", self.date());
        }
        HttpConnectorFuture::ready(Ok(response))
    }
}

/// The body of an event stream.
pub(crate) struct Events {
    parts: VecDeque<Part>,
    waiting: Option<Pin<Box<Sleep>>>,
    frames_read: Arc<AtomicUsize>,
}

impl Events {
    pub(crate) fn new(parts: Vec<Part>, frames_read: Arc<AtomicUsize>) -> Self {
        Self { parts: parts.into(), waiting: None, frames_read }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            let Some(part) = self.parts.pop_front() else { return Poll::Ready(None) };
            let bytes = match part {
                Part::Wait(wait) => {
                    self.waiting = Some(Box::pin(sleep(wait)));
                    continue;
                }
                Part::Accepted => message("event", ":event-type", "initial-response", &json!({})),
                Part::Event(event) => message("event", ":event-type", "SubscribeToShardEvent", &event),
                Part::EventInFrames(event) => {
                    let whole = message("event", ":event-type", "SubscribeToShardEvent", &event);
                    let frames = whole.chunks(whole.len() / 3 + 1).map(|frame| Part::Frame(frame.to_vec()));
                    let rest: Vec<_> = frames.chain(std::mem::take(&mut self.parts)).collect();
                    self.parts = rest.into();
                    continue;
                }
                Part::Frame(bytes) => bytes,
                Part::Exception(kind) => message(
                    "exception",
                    ":exception-type",
                    kind,
                    &json!({ "message": "scripted by the test" }),
                ),
                Part::HalfAnEvent => {
                    let mut bytes =
                        message("event", ":event-type", "SubscribeToShardEvent", &event(&[1], None, &[]));
                    bytes.truncate(bytes.len() / 2);
                    bytes
                }
                Part::Tear => return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
                Part::Hang => {
                    self.parts.push_front(Part::Hang);
                    return Poll::Pending;
                }
            };
            self.frames_read.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
        }
    }
}

/// An encoded event-stream message.
fn message(
    message_type: &'static str,
    type_header: &'static str,
    kind: &'static str,
    content: &Value,
) -> Vec<u8> {
    let header = |name, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(Bytes::from(content.to_string()))
        .add_header(header(":message-type", message_type))
        .add_header(header(type_header, kind))
        .add_header(header(":content-type", "application/json"));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).expect("a message");
    bytes
}

/// A record with this sequence number, in the JSON of AWS.
pub(crate) fn record(number: u64) -> Value {
    json!({
        "SequenceNumber": number.to_string(), "PartitionKey": "key", "Data": "AA==",
        "ApproximateArrivalTimestamp": EPOCH_SECONDS,
    })
}

/// An event with these records, this continuation and these children.
pub(crate) fn event(numbers: &[u64], continuation: Option<u64>, children: &[&str]) -> Value {
    let children: Vec<Value> = children
        .iter()
        .map(|child| {
            let range = json!({ "StartingHashKey": "0", "EndingHashKey": "7" });
            json!({ "ShardId": child, "ParentShards": ["shardId-000000000000"], "HashKeyRange": range })
        })
        .collect();
    json!({
        "Records": numbers.iter().copied().map(record).collect::<Vec<_>>(),
        "ContinuationSequenceNumber": continuation.map(|number| number.to_string()),
        "MillisBehindLatest": 0,
        "ChildShards": if children.is_empty() { Value::Null } else { Value::from(children) },
    })
}
