//! The wire format of answers: JSON, and the frames of an event stream.

use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::primitives::event_stream::{Header, HeaderValue, Message};
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::body::SdkBody;
use base64_simd::STANDARD;
use bytes::Bytes;
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{Record, Shard};

use crate::event::sequence_number;

/// The answer to an operation.
pub(super) enum Answer {
    /// JSON.
    Json(Value),
    /// A refusal with this code.
    Refused(&'static str),
    /// An event stream.
    Events(SdkBody),
}

/// Formats a shard as in a listing. A closed shard has an ending sequence number.
pub(super) fn shard(shard: &Shard) -> Value {
    let mut parents = shard.parents.iter().map(ShardId::as_str);
    let mut numbers = json!({ "StartingSequenceNumber": sequence_number(0).as_str() });
    if shard.is_closed {
        numbers["EndingSequenceNumber"] = sequence_number(u64::MAX).as_str().into();
    }
    let mut written = json!({
        "ShardId": shard.shard_id.as_str(),
        "HashKeyRange": hash_key_range(shard),
        "SequenceNumberRange": numbers,
    });
    if let Some(parent) = parents.next() {
        written["ParentShardId"] = parent.into();
    }
    if let Some(parent) = parents.next() {
        written["AdjacentParentShardId"] = parent.into();
    }
    written
}

/// Formats a shard as in the last answer of its parent.
pub(super) fn child(shard: &Shard) -> Value {
    let parents: Vec<&str> = shard.parents.iter().map(ShardId::as_str).collect();
    json!({
        "ShardId": shard.shard_id.as_str(),
        "ParentShards": parents,
        "HashKeyRange": hash_key_range(shard),
    })
}

fn hash_key_range(shard: &Shard) -> Value {
    let ends = shard.hash_key_range.map(|range| (range.start().0, range.end().0));
    let (start, end) = ends.unwrap_or((0, u128::MAX));
    json!({ "StartingHashKey": start.to_string(), "EndingHashKey": end.to_string() })
}

/// Formats a record.
pub(super) fn record(record: &Record) -> Value {
    let arrival = record.approximate_arrival.map(seconds);
    json!({
        "SequenceNumber": record.sequence_number.as_str(),
        "ApproximateArrivalTimestamp": arrival,
        "Data": STANDARD.encode_to_string(&record.data),
        "PartitionKey": record.partition_key.as_deref(),
    })
}

/// Formats a time like the API: seconds since 1970 with milliseconds as a fraction.
fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}

/// Parses a time of a request, to the millisecond.
pub(super) fn time(seconds: &Value) -> Option<SystemTime> {
    let micros = Duration::try_from_secs_f64(seconds.as_f64()?).ok()?.as_micros();
    let millis = u64::try_from((micros + 500) / 1000).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Formats the `date` header, in whole seconds.
pub(super) fn date(time: SystemTime) -> String {
    DateTime::from(time).fmt(DateTimeFormat::HttpDate).unwrap_or_default()
}

/// Returns the first message of an event stream.
pub(super) fn accepted() -> Bytes {
    frame("event", ":event-type", "initial-response", &json!({}))
}

/// Returns an event of a subscription.
pub(super) fn event(content: &Value) -> Bytes {
    frame("event", ":event-type", "SubscribeToShardEvent", content)
}

/// Returns an exception instead of an event.
pub(super) fn exception(kind: &'static str) -> Bytes {
    frame("exception", ":exception-type", kind, &json!({ "message": "simulated" }))
}

fn frame(
    message_type: &'static str,
    type_header: &'static str,
    kind: &'static str,
    content: &Value,
) -> Bytes {
    let header = |name, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(Bytes::from(content.to_string()))
        .add_header(header(":message-type", message_type))
        .add_header(header(type_header, kind))
        .add_header(header(":content-type", "application/json"));
    let mut bytes = Vec::new();
    // This fails only beyond the size limits of the format, which no message here reaches.
    let _ = write_message_to(&message, &mut bytes);
    bytes.into()
}
