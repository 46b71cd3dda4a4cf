//! Reads one shard over many sessions of `SubscribeToShard`, and by polling where these keep failing.
//!
//! What counts is the place in the shard. It moves only when an event was converted as a whole and is handed over in the
//! same breath; the next event is not taken from the connection before the caller asks for it. So whatever ends a
//! session, an error, a silence, a renewal or a cancelled call, the next one starts exactly behind what was handed over.
//!
//! A caller that asks when the source is ready waits there for the next event to begin, and takes it once there is memory for
//! it. Meanwhile the session is listened to as ever: that it is silent, or due to be replaced, is noticed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::SubscribeToShardEvent;
use lease_store::ShardId;
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
    StreamSource as _,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::FanOut;
use super::event::{Arrival, Ending};
use super::failure::{Failure, Trouble};
use super::policy::{FAILED_SESSIONS_BEFORE_POLLING, Next, SessionEnd, SubscriptionPolicy};
use super::registration::Readiness;
use super::settings::ConsumerChoice;
use super::status::Counted;
use super::subscription::{Asked, Subscription, client_for_subscriptions};
use crate::polling::{Place, PollingSource};
use crate::stream::KinesisStream;

/// How long a read waits before it answers that there is nothing.
const ANSWER_INTERVAL: Duration = Duration::from_secs(5);

/// How long a session is listened to at the least before it counts as silent: after a long absence of the caller its
/// events may need a moment to come up.
const LEAST_LISTENING: Duration = Duration::from_secs(1);

/// Reads one shard from a position on, by enhanced fan-out.
#[derive(Debug)]
pub(crate) struct FanOutSource {
    stream: KinesisStream,
    fan_out: Arc<FanOut>,
    client: Client,
    shard_id: ShardId,
    place: Place,
    policy: SubscriptionPolicy,
    /// The first call at the tip: when its answer came decides where the tip was.
    asked_at_tip: Option<Asked>,
    session: Option<Session>,
    polling: Option<Polling>,
    /// What the caller was told, as long as it is so: an empty answer meanwhile would look like a quiet shard.
    trouble: Option<(SourceErrorKind, String)>,
    end: Option<ShardEnd>,
    memory: Memory,
}

/// What the caller has set memory aside for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// It does not ask, and gets what comes.
    NotAsked,
    /// Nothing, so no event may be taken.
    Nothing,
    /// The next event.
    Event,
}

#[derive(Debug)]
struct Session {
    subscription: Subscription,
    consumer_arn: String,
    /// Since when the caller listens in vain.
    silent_since: Option<Instant>,
    /// It was listened to for long enough, in vain.
    is_dead: bool,
    /// The last event said that the shard is closed, and was empty.
    near_end: Option<ShardEnd>,
    _counted: Counted,
}

#[derive(Debug)]
struct Polling {
    source: PollingSource,
    until: Instant,
    _counted: Counted,
}

impl FanOutSource {
    pub(crate) fn new(
        stream: KinesisStream,
        fan_out: Arc<FanOut>,
        shard_id: ShardId,
        from: ReadFrom,
    ) -> Self {
        let settings = &fan_out.settings;
        let poll_for = settings.fall_back_to_polling.then_some(settings.retry_fan_out_after);
        let policy = SubscriptionPolicy::new(stream.fork_rng(), poll_for);
        let client = client_for_subscriptions(stream.client());
        Self {
            stream,
            fan_out,
            client,
            shard_id,
            place: from.into(),
            policy,
            asked_at_tip: None,
            session: None,
            polling: None,
            trouble: None,
            end: None,
            memory: Memory::NotAsked,
        }
    }

