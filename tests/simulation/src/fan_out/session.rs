//! The events of one subscription: what the stream has, pushed, and what goes wrong on the way.

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

use super::connection::Connection;
use super::service::{Accepted, Standing};
use super::wire;
use crate::event::{ShardNumber, SubscriptionStep, sequence_number};
use crate::kinesis::Page;
use crate::network::Service as Destination;

/// How long a subscription lives (Kinesis API: five minutes).
const LIFE: Duration = Duration::from_secs(300);

/// How often an event comes where there is no record.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often it is looked whether the way is open again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Up to when a subscription takes its course, in milliseconds after it was accepted.
const COURSE_MILLIS: u64 = 60_000;

/// The most records of one event.
const MAX_EVENT_RECORDS: u64 = 50;

/// How far behind the place that was asked for a subscription may begin: records of the stream.
const MAX_REPEATED: u64 = 12;

/// The longest delay of an event, in milliseconds: below the time after which a subscription counts as silent.
const MAX_DELAY_MILLIS: u64 = 8_000;

/// What becomes of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It lives until it is replaced, or five minutes.
    Steady,
    /// It ends early, as if its time were over.
    Ends,
    /// Nothing comes any more; the connection stays.
    FallsSilent,
    /// The connection breaks.
    Tears,
    /// The connection breaks in the middle of an event.
    TearsInside,
    /// An exception comes instead of an event.
    Throws(&'static str),
}

/// How the end of a shard is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// As AWS does: no number to go on after, and the children.
    WithChildren,
    /// The children are not named.
    Bare,
    /// As other servers do: the children are named, with a number to go on after, and then the session ends.
    Early,
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
    course: Course,
    course_at: Instant,
    over_at: Instant,
    heartbeat_at: Instant,
    ending: Ending,
    delays: bool,
    has_begun: bool,
    was_cut: bool,
    /// What is sent as soon as it is asked for.
    ready: VecDeque<Given>,
    is_over: bool,
}

