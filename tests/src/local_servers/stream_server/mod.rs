//! A Kinesis server of the tests' own, over HTTP/1.1 and HTTP/2: the calls of a consumer and of a producer, in memory.
//!
//! No emulator answers `SubscribeToShard` as AWS does, and `ferrokinesis` can lock up under subscriptions and writes. Here:
//!
//! | what | as on AWS |
//! | --- | --- |
//! | subscriptions | pushed as records arrive, an empty event in between; a second one of the same consumer and shard is refused for five seconds and then replaces the first |
//! | end of a subscription | after its lifetime, which a test chooses (AWS: 5 min) |
//! | end of a shard | no continuation or next iterator, and the children, in the last event or answer |
//! | consumers | registered, described, listed and deregistered; active at once |
//! | `GetRecords` | JSON and CBOR; lag of the next record |
//! | limits | none but the sizes of answers and events |

mod calls;
mod encoding;
mod stream;
mod subscriptions;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures::stream::unfold;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::calls::{Place, Refusal, Service};
use self::encoding::{CBOR, Frame, JSON, cbor_of_json, json_of_cbor};
use self::subscriptions::{Subscriber, Subscriptions};
use crate::interop::deliveries::now_millis;

/// The largest request body, above the 5 MiB of a full `PutRecords` in Base64.
const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// The time after which a quiet subscription gets an empty event. AWS needs a few seconds.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The most records of an event.
const EVENT_RECORDS: usize = 500;

/// The most Base64 bytes of an event, unless it has a single larger record.
const EVENT_BYTES: usize = 2 * 1024 * 1024;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct StreamServer {
    address: SocketAddr,
    state: Arc<State>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    service: Mutex<Service>,
    subscriptions: Mutex<Subscriptions>,
    /// Changes with every write.
    changes: watch::Sender<u64>,
    /// The lifetime of a subscription.
    session: Duration,
}

impl StreamServer {
    /// Starts an empty server whose subscriptions end after this time.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(session: Duration) -> io::Result<Self> {
        let state = Arc::new(State {
            service: Mutex::default(),
            subscriptions: Mutex::default(),
            changes: watch::channel(0).0,
            session,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = state.clone();
        let app = Router::new().fallback(move |request: Request| answer(shared.clone(), request));
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the stream server ended: {error}");
            }
        });
        Ok(Self { address, state, _task: task })
    }

    /// The address at which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many subscriptions were accepted, and how many were refused because another one was less than five seconds old.
    pub fn subscriptions(&self) -> (u64, u64) {
        self.state.subscriptions().counts()
    }
}

impl State {
    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock, for times that consumers see.
fn wall_millis() -> u64 {
    u64::try_from(now_millis()).unwrap_or(u64::MAX)
}

async fn answer(state: Arc<State>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let operation = header("x-amz-target").and_then(|target| target.rsplit('.').next());
    let operation = operation.unwrap_or_default().to_owned();
    let is_cbor = header(CONTENT_TYPE.as_str()) == Some(CBOR);
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        // The connection broke within the request.
        return StatusCode::BAD_REQUEST.into_response();
    };
    let body = if is_cbor { json_of_cbor(&body) } else { serde_json::from_slice(&body).ok() };
    let body = body.unwrap_or(Value::Null);
    let answered = if operation == "SubscribeToShard" {
        match subscribe(&state, &body) {
            Ok(events) => {
                return ([(CONTENT_TYPE, "application/vnd.amazon.eventstream")], events).into_response();
            }
            Err(refusal) => Err(refusal),
        }
    } else {
        let answered = state.service().answer(&operation, &body, wall_millis());
        if matches!(
            operation.as_str(),
            "PutRecords" | "SplitShard" | "MergeShards" | "DeregisterStreamConsumer"
        ) {
            state.changes.send_modify(|count| *count += 1);
        }
        answered
    };
    let (status, answer) = match answered {
        Ok(answer) => (StatusCode::OK, answer),
        Err(Refusal { code, message }) => {
            (StatusCode::BAD_REQUEST, json!({ "__type": code, "message": message }))
        }
    };
    if is_cbor {
        (status, [(CONTENT_TYPE, CBOR)], cbor_of_json(&answer)).into_response()
    } else {
        (status, [(CONTENT_TYPE, JSON)], answer.to_string()).into_response()
    }
}

fn subscribe(state: &Arc<State>, body: &Value) -> Result<Body, Refusal> {
    let (consumer, place) = state.service().subscription(body)?;
    let subscriber = (consumer, place.shard.clone());
    let now = Instant::now();
    let number = state.subscriptions().begin(subscriber.clone(), now).ok_or_else(|| Refusal {
        code: "ResourceInUseException",
        message: "another subscription to the shard began less than five seconds ago".to_owned(),
    })?;
    let session = Session {
        changes: state.changes.subscribe(),
        state: state.clone(),
        subscriber,
        number,
        place,
        ends_at: now + state.session,
        event_due_at: now,
        next: Next::Accepted,
    };
    Ok(Body::from_stream(unfold(session, |mut session| async move {
        let frame = session.next().await?;
        Some((Ok::<Bytes, Infallible>(frame.encoded()), session))
    })))
}

/// A subscription that the server has accepted.
#[derive(Debug)]
struct Session {
    state: Arc<State>,
    changes: watch::Receiver<u64>,
    subscriber: Subscriber,
    number: u64,
    place: Place,
    ends_at: Instant,
    /// When the next event is due even if it is empty.
    event_due_at: Instant,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Accepted,
    Events,
    End,
}

impl Session {
    /// The next frame; `None`: the session has ended.
    async fn next(&mut self) -> Option<Frame> {
        match self.next {
            Next::Accepted => {
                self.next = Next::Events;
                return Some(Frame::Accepted);
            }
            Next::End => return None,
            Next::Events => {}
        }
        loop {
            let now = Instant::now();
            if now >= self.ends_at {
                return None;
            }
            self.changes.mark_unchanged();
            if let Some(frame) = self.frame(now) {
                return Some(frame);
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = sleep_until(self.event_due_at.min(self.ends_at)) => {}
            }
        }
    }

    /// The frame to send now; `None`: there is nothing to send.
    fn frame(&mut self, now: Instant) -> Option<Frame> {
        if !self.state.subscriptions().is_newest(&self.subscriber, self.number) {
            self.next = Next::End;
            let message = "another subscription of the consumer has replaced this one";
            return Some(Frame::Exception { kind: "ResourceInUseException", message });
        }
        let service = self.state.service();
        let before = self.place.after;
        let event = if service.has_consumer(&self.subscriber.0) {
            service.event(&mut self.place, EVENT_RECORDS, EVENT_BYTES, wall_millis())
        } else {
            None
        };
        let Some((event, is_last)) = event else {
            self.next = Next::End;
            let message = "the consumer does not exist";
            return Some(Frame::Exception { kind: "ResourceNotFoundException", message });
        };
        if is_last {
            self.next = Next::End;
        } else if self.place.after == before && now < self.event_due_at {
            return None;
        }
        self.event_due_at = now + HEARTBEAT;
        Some(Frame::Event(event))
    }
}
