//! One session of `SubscribeToShard`: from the call to the end of its events.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream};
use aws_smithy_types::event_stream::RawMessage;
use lease_store::ShardId;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::gate::Gate;
use crate::call_notes::CallNotes;
use crate::stream::KinesisStream;

/// How long the service may take to accept a subscription, its first message included. The time-outs of the client end
/// with the head of the answer.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(30);

/// The service's clock is read from a header that is cut to whole seconds.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// A client for the subscriptions of one shard, with a connection of its own unless the given client has a fixed one. On a
/// shared HTTP/2 connection a few shards whose records nobody takes would use up the window of all the others.
///
/// The SDK repeats nothing: a repeat of a call that did succeed is refused, and the policy here keeps the distance. Its
/// guard against slow downloads is off, since a quiet shard is slow; the inactivity time-out takes its place.
pub(crate) fn client_for_subscriptions(client: &Client) -> Client {
    let config = client
        .config()
        .to_builder()
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Client::from_conf(config.build())
}

/// A call for a subscription on its way. It outlives a cancelled call.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    notes: CallNotes,
    at: Instant,
}

impl Asked {
    pub(crate) fn new(now: Instant) -> Self {
        Self { notes: CallNotes::default(), at: now }
    }

    /// A time by the service's clock that is not after the call; `None`: there was no answer, or it had no date.
    pub(crate) fn not_after(&self) -> Option<SystemTime> {
        self.notes.date()?.checked_sub(self.at.elapsed() + DATE_RESOLUTION)
    }
}

/// The most memory that an event takes, in bytes: a shard gives 2 MB in a second, and an event is not larger than that. It
/// comes as Base64 text (4/3) and is decoded.
pub(crate) const EVENT_BYTES_AT_MOST: u64 = 2 * 1024 * 1024 * 7 / 3;

/// A subscription that the service has accepted. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Subscription {
    events: EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
    gate: Gate,
    /// Came in one piece with what was taken before, and so is in memory already.
    at_hand: Option<Result<Option<SubscribeToShardEvent>, EventError>>,
}

type EventError = SdkError<SubscribeToShardEventStreamError, RawMessage>;

impl Subscription {
    pub(crate) async fn open(
        client: &Client,
        stream: &KinesisStream,
        consumer_arn: &str,
        shard_id: &ShardId,
        start: StartingPosition,
        asked: &Asked,
    ) -> Result<Self, Failure> {
        let request = client
            .subscribe_to_shard()
            .consumer_arn(consumer_arn)
            .shard_id(shard_id.as_str())
            .starting_position(start);
        let gate = Gate::default();
        let call = request.customize().interceptor(asked.notes.clone()).interceptor(gate.clone()).send();
        let answer = timeout(SUBSCRIBE_LIMIT, call).await;
        stream.note_endpoint(&asked.notes);
        match answer {
            Ok(Ok(answer)) => {
                gate.set_open(false);
                Ok(Self { events: answer.event_stream, gate, at_hand: None })
            }
            Ok(Err(error)) => Err(Failure::refused(stream, shard_id, error)),
            Err(_) => Err(Failure::new(stream.unavailable(&format!(
                "subscribing to {shard_id} had no answer within {SUBSCRIBE_LIMIT:?}"
            )))),
        }
    }

    /// Waits until the next event has begun to come, or the session has ended, and takes nothing from the connection but the
    /// beginning. Gives the most memory that [`next`](Self::next) will take. Safe to cancel.
    pub(crate) async fn has_come(&mut self) -> u64 {
        if self.at_hand.is_none() {
            // The gate is closed: this comes to an end only with what the SDK has taken already.
            let mut event = std::pin::pin!(event(&mut self.events));
            self.at_hand = poll_fn(|context| match event.as_mut().poll(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        if self.at_hand.is_none() {
            self.gate.has_come().await;
        }
        EVENT_BYTES_AT_MOST
    }

    /// The next event; `None`: the session is over, which says nothing about the shard. Nothing is read from the connection
    /// until this is called, but for the beginning of an event, so there is never more than one event in memory, besides
    /// what the connection's window lets through. Safe to cancel.
    pub(crate) async fn next(
        &mut self,
        stream: &KinesisStream,
        shard_id: &ShardId,
    ) -> Result<Option<SubscribeToShardEvent>, Failure> {
        let event = match self.at_hand.take() {
            Some(event) => event,
            None => {
                let _opened = Opened::new(&self.gate);
                event(&mut self.events).await
            }
        };
        event.map_err(|error| Failure::broken(stream, shard_id, error))
    }
}

/// A gate that is open until this is dropped.
struct Opened<'a>(&'a Gate);

impl<'a> Opened<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.set_open(true);
        Self(gate)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

async fn event(
    events: &mut EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
) -> Result<Option<SubscribeToShardEvent>, EventError> {
    loop {
        match events.recv().await? {
            Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => return Ok(Some(event)),
            // A kind of event that this version does not know.
            Some(_) => {}
            None => return Ok(None),
        }
    }
}
