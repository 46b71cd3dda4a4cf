//! Takes the events out of an event stream and decodes them; every other message goes to the SDK as it arrived. Pure.
//!
//! The SDK would decode an event into records with buffers of their own, which took more than a third of a subscription's time.
//! In place of each event it reads an empty one, so that it still reports events, exceptions and the end in the order of the stream.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::{Bytes, BytesMut};

use super::framing::MAX_MESSAGE_BYTES;
use crate::get_records::answer::Answer;
use crate::get_records::decode_error::DecodeError;
use crate::get_records::json;

/// The type of the events with records.
const EVENT_TYPE: &str = "SubscribeToShardEvent";

/// The content that the SDK reads in place of an event's.
const EMPTY_EVENT: &str = r#"{"Records":[],"ContinuationSequenceNumber":"","MillisBehindLatest":0}"#;

/// The size of the length with which each message begins, in bytes. It counts the whole message.
const LENGTH_BYTES: usize = 4;

/// The shortest message, in bytes: two lengths and two checksums.
const MIN_MESSAGE_BYTES: usize = 16;

/// The messages of one subscription.
#[derive(Debug)]
pub(super) struct Messages {
    /// The bytes of the message that is arriving.
    arriving: Vec<u8>,
    /// The events that have arrived, and for which the SDK reads empty ones.
    events: VecDeque<Result<Answer, DecodeError>>,
    empty_event: Vec<u8>,
    /// Whether all further bytes go to the SDK: after a length that no message has, the boundaries are not known.
    is_opaque: bool,
}

/// A message announces more bytes than are reserved for one. The SDK would keep as many as it announces, up to 4 GiB.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MessageTooLong {
    bytes: usize,
}

impl fmt::Display for MessageTooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "a message of {} bytes, more than {MAX_MESSAGE_BYTES}, which no event has",
            self.bytes
        )
    }
}

impl Error for MessageTooLong {}

impl Default for Messages {
    fn default() -> Self {
        let mut empty_event = Vec::new();
        // Without an empty event all events are left to the SDK.
        let is_opaque = write_message_to(&empty_event_message(), &mut empty_event).is_err();
        Self { arriving: Vec::new(), events: VecDeque::new(), empty_event, is_opaque }
    }
}

fn empty_event_message() -> Message {
    let header =
        |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    Message::new(Bytes::from_static(EMPTY_EVENT.as_bytes()))
        .add_header(header(":message-type", "event"))
        .add_header(header(":event-type", EVENT_TYPE))
        .add_header(header(":content-type", "application/json"))
}

impl Messages {
    /// Takes the next bytes of the stream, and returns those that the SDK reads; none while a message is incomplete. The stream is over
    /// with a message that is too long.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, MessageTooLong> {
        let mut for_sdk = Vec::new();
        // Memory for a whole message is taken once more of it arrives than its beginning: that may have come with the message before it,
        // and until then none is reserved.
        let mut has_begun = !self.arriving.is_empty();
        while !bytes.is_empty() && !self.is_opaque {
            let wanted = match self.message_bytes() {
                None => LENGTH_BYTES,
                // What came before it is read first.
                Some(length) if length > MAX_MESSAGE_BYTES && !for_sdk.is_empty() => return Ok(for_sdk),
                Some(length) if length > MAX_MESSAGE_BYTES => return Err(MessageTooLong { bytes: length }),
                Some(length) if length >= MIN_MESSAGE_BYTES => length,
                Some(_) => {
                    for_sdk.extend(self.rest());
                    break;
                }
            };
            let missing = wanted - self.arriving.len();
            self.arriving.reserve_exact(if has_begun { missing } else { missing.min(bytes.len()) });
            let (of_message, rest) = bytes.split_at(bytes.len().min(missing));
            self.arriving.extend(of_message);
            bytes = rest;
            if self.message_bytes() == Some(self.arriving.len()) {
                let message = std::mem::take(&mut self.arriving);
                self.complete(message, &mut for_sdk);
                has_begun = false;
            }
        }
        for_sdk.extend(bytes);
        Ok(for_sdk)
    }

    /// The bytes of an incomplete message, for the SDK: the stream ends with them. All further bytes are left to the SDK.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        self.is_opaque = true;
        std::mem::take(&mut self.arriving)
    }

    /// The event for which the SDK has read an empty one. `None`: the SDK has read an event itself.
    pub(super) fn take_event(&mut self) -> Option<Result<Answer, DecodeError>> {
        self.events.pop_front()
    }

    /// The length of the message that is arriving, once its bytes have arrived.
    fn message_bytes(&self) -> Option<usize> {
        let length = self.arriving.first_chunk::<LENGTH_BYTES>()?;
        Some(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
    }

    fn complete(&mut self, message: Vec<u8>, for_sdk: &mut Vec<u8>) {
        let whole = Bytes::from(message);
        match event_content(&whole) {
            Some(content) => {
                // The content is the only reference then, and is decoded where it is.
                drop(whole);
                let content = content.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
                self.events.push_back(json::decode_event(content));
                for_sdk.extend(&self.empty_event);
            }
            None => for_sdk.extend(&whole),
        }
    }
}