    /// Subscribes, as soon as that may be done; `false`: not until `answer_by`.
    async fn subscribe(&mut self, answer_by: Instant) -> Result<bool, SourceError> {
        let now = Instant::now();
        let due = now + self.policy.wait(now);
        if due > now {
            sleep_until(due.min(answer_by)).await;
            return Ok(due < answer_by);
        }
        let arn = match self.fan_out.registration.look(&self.stream).await {
            Ok(Readiness::Ready(arn)) => arn,
            Ok(Readiness::NotBefore(due)) => {
                sleep_until(due.min(answer_by)).await;
                return Ok(due < answer_by);
            }
            Err(error) => return self.failed(Failure::new(error)).map(|()| true),
        };
        self.lose_tip();
        let Some(start) = self.place.starting_position() else {
            return Err(self.stream.invalid("the time to start at is too far away"));
        };
        let now = Instant::now();
        let asked = Asked::new(now);
        if matches!(self.place, Place::Tip { since: None }) {
            self.asked_at_tip = Some(asked.clone());
        }
        self.policy.asked(now);
        let opened =
            Subscription::open(&self.client, &self.stream, &arn, &self.shard_id, start, &asked).await;
        self.keep_tip();
        match opened {
            Ok(subscription) => {
                self.policy.accepted(Instant::now());
                self.trouble = None;
                self.fan_out.counters.accepted();
                tracing::debug!(shard_id = %self.shard_id, place = ?self.place, "subscribed");
                let _counted = Counted::in_(&self.fan_out.counters.subscribed_shards);
                self.session = Some(Session {
                    subscription,
                    consumer_arn: arn,
                    silent_since: None,
                    is_dead: false,
                    near_end: None,
                    _counted,
                });
                Ok(true)
            }
            Err(failure) => {
                let failure = self.explain(failure, &arn).await;
                self.failed(failure).map(|()| true)
            }
        }
    }

    /// The tip is where it was when the service first answered, whatever came of that call.
    fn keep_tip(&mut self) {
        if let (Place::Tip { since }, Some(asked)) = (&mut self.place, &self.asked_at_tip)
            && since.is_none()
        {
            *since = asked.not_after();
        }
    }

