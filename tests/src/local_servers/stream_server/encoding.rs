//! The encodings of the server: JSON, CBOR as AWS has it, and the frames of an event stream.

use aws_sdk_kinesis::primitives::event_stream::{Header, HeaderValue, Message};
use aws_smithy_eventstream::frame::write_message_to;
use axum::body::Bytes;
use ciborium::Value as Cbor;
use serde_json::Value;

/// The content type of JSON requests and answers.
pub(super) const JSON: &str = "application/x-amz-json-1.1";

/// The content type of CBOR requests and answers.
pub(super) const CBOR: &str = "application/x-amz-cbor-1.1";

/// A CBOR request as JSON. `None`: it is no CBOR, or contains a type that no request has.
pub(super) fn json_of_cbor(body: &[u8]) -> Option<Value> {
    fn convert(value: Cbor) -> Option<Value> {
        Some(match value {
            Cbor::Text(text) => Value::from(text),
            Cbor::Integer(number) => Value::from(i64::try_from(i128::from(number)).ok()?),
            Cbor::Map(members) => {
                let members = members.into_iter();
                let members = members.map(|(name, value)| Some((name.into_text().ok()?, convert(value)?)));
                Value::Object(members.collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
    convert(ciborium::from_reader(body).ok()?)
}

/// A JSON answer as CBOR, with payloads as bytes and times in milliseconds.
pub(super) fn cbor_of_json(answer: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = ciborium::into_writer(&converted("", answer), &mut bytes);
    bytes
}

#[allow(clippy::cast_possible_truncation)] // the times of the tests fit
fn converted(name: &str, value: &Value) -> Cbor {
    match value {
        Value::Null => Cbor::Null,
        Value::Bool(value) => Cbor::Bool(*value),
        Value::Number(number) if name.ends_with("Timestamp") => {
            let millis = (number.as_f64().unwrap_or_default() * 1000.0).round() as i64;
            Cbor::Tag(1, Box::new(Cbor::from(millis)))
        }
        Value::Number(number) => Cbor::from(number.as_i64().unwrap_or_default()),
        Value::String(text) if name == "Data" => {
            Cbor::Bytes(base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default())
        }
        Value::String(text) => Cbor::from(text.as_str()),
        Value::Array(items) => Cbor::Array(items.iter().map(|item| converted("", item)).collect()),
        Value::Object(members) => Cbor::Map(
            members.iter().map(|(name, value)| (Cbor::from(name.as_str()), converted(name, value))).collect(),
        ),
    }
}

/// A frame of an event stream: the first one, an event, or an exception that ends the stream.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    Accepted,
    Event(Value),
    Exception { kind: &'static str, message: &'static str },
}

impl Frame {
    /// The frame as bytes.
    pub(super) fn encoded(&self) -> Bytes {
        let (message_type, type_header, kind, content) = match self {
            Self::Accepted => ("event", ":event-type", "initial-response", serde_json::json!({})),
            Self::Event(event) => ("event", ":event-type", "SubscribeToShardEvent", event.clone()),
            Self::Exception { kind, message } => {
                ("exception", ":exception-type", *kind, serde_json::json!({ "message": message }))
            }
        };
        let header = |name, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
        let message = Message::new(Bytes::from(content.to_string()))
            .add_header(header(":message-type", message_type))
            .add_header(header(type_header, kind))
            .add_header(header(":content-type", "application/json"));
        let mut bytes = Vec::new();
        // The names and values of the headers are short, and writing to memory does not fail.
        let _ = write_message_to(&message, &mut bytes);
        bytes.into()
    }
}
