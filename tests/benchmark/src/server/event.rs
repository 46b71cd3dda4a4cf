//! The events of `SubscribeToShard`: frames of an event stream with JSON in them.

use aws_sdk_kinesis::primitives::event_stream::{Header, HeaderValue, Message};
use aws_smithy_eventstream::frame::write_message_to;
use bytes::Bytes;
use kinesis_streaming::prelude::BoxError;

use super::record::{Rendering, push_json};

/// The most payload in an event, in bytes: what AWS pushes from a shard in a second.
const MAX_EVENT_BYTES: usize = 2_000_000;

/// An event with records.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) frame: Bytes,
    /// The sequence number of its last record, from which the next subscription continues.
    pub(crate) last: String,
}

/// Renders the records of an answer as events, in as few as their size allows. All records have about the size of the first.
pub(super) fn render(records: &[Rendering<'_>]) -> Result<Vec<Event>, BoxError> {
    let record_bytes = records.first().map_or(1, |record| record.data.len().max(1));
    let events = records.chunks((MAX_EVENT_BYTES / record_bytes).max(1)).map(|records| {
        let last = records.last().map(|record| record.sequence_number.clone()).unwrap_or_default();
        Ok(Event { frame: frame("SubscribeToShardEvent", content(records, &last))?, last })
    });
    events.collect()
}

/// The first frame of a subscription.
pub(super) fn accepted() -> Result<Bytes, BoxError> {
    frame("initial-response", b"{}".to_vec())
}

/// An event without records, at the tip.
pub(super) fn empty(after: &str) -> Result<Bytes, BoxError> {
    frame("SubscribeToShardEvent", content(&[], after))
}

fn content(records: &[Rendering<'_>], continuation: &str) -> Vec<u8> {
    let mut json = b"{\"Records\":[".to_vec();
    push_json(&mut json, records);
    json.extend(
        format!("],\"ContinuationSequenceNumber\":\"{continuation}\",\"MillisBehindLatest\":0}}").bytes(),
    );
    json
}

fn frame(kind: &'static str, content: Vec<u8>) -> Result<Bytes, BoxError> {
    let header = |name, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(Bytes::from(content))
        .add_header(header(":message-type", "event"))
        .add_header(header(":event-type", kind))
        .add_header(header(":content-type", "application/json"));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
    use serde_json::Value;

    use super::*;

    /// The event type and the content of a frame.
    fn decoded(frame: &Bytes) -> (String, Value) {
        let mut frame = frame.clone();
        let DecodedFrame::Complete(message) = MessageFrameDecoder::new().decode_frame(&mut frame).unwrap()
        else {
            panic!("the frame is not whole");
        };
        assert!(frame.is_empty(), "one frame");
        let kind = message.headers().iter().find(|header| header.name().as_str() == ":event-type").unwrap();
        let kind = kind.value().as_string().unwrap().as_str().to_owned();
        (kind, serde_json::from_slice(message.payload()).unwrap())
    }

    #[test]
    fn events_hold_the_records_of_an_answer_in_order() {
        let payloads: Vec<Vec<u8>> = (0..100).map(|index| vec![index; 50_000]).collect();
        let records: Vec<_> = (0_u8..)
            .zip(&payloads)
            .map(|(index, data)| Rendering {
                sequence_number: (49_000 + u32::from(index)).to_string(),
                arrival_millis: 1_700_000_000_123,
                key: "key",
                data,
            })
            .collect();
        let events = render(&records).unwrap();
        assert_eq!(events.len(), 3, "5 MB, at most 2 MB in an event");
        let mut expected = records.iter();
        for event in events {
            let (kind, content) = decoded(&event.frame);
            assert_eq!(kind, "SubscribeToShardEvent");
            for record in content["Records"].as_array().unwrap() {
                let expected = expected.next().unwrap();
                assert_eq!(record["SequenceNumber"], expected.sequence_number);
                let data = base64_simd::STANDARD.decode_to_vec(record["Data"].as_str().unwrap()).unwrap();
                assert_eq!(data, expected.data);
            }
            let last = &content["Records"].as_array().unwrap().last().unwrap()["SequenceNumber"];
            assert_eq!([&content["ContinuationSequenceNumber"], last], [&event.last, &event.last]);
        }
        assert!(expected.next().is_none(), "no record is left out");
    }

    #[test]
    fn first_frame_and_empty_events_have_no_records() {
        assert_eq!(decoded(&accepted().unwrap()).0, "initial-response");
        let (_, content) = decoded(&empty("49").unwrap());
        assert_eq!(content["Records"].as_array().map(Vec::len), Some(0));
        assert_eq!(content["ContinuationSequenceNumber"], "49");
    }
}
