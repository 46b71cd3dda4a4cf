//! Reads one shard over many sessions of `SubscribeToShard`, and by polling while subscriptions keep failing.
//!
//! The source keeps the read position. It moves only after a whole event was converted, without an await before the batch is
//! returned. The next event stays on the connection until the caller requests it. So the next session starts right after
//! the last returned record, whether the previous one ended by an error, silence, renewal or a cancelled call.
//!
//! A caller that uses `ready` waits there until the next event begins to arrive, and reads it once it has reserved memory.
//! Meanwhile, silence and a due renewal are still noticed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_store::ShardId;
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connections::SubscriptionClient;
use super::event::{ConvertedEvent, Ending};
use super::failure::{Failure, FailureKind};
use super::policy::{FAILED_SESSIONS_BEFORE_POLLING, Next, SessionEnd, SubscriptionPolicy};
use super::registration::Readiness;
use super::settings::ConsumerChoice;
use super::shared::FanOut;
use super::starting_position::starting_position;
use super::status::CountGuard;
use super::subscription::{SubscribeCall, Subscription};
use crate::end_proof::EndProof;
use crate::get_records::answer::Answer;
use crate::polling::PollingSource;
use crate::read_position::ReadPosition;
use crate::stream_client::StreamClient;

/// How long a read waits before it returns an empty batch.
const ANSWER_INTERVAL: Duration = Duration::from_secs(5);

/// How long a session is read before it can count as silent. After a long pause of the caller, its events may take a moment to
/// arrive.
const MIN_LISTEN_TIME: Duration = Duration::from_secs(1);

/// Reads one shard from a position on, by enhanced fan-out.
#[derive(Debug)]
pub(crate) struct FanOutSource {
    stream: StreamClient,
    fan_out: Arc<FanOut>,
    client: SubscriptionClient,
    shard_id: ShardId,
    position: ReadPosition,
    policy: SubscriptionPolicy,
    /// The first call for `LATEST`; the date of its answer shows where the tip was.
    first_latest_call: Option<SubscribeCall>,
    session: Option<Session>,
    polling: Option<Polling>,
    /// The last error returned to the caller. It is returned again until the next subscription, because an empty batch would
    /// look like a quiet shard.
    reported_error: Option<(SourceErrorKind, String)>,
    proof: EndProof,
    end: Option<ShardEnd>,
    reservation: Reservation,
}

/// The memory that the caller has reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reservation {
    /// The caller does not call `ready`, and gets every event.
    Unused,
    /// No memory is reserved, so no event may be read.
    Empty,
    /// Memory is reserved for the next event.
    NextEvent,
}

#[derive(Debug)]
struct Session {
    subscription: Subscription,
    consumer_arn: String,
    /// Since when the caller waits for an event without success.
    silent_since: Option<Instant>,
    /// Whether `ready` waited for the whole inactivity time-out.
    is_dead: bool,
    /// Set when the last event was empty and said that the shard is closed.
    announced_end: Option<ShardEnd>,
    _counted: CountGuard,
}

#[derive(Debug)]
struct Polling {
    source: PollingSource,
    until: Instant,
    _counted: CountGuard,
}

impl FanOutSource {
    pub(crate) fn new(stream: StreamClient, fan_out: Arc<FanOut>, shard_id: ShardId, from: ReadFrom) -> Self {
        let settings = fan_out.settings();
        let poll_for = settings.fall_back_to_polling.then_some(settings.retry_fan_out_after);
        let policy = SubscriptionPolicy::new(stream.fork_rng(), poll_for);
        let client = fan_out.connections().client(stream.sdk());
        Self {
            stream,
            fan_out,
            client,
            shard_id,
            position: from.into(),
            policy,
            first_latest_call: None,
            session: None,
            polling: None,
            reported_error: None,
            proof: EndProof::default(),
            end: None,
            reservation: Reservation::Unused,
        }
    }

