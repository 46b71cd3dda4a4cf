//! One session of `SubscribeToShard`: from the call to the end of its events.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{StartingPosition, SubscribeToShardEventStream};
use aws_smithy_types::event_stream::RawMessage;
use lease_store::ShardId;
use tokio::time::{Instant, timeout};

use super::backpressure::GatedBody;
use super::failure::Failure;
use super::framing::MAX_MESSAGE_BYTES;
use crate::get_records::answer::Answer;
use crate::get_records::decode_error::DecodeError;
use crate::response_metadata::{DATE_RESOLUTION, ResponseMetadata};
use crate::stream_client::StreamClient;

/// How long the service may take to accept a subscription, including its first message. The client's own time-outs end with
/// the response headers.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(30);

/// A `SubscribeToShard` call in flight. Its metadata stays available when the call's future is dropped.
#[derive(Debug, Clone)]
pub(crate) struct SubscribeCall {
    metadata: ResponseMetadata,
    called_at: Instant,
}

impl SubscribeCall {
    pub(crate) fn new(now: Instant) -> Self {
        Self { metadata: ResponseMetadata::default(), called_at: now }
    }

    /// The service's clock at the start of the call or earlier; `None`: no answer arrived, or it had no date.
    pub(crate) fn earliest_service_time(&self) -> Option<SystemTime> {
        self.metadata.date()?.checked_sub(self.called_at.elapsed() + DATE_RESOLUTION)
    }
}

/// The memory of a usual event, in bytes, reserved at least. It holds at most the 2 MB that a shard yields in a second; it
/// arrives as Base64 text (4/3), which is decoded in place.
pub(crate) const USUAL_EVENT_BYTES: u64 = 2 * 1024 * 1024 * 7 / 3;

/// The memory of an event that arrives in a message of this size, in bytes. `None`: the size is not known.
fn event_bytes(message_bytes: Option<u32>) -> u64 {
    let message_bytes = u64::from(message_bytes.unwrap_or(0)).min(MAX_MESSAGE_BYTES as u64);
    // The text, and the records in it.
    (message_bytes * 7 / 4).max(USUAL_EVENT_BYTES)
}

/// A subscription that the service has accepted. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Subscription {
    events: EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
    body: GatedBody,
    call: SubscribeCall,
    /// An event that arrived in one frame with the event before it, and so is in memory already.
    buffered: Option<Result<Option<Answer>, EventError>>,
}

/// Why there is no event.
#[derive(Debug)]
enum EventError {
    /// The service sent an exception, or the connection broke.
    Sdk(SdkError<SubscribeToShardEventStreamError, RawMessage>),
    /// The event cannot be decoded.
    Decode(DecodeError),
    /// The SDK has read the event itself, since the boundary before it was not known.
    NotDecoded,
}

impl Subscription {
    pub(crate) async fn open(
        client: &Client,
        stream: &StreamClient,
        consumer_arn: &str,
        shard_id: &ShardId,
        start: StartingPosition,
        call: &SubscribeCall,
    ) -> Result<Self, Failure> {
        let request = client
            .subscribe_to_shard()
            .consumer_arn(consumer_arn)
            .shard_id(shard_id.as_str())
            .starting_position(start);
        let body = GatedBody::default();
        let request = request.customize().interceptor(call.metadata.clone()).interceptor(body.clone());
        let answer = timeout(SUBSCRIBE_LIMIT, request.send()).await;
        stream.record_endpoint(&call.metadata);
        match answer {
            Ok(Ok(answer)) => {
                body.set_open(false);
                Ok(Self { events: answer.event_stream, body, call: call.clone(), buffered: None })
            }
            Ok(Err(error)) => Err(Failure::refused(stream, shard_id, error, &call.metadata.ids())),
            Err(_) => {
                call.metadata.retire_connection();
                Err(Failure::new(stream.unavailable(&format!(
                    "subscribing to {shard_id} had no answer within {SUBSCRIBE_LIMIT:?}"
                ))))
            }
        }
    }

    /// Excludes the connection of this subscription from further calls: it has been silent for too long.
    pub(crate) fn retire_connection(&self) {
        self.call.metadata.retire_connection();
    }

    /// Waits until the next event begins to arrive, or the session ends. Reads only the beginning of the event, and returns
    /// the most memory that [`next`](Self::next) will take. Safe to cancel.
    pub(crate) async fn wait_for_event(&mut self) -> u64 {
        if self.buffered.is_none() {
            // The gate is closed, so this completes only with bytes that the SDK has read already.
            let mut event = std::pin::pin!(event(&mut self.events, &self.body));
            self.buffered = poll_fn(|context| match event.as_mut().poll(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        if self.buffered.is_none() {
            self.body.wait_for_frame().await;
        }
        event_bytes(self.body.arriving_bytes())
    }

    /// The next event; `None`: the session ended, which does not mean that the shard ended.
    ///
    /// Until this is called, only the beginning of an event is read from the connection. So memory holds at most one event,
    /// plus the connection's flow-control window. Safe to cancel.
    pub(crate) async fn next(
        &mut self,
        stream: &StreamClient,
        shard_id: &ShardId,
    ) -> Result<Option<Answer>, Failure> {
        let event = match self.buffered.take() {
            Some(event) => event,
            None => {
                let _open = OpenGuard::new(&self.body);
                event(&mut self.events, &self.body).await
            }
        };
        event.map_err(|error| match error {
            EventError::Sdk(error) => Failure::broken(stream, shard_id, error, self.call.metadata.ids()),
            EventError::Decode(DecodeError::SequenceNumber(error)) => {
                Failure::new(stream.invalid(&format!("a record of {shard_id}: {error}")).with_source(error))
            }
            EventError::Decode(DecodeError::Malformed(malformed)) => {
                let fault =
                    format!("an event is malformed at byte {}: {}", malformed.offset, malformed.fault);
                Failure::undecodable(stream, shard_id, &fault, &self.call.metadata.ids())
            }
            EventError::NotDecoded => {
                let fault = "an event came after a message of impossible length";
                Failure::undecodable(stream, shard_id, fault, &self.call.metadata.ids())
            }
        })
    }
}

/// Keeps the gate of a body open until it is dropped.
struct OpenGuard<'a>(&'a GatedBody);

impl<'a> OpenGuard<'a> {
    fn new(body: &'a GatedBody) -> Self {
        body.set_open(true);
        Self(body)
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

async fn event(
    events: &mut EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
    body: &GatedBody,
) -> Result<Option<Answer>, EventError> {
    loop {
        match events.recv().await.map_err(EventError::Sdk)? {
            // The one that the SDK has read is empty; the body has its content.
            Some(SubscribeToShardEventStream::SubscribeToShardEvent(_)) => {
                let decoded = body.take_event().ok_or(EventError::NotDecoded)?;
                return decoded.map(Some).map_err(EventError::Decode);
            }
            // An event type that this version does not know.
            Some(_) => {}
            None => return Ok(None),
        }
    }
}
