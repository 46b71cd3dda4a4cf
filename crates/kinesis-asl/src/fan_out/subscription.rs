//! One session of `SubscribeToShard`: from the call to the end of its events.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream};
use lease_store::ShardId;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
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

/// A subscription that the service has accepted. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Subscription {
    events: EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
}

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
        let call = request.customize().interceptor(asked.notes.clone()).send();
        let answer = timeout(SUBSCRIBE_LIMIT, call).await;
        stream.note_endpoint(&asked.notes);
        match answer {
            Ok(Ok(answer)) => Ok(Self { events: answer.event_stream }),
            Ok(Err(error)) => Err(Failure::refused(stream, shard_id, error)),
            Err(_) => Err(Failure::new(stream.unavailable(&format!(
                "subscribing to {shard_id} had no answer within {SUBSCRIBE_LIMIT:?}"
            )))),
        }
    }

    /// The next event; `None`: the session is over, which says nothing about the shard. Nothing is read from the connection
    /// until this is called, so there is never more than one event in memory, besides what the connection's window lets
    /// through. Safe to cancel.
    pub(crate) async fn next(
        &mut self,
        stream: &KinesisStream,
        shard_id: &ShardId,
    ) -> Result<Option<SubscribeToShardEvent>, Failure> {
        loop {
            match self.events.recv().await {
                Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => {
                    return Ok(Some(event));
                }
                // A kind of event that this version does not know.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(error) => return Err(Failure::broken(stream, shard_id, error)),
            }
        }
    }
}