    /// Subscribes as soon as the policy and the consumer allow it; `false`: not before `answer_by`.
    async fn subscribe(&mut self, answer_by: Instant) -> Result<bool, SourceError> {
        let now = Instant::now();
        let due = now + self.policy.wait(now);
        if due > now {
            sleep_until(due.min(answer_by)).await;
            return Ok(due < answer_by);
        }
        if self.proof.needs_listing() {
            let is_closed = match self.stream.is_closed(&self.shard_id).await {
                Ok(is_closed) => is_closed,
                Err(error) => return self.failed(Failure::new(error)).map(|()| true),
            };
            self.proof.listed(is_closed);
            if !is_closed {
                let error = self.stream.unavailable(&format!(
                    "an event of {} had neither a continuation number nor children, but the stream lists the shard as open; \
                     reading resumes after the last record",
                    self.shard_id
                ));
                return self.failed(Failure::new(error)).map(|()| true);
            }
        }
        let arn = match self.fan_out.registration().check(&self.stream).await {
            Ok(Readiness::Ready(arn)) => arn,
            Ok(Readiness::NotBefore(due)) => {
                sleep_until(due.min(answer_by)).await;
                return Ok(due < answer_by);
            }
            Err(error) => return self.failed(Failure::new(error)).map(|()| true),
        };
        self.resolve_latest();
        let Some(start) = starting_position(&self.position) else {
            return Err(self.stream.invalid("the start time is out of range"));
        };
        let now = Instant::now();
        let call = SubscribeCall::new(now);
        if matches!(self.position, ReadPosition::Latest { since: None }) {
            self.first_latest_call = Some(call.clone());
        }
        self.policy.requested(now);
        let opened =
            Subscription::open(&self.client.sdk, &self.stream, &arn, &self.shard_id, start, &call).await;
        self.record_latest_time();
        match opened {
            Ok(subscription) => {
                self.policy.accepted(Instant::now());
                self.reported_error = None;
                self.fan_out.counters().accepted();
                tracing::debug!(shard_id = %self.shard_id, position = ?self.position, "subscribed");
                let _counted = CountGuard::new(&self.fan_out.counters().subscribed_shards);
                self.session = Some(Session {
                    subscription,
                    consumer_arn: arn,
                    silent_since: None,
                    is_dead: false,
                    announced_end: None,
                    _counted,
                });
                Ok(true)
            }
            Err(failure) => {
                let failure = self.resolve_not_found(failure, &arn).await;
                self.failed(failure).map(|()| true)
            }
        }
    }

    /// Records the time of `LATEST` from the first answer, even if that answer was a refusal.
    fn record_latest_time(&mut self) {
        if let (ReadPosition::Latest { since }, Some(call)) = (&mut self.position, &self.first_latest_call)
            && since.is_none()
        {
            *since = call.earliest_service_time();
        }
    }

    /// Reads the session until there is a batch to return; `None`: the session is over.
    async fn listen(&mut self, answer_by: Instant) -> Result<Option<FetchedBatch>, SourceError> {
        let Some(session) = &mut self.session else { return Ok(None) };
        let now = Instant::now();
        let renew_at = self.policy.renew_at().unwrap_or(answer_by);
        if now >= renew_at {
            tracing::debug!(shard_id = %self.shard_id, "renewing the subscription");
            return self.session_over().map(|()| None);
        }
        let (silent_since, dead_at) = session.silence(now, self.fan_out.settings().inactivity_timeout);
        if self.reservation == Reservation::Empty {
            if session.is_dead {
                session.subscription.retire_connection();
                let failure = Failure::silent(&self.stream, &self.shard_id, now - silent_since);
                return self.failed(failure).map(|()| None);
            }
            return Ok(Some(empty_batch()));
        }
        let wait_until = answer_by.min(renew_at).min(dead_at);
        let event = timeout_at(wait_until, session.subscription.next(&self.stream, &self.shard_id)).await;
        match event {
            Ok(Ok(Some(event))) => self.accept(event),
            Ok(Ok(None)) => match session.announced_end.take() {
                Some(end) => {
                    self.session = None;
                    self.end = Some(end);
                    Ok(None)
                }
                None => self.session_over().map(|()| None),
            },
            Ok(Err(failure)) => {
                let arn = self.session.take().map(|session| session.consumer_arn).unwrap_or_default();
                let failure = self.resolve_not_found(failure, &arn).await;
                self.failed(failure).map(|()| None)
            }
            Err(_) => {
                let now = Instant::now();
                if now >= dead_at {
                    if let Some(session) = &self.session {
                        session.subscription.retire_connection();
                    }
                    let failure = Failure::silent(&self.stream, &self.shard_id, now - silent_since);
                    self.failed(failure).map(|()| None)
                } else if now >= renew_at {
                    Ok(None)
                } else {
                    Ok(Some(empty_batch()))
                }
            }
        }
    }