/// The content of a message that is an event; `None` for other and for broken messages.
fn event_content(whole: &Bytes) -> Option<Bytes> {
    let message = read_message_from(whole.clone()).ok()?;
    let has = |name: &str, value: &str| {
        let mut same_name = message.headers().iter().filter(|header| header.name().as_str() == name);
        same_name.any(|header| header.value().as_string().is_ok_and(|text| text.as_str() == value))
    };
    (has(":message-type", "event") && has(":event-type", EVENT_TYPE)).then(|| message.payload().clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: &str, name: &'static str, value: &str, content: &str) -> Vec<u8> {
        let text = |text: &str| HeaderValue::String(text.to_owned().into());
        let message = Message::new(Bytes::from(content.to_owned()))
            .add_header(Header::new(":message-type", text(kind)))
            .add_header(Header::new(name, text(value)));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    fn event(number: u64) -> Vec<u8> {
        let content = format!(
            "{{\"Records\":[{{\"SequenceNumber\":\"{number}\",\"Data\":\"YWJj\",\"PartitionKey\":\"k\"}}],\
             \"ContinuationSequenceNumber\":\"{number}\",\"MillisBehindLatest\":7}}"
        );
        message("event", ":event-type", EVENT_TYPE, &content)
    }

    fn initial() -> Vec<u8> {
        message("event", ":event-type", "initial-response", "{}")
    }

    fn empty() -> Vec<u8> {
        Messages::default().empty_event
    }

    #[test]
    fn events_are_taken_out_and_all_else_is_as_it_arrived() {
        let exception = message("exception", ":exception-type", "ResourceInUseException", "{}");
        let mut messages = Messages::default();
        let for_sdk = messages.push(&[initial(), event(1), event(2), exception.clone()].concat()).unwrap();
        assert_eq!(for_sdk, [initial(), empty(), empty(), exception].concat());
        for number in ["1", "2"] {
            let event = messages.take_event().unwrap().unwrap();
            assert_eq!(event.records[0].sequence_number.as_str(), number);
            assert_eq!(event.records[0].data.as_ref(), b"abc");
            assert_eq!(event.next_iterator.as_deref(), Some(number));
            assert_eq!(event.millis_behind_latest, Some(7));
        }
        assert!(messages.take_event().is_none());
    }

    #[test]
    fn broken_messages_and_lengths_are_left_to_the_sdk() {
        let mut corrupt = event(1);
        *corrupt.last_mut().unwrap() ^= 1;
        let mut messages = Messages::default();
        assert_eq!(messages.push(&corrupt), Ok(corrupt));
        for length in [0_u32, 15] {
            let mut messages = Messages::default();
            let bytes = [length.to_be_bytes().to_vec(), event(1)].concat();
            let (first, second) = bytes.split_at(7);
            let for_sdk = [first, second].map(|part| messages.push(part).unwrap());
            assert_eq!(for_sdk.concat(), bytes, "{length}");
            assert!(messages.take_event().is_none());
        }
    }

    #[test]
    fn message_longer_than_any_event_is_refused_before_it_arrives() {
        let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
        assert_eq!(Messages::default().push(&longest.to_be_bytes()), Ok(vec![]));
        for length in [longest + 1, u32::MAX] {
            let bytes = usize::try_from(length).unwrap();
            let mut messages = Messages::default();
            assert_eq!(messages.push(&length.to_be_bytes()), Ok(vec![]));
            assert_eq!(messages.push(&[0]), Err(MessageTooLong { bytes }));
            assert!(messages.arriving.capacity() < 200);
            // An event before it is read.
            let mut messages = Messages::default();
            let together = [event(1), length.to_be_bytes().to_vec(), vec![0]].concat();
            assert_eq!(messages.push(&together), Ok(empty()));
            assert_eq!(messages.push(&[0]), Err(MessageTooLong { bytes }));
        }
    }

    #[test]
    fn malformed_event_is_an_error_and_no_event_of_the_sdk() {
        let mut messages = Messages::default();
        let bytes = message("event", ":event-type", EVENT_TYPE, "{\"Records\":[{\"Data\":\"?\"}]}");
        assert_eq!(messages.push(&bytes), Ok(empty()));
        assert!(matches!(messages.take_event(), Some(Err(DecodeError::Malformed(_)))));
    }

    #[test]
    fn beginning_of_a_message_takes_no_memory_for_the_rest() {
        let large = message("event", ":event-type", "another", &"x".repeat(100_000));
        let mut messages = Messages::default();
        messages.push(&[event(1), large[..100].to_vec()].concat()).unwrap();
        assert!(messages.arriving.capacity() < 200, "{}", messages.arriving.capacity());
        assert_eq!(messages.push(&large[100..200]), Ok(vec![]));
        assert!(messages.arriving.capacity() >= large.len());
        assert_eq!(messages.push(&large[200..]), Ok(large));
    }

    #[test]
    fn end_inside_a_message_is_left_to_the_sdk() {
        let mut messages = Messages::default();
        let bytes = event(1);
        assert_eq!(messages.push(&bytes[..50]), Ok(vec![]));
        assert_eq!(messages.rest(), bytes[..50]);
    }

    proptest! {
        #[test]
        fn frames_of_messages_may_end_anywhere(numbers in prop::collection::vec(1_u64..9, 1..6), sizes in prop::collection::vec(1..90_usize, 1..20)) {
            let stream = [initial(), numbers.iter().flat_map(|&number| event(number)).collect()].concat();
            let (mut messages, mut for_sdk, mut at) = (Messages::default(), Vec::new(), 0);
            for size in sizes.iter().cycle() {
                let end = stream.len().min(at + size);
                for_sdk.extend(messages.push(&stream[at..end]).unwrap());
                at = end;
                if at == stream.len() {
                    break;
                }
            }
            prop_assert_eq!(for_sdk, [initial(), empty().repeat(numbers.len())].concat());
            let read = std::iter::from_fn(|| messages.take_event());
            let read: Vec<String> = read.map(|event| event.unwrap().next_iterator.unwrap()).collect();
            prop_assert_eq!(read, numbers.iter().map(u64::to_string).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_of_a_body_are_taken_without_panic(frames: Vec<Vec<u8>>) {
            let mut messages = Messages::default();
            frames.iter().for_each(|frame| drop(messages.push(frame)));
        }
    }
}
