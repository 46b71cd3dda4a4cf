//! The events of one subscription: the records of the shard, pushed, with faults.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fastrand::Rng;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::service::{Accepted, Connection, SessionStatus};
use super::wire;
use crate::event::{ShardNumber, SubscriptionStep, sequence_number};
use crate::kinesis::Page;
use crate::network::Destination;

/// How long a subscription lives (Kinesis API: five minutes).
const LIFE: Duration = Duration::from_secs(300);

/// Interval of events without records.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Interval between checks whether a partition is over.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The fault of a subscription happens within this time after its acceptance, in milliseconds.
const FAULT_MILLIS: u64 = 60_000;

/// Largest number of records of one event.
const MAX_EVENT_RECORDS: u64 = 50;

/// Most records that a subscription repeats before its starting position.
const MAX_REPEATED: u64 = 12;

/// Longest delay of an event, in milliseconds: shorter than the inactivity time-out.
const MAX_DELAY_MILLIS: u64 = 8_000;

/// The fault that hits a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionFault {
    /// None: it lives until it is replaced, or five minutes.
    None,
    /// It ends early, as if its lifetime were over.
    EndsEarly,
    /// It sends nothing more and stays open.
    Silent,
    /// The connection is reset.
    Reset,
    /// The connection is reset in the middle of an event.
    ResetInsideEvent,
    /// It sends an exception instead of an event.
    Exception(&'static str),
}

/// How a subscription shows the end of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Like AWS: the children, and no continuation sequence number.
    WithChildren,
    /// Neither children nor a continuation sequence number.
    WithoutChildren,
    /// As other servers do: the last event has children and a continuation sequence number, and then the session ends.
    ChildrenNamedEarly,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    shard: ShardNumber,
    session: u64,
    arn: String,
    rng: Rng,
    /// The last record that was sent.
    after: u64,
    fault: SessionFault,
    fault_at: Instant,
    over_at: Instant,
    heartbeat_at: Instant,
    ending: Ending,
    delays: bool,
    has_begun: bool,
    was_partitioned: bool,
    /// Chunks that are ready to be sent.
    ready: VecDeque<Chunk>,
    is_over: bool,
}

type Chunk = io::Result<Bytes>;

impl Session {
    pub(super) fn new(
        connection: Connection,
        shard: ShardNumber,
        after: u64,
        is_given: bool,
        accepted: Accepted,
    ) -> Self {
        let Accepted { session, arn, mut rng } = accepted;
        let now = Instant::now();
        let fault =
            if connection.service.are_faults_over() { SessionFault::None } else { draw_fault(&mut rng) };
        let fault_in = if rng.u64(..4) == 0 { 0 } else { rng.u64(..FAULT_MILLIS) };
        let repeats = !connection.service.are_faults_over() && is_given && rng.u64(..5) == 0;
        let ending = match rng.u64(..8) {
            0 | 1 => Ending::WithoutChildren,
            2 => Ending::ChildrenNamedEarly,
            _ => Ending::WithChildren,
        };
        let delays = !connection.service.are_faults_over() && rng.u64(..6) == 0;
        let back = if repeats { rng.u64(1..=MAX_REPEATED) } else { 0 };
        Self {
            connection,
            shard,
            session,
            arn,
            after: after.saturating_sub(back),
            fault,
            fault_at: now + Duration::from_millis(fault_in),
            over_at: now + LIFE,
            heartbeat_at: now + HEARTBEAT,
            ending,
            delays,
            rng,
            has_begun: false,
            was_partitioned: false,
            ready: VecDeque::new(),
            is_over: false,
        }
    }

    fn record(&self, step: SubscriptionStep) {
        self.connection.service.record(self.connection.process, self.shard, self.session, step);
    }