    /// Turns an event into a batch and moves the position; a faulty event changes nothing. It has no await, so a cancelled call
    /// cannot lose the event.
    fn accept(&mut self, event: Answer) -> Result<Option<FetchedBatch>, SourceError> {
        let event = match ConvertedEvent::new(event, &self.stream, &self.shard_id) {
            Ok(event) => event,
            Err(error) => return self.failed(Failure::new(error)).map(|()| None),
        };
        let has_records = !event.records.is_empty();
        let (end, announced_end, is_unproven) = match event.ending {
            Ending::Open => (None, None, false),
            Ending::Announced(end) => (None, Some(end), false),
            Ending::Reached(end) => (Some(end), None, false),
            Ending::Unconfirmed if self.proof.unproven_end(has_records) => {
                (Some(ShardEnd::new(Vec::new())), None, false)
            }
            Ending::Unconfirmed => (None, None, true),
        };
        if !is_unproven && end.is_none() {
            self.proof.continued();
        }
        // An event that says nothing is no sign of a working subscription.
        if has_records || !is_unproven {
            self.policy.event();
        }
        if let Some(sequence_number) = event.continue_after {
            self.position = ReadPosition::AfterSequenceNumber(sequence_number);
        }
        if let Some(session) = &mut self.session {
            session.announced_end = announced_end;
            // The time in which the caller processes records does not count as silence.
            session.silent_since = event.records.is_empty().then(Instant::now);
        }
        if end.is_some() {
            self.session = None;
            self.end.clone_from(&end);
        }
        if is_unproven {
            tracing::info!(
                shard_id = %self.shard_id, records = event.records.len(),
                "an event has neither a continuation number nor children, asking the listing whether the shard is closed"
            );
            self.session_over()?;
        }
        Ok(Some(FetchedBatch::new(event.records, Some(event.millis_behind_latest)).with_end(end)))
    }

    /// Ends a session that ran its full time.
    fn session_over(&mut self) -> Result<(), SourceError> {
        self.after_session(SessionEnd::Over, None)
    }

    /// Ends a session that failed or was refused. An error that needs an operator is returned.
    fn failed(&mut self, failure: Failure) -> Result<(), SourceError> {
        self.fan_out.counters().failed();
        self.after_session(failure.session_end(), Some(failure))
    }

    fn after_session(&mut self, how: SessionEnd, failure: Option<Failure>) -> Result<(), SourceError> {
        self.session = None;
        self.resolve_latest();
        self.reported_error = None;
        let now = Instant::now();
        let next = self.policy.ended(how, now);
        let is_gone = failure.as_ref().is_some_and(|failure| {
            matches!(failure.error.kind(), SourceErrorKind::StreamNotFound | SourceErrorKind::ShardNotFound)
        });
        match (next, failure) {
            (Next::PollUntil(until), failure) if !is_gone => {
                let error = failure.map_or_else(
                    || "sessions without any event".to_owned(),
                    |failure| failure.error.to_string(),
                );
                tracing::warn!(
                    shard_id = %self.shard_id, error, polls_for = ?(until - now),
                    "subscriptions keep failing, polling the shard for a while"
                );
                let source = PollingSource::at_position(
                    self.stream.clone(),
                    self.shard_id.clone(),
                    self.position.clone(),
                );
                let _counted = CountGuard::new(&self.fan_out.counters().polled_shards);
                self.polling = Some(Polling { source, until, _counted });
                Ok(())
            }
            (_, None) => Ok(()),
            (_, Some(failure)) => {
                let in_a_row = self.policy.failures();
                if failure.kind == FailureKind::NeedsOperator || in_a_row >= FAILED_SESSIONS_BEFORE_POLLING {
                    self.reported_error = Some((failure.error.kind(), failure.error.to_string()));
                    return Err(failure.error);
                }
                tracing::warn!(
                    shard_id = %self.shard_id, error = %failure.error, in_a_row, wait = ?self.policy.wait(now),
                    "a subscription failed, subscribing again after the wait"
                );
                Ok(())
            }
        }
    }

    /// Replaces `LATEST` by its time before another subscription, because the tip has moved on since.
    fn resolve_latest(&mut self) {
        self.record_latest_time();
        let position = std::mem::replace(&mut self.position, ReadPosition::TrimHorizon);
        self.position = position.for_retry();
        if matches!(self.position, ReadPosition::Latest { since: None })
            && self.first_latest_call.take().is_some()
        {
            tracing::warn!(
                shard_id = %self.shard_id,
                "the LATEST subscription ended before its first event, and its answer had no date; resuming from the tip, \
                 records that arrived in between are not read"
            );
        }
    }