    /// Listens until there is something to answer; `None`: the session is over.
    async fn listen(&mut self, answer_by: Instant) -> Result<Option<FetchedBatch>, SourceError> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let now = Instant::now();
        let renew_at = self.policy.renew_at().unwrap_or(answer_by);
        if now >= renew_at {
            tracing::debug!(shard_id = %self.shard_id, "renewing the subscription");
            return self.over().map(|()| None);
        }
        let (silent_since, dead_at) = session.silence(now, self.fan_out.settings.inactivity_timeout);
        if self.memory == Memory::Nothing {
            if session.is_dead {
                let failure = Failure::silent(&self.stream, &self.shard_id, now - silent_since);
                return self.failed(failure).map(|()| None);
            }
            return Ok(Some(nothing()));
        }
        let wait_until = answer_by.min(renew_at).min(dead_at);
        let heard = timeout_at(wait_until, session.subscription.next(&self.stream, &self.shard_id)).await;
        match heard {
            Ok(Ok(Some(event))) => self.take(event).await,
            Ok(Ok(None)) => match session.near_end.take() {
                Some(end) => {
                    self.session = None;
                    self.end = Some(end);
                    Ok(None)
                }
                None => self.over().map(|()| None),
            },
            Ok(Err(failure)) => {
                let arn = self.session.take().map(|session| session.consumer_arn).unwrap_or_default();
                let failure = self.explain(failure, &arn).await;
                self.failed(failure).map(|()| None)
            }
            Err(_) => {
                let now = Instant::now();
                if now >= dead_at {
                    let failure = Failure::silent(&self.stream, &self.shard_id, now - silent_since);
                    self.failed(failure).map(|()| None)
                } else if now >= renew_at {
                    Ok(None)
                } else {
                    Ok(Some(nothing()))
                }
            }
        }
    }

    /// Hands an event over and moves on; a faulty one changes nothing.
    async fn take(&mut self, event: SubscribeToShardEvent) -> Result<Option<FetchedBatch>, SourceError> {
        let arrival = match Arrival::new(event, &self.stream, &self.shard_id) {
            Ok(arrival) => arrival,
            Err(error) => return self.failed(Failure::new(error)).map(|()| None),
        };
        let (end, near_end) = match arrival.ending {
            Ending::Open => (None, None),
            Ending::Near(end) => (None, Some(end)),
            Ending::Reached(end) => (Some(end), None),
            Ending::Unclear => {
                // The session is given up first: a call that is cancelled now reads the event again.
                self.session = None;
                match self.is_closed().await {
                    Ok(true) => (Some(ShardEnd { children: Vec::new() }), None),
                    Ok(false) => {
                        let error = self.stream.unavailable(&format!(
                            "an event of {} says that it is the last, but names no children, and the stream lists the \
                             shard as open",
                            self.shard_id
                        ));
                        return self.failed(Failure::new(error)).map(|()| None);
                    }
                    Err(error) => return self.failed(Failure::new(error)).map(|()| None),
                }
            }
        };
        // From here on nothing waits.
        self.policy.event();
        if let Some(after) = arrival.after {
            self.place = Place::After(after);
        }
        if let Some(session) = &mut self.session {
            session.near_end = near_end;
            // While the caller works on records nobody listens.
            session.silent_since = arrival.records.is_empty().then(Instant::now);
        }
        if end.is_some() {
            self.session = None;
            self.end.clone_from(&end);
        }
        Ok(Some(FetchedBatch {
            records: arrival.records,
            millis_behind_latest: Some(arrival.millis_behind_latest),
            shard_end: end,
        }))
    }

    async fn is_closed(&self) -> Result<bool, SourceError> {
        let shards = self.stream.list_shards(&ShardFilter::All).await?;
        Ok(shards.iter().any(|shard| shard.shard_id == self.shard_id && shard.is_closed))
    }

    /// The session ended as it should.
    fn over(&mut self) -> Result<(), SourceError> {
        self.after_session(SessionEnd::Over, None)
    }

    /// The session failed, or was refused. An error that somebody has to do something about is for the caller.
    fn failed(&mut self, failure: Failure) -> Result<(), SourceError> {
        self.fan_out.counters.failed();
        self.after_session(failure.session_end(), Some(failure))
    }

    fn after_session(&mut self, how: SessionEnd, failure: Option<Failure>) -> Result<(), SourceError> {
        self.session = None;
        self.lose_tip();
        self.trouble = None;
        let now = Instant::now();
        let next = self.policy.ended(how, now);
        let is_nowhere = failure.as_ref().is_some_and(|failure| {
            matches!(failure.error.kind(), SourceErrorKind::StreamNotFound | SourceErrorKind::ShardNotFound)
        });
        match (next, failure) {
            (Next::PollUntil(until), failure) if !is_nowhere => {
                let error = failure.map_or_else(
                    || "sessions without any event".to_owned(),
                    |failure| failure.error.to_string(),
                );
                tracing::warn!(
                    shard_id = %self.shard_id, error, polls_for = ?(until - now),
                    "the subscriptions keep failing; polling the shard for a while"
                );
                let source =
                    PollingSource::at_place(self.stream.clone(), self.shard_id.clone(), self.place.clone());
                let _counted = Counted::in_(&self.fan_out.counters.polled_shards);
                self.polling = Some(Polling { source, until, _counted });
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(failure)) => {
                let in_a_row = self.policy.failures();
                if failure.trouble == Trouble::NeedsHelp || in_a_row >= FAILED_SESSIONS_BEFORE_POLLING {
                    self.trouble = Some((failure.error.kind(), failure.error.to_string()));
                    return Err(failure.error);
                }
                tracing::warn!(
                    shard_id = %self.shard_id, error = %failure.error, in_a_row, wait = ?self.policy.wait(now),
                    "a subscription failed; subscribing again"
                );
                Ok(())
            }
        }
    }

    /// Another subscription is needed: the tip has moved on, and is found again by its time.
    fn lose_tip(&mut self) {
        self.keep_tip();
        let place = std::mem::replace(&mut self.place, Place::Oldest);
        self.place = place.again();
        if matches!(self.place, Place::Tip { since: None }) && self.asked_at_tip.take().is_some() {
            tracing::warn!(
                shard_id = %self.shard_id,
                "a subscription at LATEST ended before its first event, and the service did not say when it began; reading \
                 goes on at the tip, and records that arrived in between are not read"
            );
        }
    }

    /// The service says "not found" about the consumer, the shard and the stream alike. Only what is looked up is believed,
    /// since a shard that is gone counts as read to its end.
    async fn explain(&self, failure: Failure, consumer_arn: &str) -> Failure {
        if failure.trouble != Trouble::NotFound {
            return failure;
        }
        let said = failure.error;
        match self.fan_out.registration.is_gone(&self.stream, consumer_arn).await {
            Err(error) => return Failure::new(error),
            Ok(true) => {
                let (kind, what) = match &self.fan_out.settings.consumer {
                    ConsumerChoice::Name(_) => (SourceErrorKind::Unavailable, "and is registered again"),
                    ConsumerChoice::Arn(_) => (
                        SourceErrorKind::Invalid,
                        "and is not ours to register: give the ARN of another, or a name",
                    ),
                };
                let message = format!("consumer {consumer_arn} was deregistered {what}: {said}");
                return Failure::new(SourceError::new(kind, message).with_source(said));
            }
            Ok(false) => {}
        }
        let shards = match self.stream.list_shards(&ShardFilter::All).await {
            Ok(shards) => shards,
            Err(error) => return Failure::new(error),
        };
        let (kind, what) = if shards.iter().any(|shard| shard.shard_id == self.shard_id) {
            (SourceErrorKind::Unavailable, "the stream lists it, but does not let it be subscribed to yet")
        } else {
            (SourceErrorKind::ShardNotFound, "the stream has no such shard")
        };
        Failure::new(SourceError::new(kind, format!("{what}: {said}")).with_source(said))
    }

    /// Reads by polling; `None`: it is time to subscribe again.
    async fn poll(&mut self) -> Result<Option<FetchedBatch>, SourceError> {
        let Some(polling) = &mut self.polling else { return Ok(None) };
        if Instant::now() < polling.until {
            let batch = polling.source.next_batch().await?;
            self.end.clone_from(&batch.shard_end);
            return Ok(Some(batch));
        }
        self.place = polling.source.place().clone().again();
        self.polling = None;
        tracing::info!(shard_id = %self.shard_id, place = ?self.place, "trying fan-out again");
        Ok(None)
    }
}