    fn end(&mut self, how: &'static str) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.record(SubscriptionStep::Over(how));
        }
    }

    /// Returns the next chunk; `None` when the event stream ends normally.
    async fn next(&mut self) -> Option<Chunk> {
        loop {
            self.connection.link.wait_while_paused().await;
            if self.connection.link.is_partitioned(Destination::Stream) {
                self.was_partitioned = true;
                sleep(POLL_INTERVAL).await;
                continue;
            }
            if std::mem::take(&mut self.was_partitioned) && self.rng.bool() {
                return self.reset("reset by a partition");
            }
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if self.is_over {
                return None;
            }
            let now = Instant::now();
            if self.fault != SessionFault::None && now >= self.fault_at {
                return self.inject_fault().await;
            }
            if !std::mem::replace(&mut self.has_begun, true) {
                return Some(Ok(wire::accepted()));
            }
            match self.connection.service.status(self.shard, self.session, &self.arn) {
                SessionStatus::Active => {}
                SessionStatus::Deregistered => return self.send_exception("ResourceNotFoundException"),
                SessionStatus::Replaced if self.rng.bool() => {
                    return self.send_exception("ResourceInUseException");
                }
                SessionStatus::Replaced => {
                    self.end("replaced");
                    return None;
                }
            }
            if now >= self.over_at {
                self.end("end of its lifetime");
                return None;
            }
            self.poll_shard().await;
        }
    }

    /// Sends the new records of the shard, or waits a while for some.
    async fn poll_shard(&mut self) {
        let kinesis = self.connection.service.kinesis.clone();
        let Some(changed) = kinesis.changes(self.shard) else {
            self.queue_exception("ResourceNotFoundException");
            return;
        };
        // Registered before the read, so that no change between the read and the wait is missed.
        let change = changed.notified();
        let most = usize::try_from(self.rng.u64(1..=MAX_EVENT_RECORDS)).unwrap_or(1);
        let Some(page) = kinesis.read(self.shard, self.after, most) else {
            self.queue_exception("ResourceNotFoundException");
            return;
        };
        let now = Instant::now();
        if page.records.is_empty() && page.end.is_none() && now < self.heartbeat_at {
            let until = self.heartbeat_at.min(self.over_at);
            let until = if self.fault == SessionFault::None { until } else { until.min(self.fault_at) };
            let _ = timeout_at(until, change).await;
            return;
        }
        self.heartbeat_at = now + HEARTBEAT;
        let tip = kinesis.newest();
        self.send(page, tip);
        let rates = kinesis.fault_rates.now();
        self.connection.link.wait_latency(rates).await;
        if self.delays && self.rng.u64(..3) == 0 {
            sleep(Duration::from_millis(self.rng.u64(..MAX_DELAY_MILLIS))).await;
        }
    }

    fn send(&mut self, page: Page, tip: u64) {
        let last = page.records.last().map(|(number, _)| *number);
        let records: Vec<Value> = page.records.iter().map(|(_, record)| wire::record(record)).collect();
        let has_records = !records.is_empty();
        // Without records, continue at the tip: any new record has a greater number.
        let position = last.unwrap_or_else(|| tip.max(self.after));
        let mut event = json!({
            "Records": records,
            "MillisBehindLatest": 0,
            "ContinuationSequenceNumber": sequence_number(position).as_str(),
        });
        let Some(children) = page.end else {
            self.after = position;
            if self.is_odd() {
                // Neither a continuation nor children, in the middle of the shard.
                event["ContinuationSequenceNumber"] = Value::Null;
            }
            self.push(&event);
            // Sends the event twice.
            if has_records && !self.connection.service.are_faults_over() && self.rng.u64(..40) == 0 {
                self.push(&event);
            }
            return;
        };
        let children: Vec<Value> = children.iter().map(wire::child).collect();
        if self.ending == Ending::ChildrenNamedEarly && has_records {
            // Sends the remaining records first, and the children when there are none left.
            self.after = position;
            self.push(&event);
            return;
        }
        if self.ending != Ending::ChildrenNamedEarly {
            event["ContinuationSequenceNumber"] = Value::Null;
        }
        if self.ending != Ending::WithoutChildren {
            event["ChildShards"] = children.into();
        }
        self.push(&event);
        self.end("end of shard");
    }

    /// Whether the next event says nothing about its continuation.
    fn is_odd(&mut self) -> bool {
        let odd = self.connection.service.kinesis.fault_rates.now().odd;
        odd > 0 && self.rng.u64(..1000) < odd
    }

    /// Queues an event, whole or in pieces.
    fn push(&mut self, event: &Value) {
        let mut bytes = wire::event(event);
        while bytes.len() > 1 && self.rng.u64(..4) == 0 {
            let cut = self.rng.usize(1..bytes.len());
            self.ready.push_back(Ok(bytes.split_to(cut)));
        }
        self.ready.push_back(Ok(bytes));
    }

    async fn inject_fault(&mut self) -> Option<Chunk> {
        match self.fault {
            SessionFault::None | SessionFault::EndsEarly => {
                self.end("ended early");
                None
            }
            SessionFault::Silent => {
                self.record(SubscriptionStep::Silent);
                pending::<()>().await;
                None
            }
            SessionFault::Reset => self.reset("reset"),
            SessionFault::ResetInsideEvent => {
                let event = json!({ "Records": [], "MillisBehindLatest": 0 });
                let mut bytes = wire::event(&event);
                bytes.truncate(self.rng.usize(1..bytes.len()));
                self.ready.push_back(Ok(bytes));
                self.ready.push_back(Err(io::ErrorKind::ConnectionReset.into()));
                self.end("reset inside an event");
                self.ready.pop_front()
            }
            SessionFault::Exception(kind) => self.send_exception(kind),
        }
    }

    fn reset(&mut self, how: &'static str) -> Option<Chunk> {
        self.ready.clear();
        self.end(how);
        Some(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn send_exception(&mut self, kind: &'static str) -> Option<Chunk> {
        self.end(kind);
        Some(Ok(wire::exception(kind)))
    }

    fn queue_exception(&mut self, kind: &'static str) {
        self.ready.push_back(Ok(wire::exception(kind)));
        self.end(kind);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end("closed by the reader");
    }
}

fn draw_fault(rng: &mut Rng) -> SessionFault {
    match rng.u64(..20) {
        0 | 1 => SessionFault::EndsEarly,
        2..5 => SessionFault::Silent,
        5 => SessionFault::Reset,
        6 | 7 => SessionFault::ResetInsideEvent,
        8 => SessionFault::Exception("InternalFailureException"),
        9 => SessionFault::Exception("ResourceInUseException"),
        _ => SessionFault::None,
    }
}

/// One step of a subscription in progress.
type Step = Pin<Box<dyn Future<Output = (Session, Option<Chunk>)> + Send>>;

/// The body of an event stream. It advances only when polled, so unread records stay in the stream.
pub(super) struct Events {
    /// `None` once it has ended.
    step: Mutex<Option<Step>>,
}

impl Events {
    pub(super) fn new(session: Session) -> Self {
        Self { step: Mutex::new(Some(step(session))) }
    }
}

fn step(mut session: Session) -> Step {
    Box::pin(async move {
        let chunk = session.next().await;
        (session, chunk)
    })
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let current = self.get_mut().step.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(in_progress) = current else { return Poll::Ready(None) };
        let (session, chunk) = ready!(in_progress.as_mut().poll(context));
        *current = chunk.is_some().then(|| step(session));
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