    /// Finds out whether "not found" is about the consumer, the shard or the stream, for which the service has one code. The
    /// worker treats a missing shard as read to its end, so only a listing without the shard is proof.
    async fn resolve_not_found(&self, failure: Failure, consumer_arn: &str) -> Failure {
        if failure.kind != FailureKind::NotFound {
            return failure;
        }
        let cause = failure.error;
        match self.fan_out.registration().is_gone(&self.stream, consumer_arn).await {
            Err(error) => return Failure::new(error),
            Ok(true) => {
                let (kind, remedy) = match &self.fan_out.settings().consumer {
                    ConsumerChoice::Name(_) => (SourceErrorKind::Unavailable, "it is registered again"),
                    ConsumerChoice::Arn(_) => {
                        (SourceErrorKind::Invalid, "give the ARN of another consumer, or a consumer name")
                    }
                };
                let message = format!("consumer {consumer_arn} was deregistered, {remedy}: {cause}");
                return Failure::new(SourceError::new(kind, message).with_source(cause));
            }
            Ok(false) => {}
        }
        let shards = match self.stream.list_shards(&ShardFilter::All).await {
            Ok(shards) => shards,
            Err(error) => return Failure::new(error),
        };
        let (kind, finding) = if shards.iter().any(|shard| shard.shard_id == self.shard_id) {
            (SourceErrorKind::Unavailable, "the stream lists the shard, but it cannot be subscribed to yet")
        } else {
            (SourceErrorKind::ShardNotFound, "the stream does not list the shard")
        };
        Failure::new(SourceError::new(kind, format!("{finding}: {cause}")).with_source(cause))
    }

    /// Reads by polling; `None`: it is time to subscribe again.
    async fn poll(&mut self) -> Result<Option<FetchedBatch>, SourceError> {
        let Some(polling) = &mut self.polling else { return Ok(None) };
        if Instant::now() < polling.until {
            let batch = polling.source.next_batch().await?;
            self.end.clone_from(&batch.shard_end);
            return Ok(Some(batch));
        }
        self.position = polling.source.position().clone().for_retry();
        self.polling = None;
        tracing::info!(shard_id = %self.shard_id, position = ?self.position, "trying fan-out again");
        Ok(None)
    }
}

impl Session {
    /// Since when the session is silent, and when it counts as dead if it stays silent.
    fn silence(&mut self, now: Instant, inactivity_timeout: Duration) -> (Instant, Instant) {
        let since = *self.silent_since.get_or_insert(now);
        (since, (since + inactivity_timeout).max(now + MIN_LISTEN_TIME))
    }
}

/// A batch without records. It reports no lag, because the lag is not known.
fn empty_batch() -> FetchedBatch {
    FetchedBatch::new(Vec::new(), None)
}

#[async_trait]
impl RecordSource for FanOutSource {
    async fn ready(&mut self) -> u64 {
        self.reservation = Reservation::Empty;
        let now = Instant::now();
        if self.end.is_some() {
            return 0;
        }
        if let Some(polling) = self.polling.as_mut().filter(|polling| now < polling.until) {
            let bytes = polling.source.ready().await;
            self.reservation = Reservation::NextEvent;
            return bytes;
        }
        // Without a session no event can arrive; the next read subscribes.
        let (Some(session), None) = (&mut self.session, &self.polling) else { return 0 };
        let (_, dead_at) = session.silence(now, self.fan_out.settings().inactivity_timeout);
        let until = (now + ANSWER_INTERVAL).min(dead_at);
        let until = self.policy.renew_at().map_or(until, |renew_at| until.min(renew_at));
        match timeout_at(until, session.subscription.wait_for_event()).await {
            Ok(bytes) => {
                self.reservation = Reservation::NextEvent;
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
        // Bounded by `answer_by`: each iteration waits, fails or returns.
        loop {
            if let Some(end) = &self.end {
                let shard_end = Some(end.clone());
                return Ok(FetchedBatch::new(Vec::new(), Some(0)).with_end(shard_end));
            }
            if let Some(batch) = self.poll().await? {
                return Ok(batch);
            }
            if self.session.is_none() {
                if self.reservation == Reservation::NextEvent {
                    // The session of the reserved event is over. Release the reservation before subscribing again.
                    self.reservation = Reservation::Empty;
                    return Ok(empty_batch());
                }
                if !self.subscribe(answer_by).await? {
                    return self.reported_error.clone().map_or_else(
                        || Ok(empty_batch()),
                        |(kind, message)| Err(SourceError::new(kind, message)),
                    );
                }
                if self.session.is_some() && self.reservation == Reservation::Empty {
                    // Return now, so the caller can reserve memory before the first event is read.
                    return Ok(empty_batch());
                }
            } else if let Some(batch) = self.listen(answer_by).await? {
                return Ok(batch);
            }
        }
    }
}