impl Session {
    /// Since when it is silent, and when it counts as dead if it stays so.
    fn silence(&mut self, now: Instant, inactivity_timeout: Duration) -> (Instant, Instant) {
        let since = *self.silent_since.get_or_insert(now);
        (since, (since + inactivity_timeout).max(now + LEAST_LISTENING))
    }
}

/// Nothing has come, and how far the shard is behind is not known.
fn nothing() -> FetchedBatch {
    FetchedBatch { records: Vec::new(), millis_behind_latest: None, shard_end: None }
}

#[async_trait]
impl RecordSource for FanOutSource {
    async fn ready(&mut self) -> u64 {
        self.memory = Memory::Nothing;
        let now = Instant::now();
        if self.end.is_some() {
            return 0;
        }
        if let Some(polling) = self.polling.as_mut().filter(|polling| now < polling.until) {
            let bytes = polling.source.ready().await;
            self.memory = Memory::Event;
            return bytes;
        }
        // Without a session there is nothing to be had yet: the next read subscribes.
        let (Some(session), None) = (&mut self.session, &self.polling) else { return 0 };
        let (_, dead_at) = session.silence(now, self.fan_out.settings.inactivity_timeout);
        let until = (now + ANSWER_INTERVAL).min(dead_at);
        let until = self.policy.renew_at().map_or(until, |renew_at| until.min(renew_at));
        match timeout_at(until, session.subscription.has_come()).await {
            Ok(bytes) => {
                self.memory = Memory::Event;
                bytes
            }
            Err(_) => {
                session.is_dead = Instant::now() >= dead_at;
                0
            }
        }
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let answer_by = Instant::now() + ANSWER_INTERVAL;
        // Bounded by the time to answer: each turn waits, fails or brings something.
        loop {
            if let Some(end) = &self.end {
                let shard_end = Some(end.clone());
                return Ok(FetchedBatch { records: Vec::new(), millis_behind_latest: Some(0), shard_end });
            }
            if let Some(batch) = self.poll().await? {
                return Ok(batch);
            }
            if self.session.is_none() {
                if self.memory == Memory::Event {
                    // The session it was for is over. It is not held while another one is waited for.
                    self.memory = Memory::Nothing;
                    return Ok(nothing());
                }
                if !self.subscribe(answer_by).await? {
                    return self.trouble.clone().map_or_else(
                        || Ok(nothing()),
                        |(kind, message)| Err(SourceError::new(kind, message)),
                    );
                }
                if self.session.is_some() && self.memory == Memory::Nothing {
                    // Whoever asks hears of the first event before it is taken.
                    return Ok(nothing());
                }
            } else if let Some(batch) = self.listen(answer_by).await? {
                return Ok(batch);
            }
        }
    }
}