type Given = io::Result<Bytes>;

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
        let course = if connection.service.is_calm() { Course::Steady } else { course(&mut rng) };
        let course_in = if rng.u64(..4) == 0 { 0 } else { rng.u64(..COURSE_MILLIS) };
        let repeats = !connection.service.is_calm() && is_given && rng.u64(..5) == 0;
        let ending = match rng.u64(..8) {
            0 | 1 => Ending::Bare,
            2 => Ending::Early,
            _ => Ending::WithChildren,
        };
        let delays = !connection.service.is_calm() && rng.u64(..6) == 0;
        let back = if repeats { rng.u64(1..=MAX_REPEATED) } else { 0 };
        Self {
            connection,
            shard,
            session,
            arn,
            after: after.saturating_sub(back),
            course,
            course_at: now + Duration::from_millis(course_in),
            over_at: now + LIFE,
            heartbeat_at: now + HEARTBEAT,
            ending,
            delays,
            rng,
            has_begun: false,
            was_cut: false,
            ready: VecDeque::new(),
            is_over: false,
        }
    }

    fn note(&self, step: SubscriptionStep) {
        self.connection.service.note(self.connection.process, self.shard, self.session, step);
    }

    fn end(&mut self, how: &'static str) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.note(SubscriptionStep::Over(how));
        }
    }

    /// What comes next; `None`: the stream of events ends as it should.
    async fn next(&mut self) -> Option<Given> {
        loop {
            self.connection.link.pass().await;
            if self.connection.link.is_cut(Destination::Stream) {
                self.was_cut = true;
                sleep(LOOK_INTERVAL).await;
                continue;
            }
            if std::mem::take(&mut self.was_cut) && self.rng.bool() {
                return self.tear("torn by a partition");
            }
            if let Some(given) = self.ready.pop_front() {
                return Some(given);
            }
            if self.is_over {
                return None;
            }
            let now = Instant::now();
            if self.course != Course::Steady && now >= self.course_at {
                return self.take_course().await;
            }
            if !std::mem::replace(&mut self.has_begun, true) {
                return Some(Ok(wire::accepted()));
            }
            match self.connection.service.standing(self.shard, self.session, &self.arn) {
                Standing::Good => {}
                Standing::Deregistered => return self.throw("ResourceNotFoundException"),
                Standing::Replaced if self.rng.bool() => return self.throw("ResourceInUseException"),
                Standing::Replaced => {
                    self.end("replaced");
                    return None;
                }
            }
            if now >= self.over_at {
                self.end("its time is over");
                return None;
            }
            self.look().await;
        }
    }

    /// Looks what the shard has, and waits a while if that is nothing.
    async fn look(&mut self) {
        let kinesis = self.connection.service.kinesis.clone();
        let Some(changed) = kinesis.changes(self.shard) else {
            self.throw_later("ResourceNotFoundException");
            return;
        };
        // Counts from its creation, so that no change between the look and the wait is missed.
        let change = changed.notified();
        let most = usize::try_from(self.rng.u64(1..=MAX_EVENT_RECORDS)).unwrap_or(1);
        let Some(page) = kinesis.read(self.shard, self.after, most) else {
            self.throw_later("ResourceNotFoundException");
            return;
        };
        let now = Instant::now();
        if page.records.is_empty() && page.end.is_none() && now < self.heartbeat_at {
            let until = self.heartbeat_at.min(self.over_at);
            let until = if self.course == Course::Steady { until } else { until.min(self.course_at) };
            let _ = timeout_at(until, change).await;
            return;
        }
        self.heartbeat_at = now + HEARTBEAT;
        let tip = kinesis.newest();
        self.send(page, tip);
        let weather = kinesis.sky.now();
        self.connection.link.travel(weather).await;
        if self.delays && self.rng.u64(..3) == 0 {
            sleep(Duration::from_millis(self.rng.u64(..MAX_DELAY_MILLIS))).await;
        }
    }

    fn send(&mut self, page: Page, tip: u64) {
        let last = page.records.last().map(|(number, _)| *number);
        let records: Vec<Value> = page.records.iter().map(|(_, record)| wire::record(record)).collect();
        let has_records = !records.is_empty();
        // With nothing to send the place is the tip: whatever comes has a greater number.
        let place = last.unwrap_or_else(|| tip.max(self.after));
        let mut event = json!({
            "Records": records,
            "MillisBehindLatest": 0,
            "ContinuationSequenceNumber": sequence_number(place).as_str(),
        });
        let Some(children) = page.end else {
            self.after = place;
            self.push(&event);
            // Delivered once more.
            if has_records && !self.connection.service.is_calm() && self.rng.u64(..40) == 0 {
                self.push(&event);
            }
            return;
        };
        let children: Vec<Value> = children.iter().map(wire::child).collect();
        if self.ending == Ending::Early && has_records {
            // What is left first; the children are named when nothing is.
            self.after = place;
            self.push(&event);
            return;
        }
        if self.ending != Ending::Early {
            event["ContinuationSequenceNumber"] = Value::Null;
        }
        if self.ending != Ending::Bare {
            event["ChildShards"] = children.into();
        }
        self.push(&event);
        self.end("the shard is over");
    }

    /// An event, whole or in pieces.
    fn push(&mut self, event: &Value) {
        let mut bytes = wire::event(event);
        while bytes.len() > 1 && self.rng.u64(..4) == 0 {
            let cut = self.rng.usize(1..bytes.len());
            self.ready.push_back(Ok(bytes.split_to(cut)));
        }
        self.ready.push_back(Ok(bytes));
    }

    async fn take_course(&mut self) -> Option<Given> {
        match self.course {
            Course::Steady | Course::Ends => {
                self.end("early");
                None
            }
            Course::FallsSilent => {
                self.note(SubscriptionStep::Silent);
                pending::<()>().await;
                None
            }
            Course::Tears => self.tear("torn"),
            Course::TearsInside => {
                let event = json!({ "Records": [], "MillisBehindLatest": 0 });
                let mut bytes = wire::event(&event);
                bytes.truncate(self.rng.usize(1..bytes.len()));
                self.ready.push_back(Ok(bytes));
                self.ready.push_back(Err(io::ErrorKind::ConnectionReset.into()));
                self.end("torn inside an event");
                self.ready.pop_front()
            }
            Course::Throws(kind) => self.throw(kind),
        }
    }

    fn tear(&mut self, how: &'static str) -> Option<Given> {
        self.ready.clear();
        self.end(how);
        Some(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn throw(&mut self, kind: &'static str) -> Option<Given> {
        self.end(kind);
        Some(Ok(wire::exception(kind)))
    }

    fn throw_later(&mut self, kind: &'static str) {
        self.ready.push_back(Ok(wire::exception(kind)));
        self.end(kind);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end("closed by the reader");
    }
}

fn course(rng: &mut Rng) -> Course {
    match rng.u64(..20) {
        0 | 1 => Course::Ends,
        2..5 => Course::FallsSilent,
        5 => Course::Tears,
        6 | 7 => Course::TearsInside,
        8 => Course::Throws("InternalFailureException"),
        9 => Course::Throws("ResourceInUseException"),
        _ => Course::Steady,
    }
}

/// One step of a subscription, on its way.
type Step = Pin<Box<dyn Future<Output = (Session, Option<Given>)> + Send>>;

/// The body of a stream of events. It moves only when it is asked: what nobody takes stays in the stream.
pub(super) struct Events {
    /// `None`: it has ended.
    step: Mutex<Option<Step>>,
}

impl Events {
    pub(super) fn new(session: Session) -> Self {
        Self { step: Mutex::new(Some(step(session))) }
    }
}

fn step(mut session: Session) -> Step {
    Box::pin(async move {
        let given = session.next().await;
        (session, given)
    })
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let current = self.get_mut().step.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(under_way) = current else { return Poll::Ready(None) };
        let (session, given) = ready!(under_way.as_mut().poll(context));
        *current = given.is_some().then(|| step(session));
        Poll::Ready(given.map(|given| given.map(Frame::data)))
    }
}
