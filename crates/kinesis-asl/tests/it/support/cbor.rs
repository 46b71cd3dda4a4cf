//! Converts between JSON and the CBOR of AWS, for test servers that work in JSON.

use axum::body::{Body, to_bytes};
use axum::http::HeaderValue;
use axum::response::Response;
use ciborium::Value as Cbor;
use serde_json::Value;

/// The content type of CBOR requests and answers.
pub(crate) const CONTENT_TYPE: &str = "application/x-amz-cbor-1.1";

/// The largest converted answer, in bytes.
const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// Converts a CBOR request to JSON.
pub(crate) fn to_json(body: &[u8]) -> Value {
    fn convert(value: Cbor) -> Value {
        match value {
            Cbor::Text(text) => Value::from(text),
            Cbor::Map(members) => Value::Object(
                members
                    .into_iter()
                    .map(|(name, value)| (name.into_text().expect("a name"), convert(value)))
                    .collect(),
            ),
            Cbor::Integer(number) => Value::from(u64::try_from(i128::from(number)).expect("a count")),
            other => panic!("unexpected {other:?} in a request"),
        }
    }
    convert(ciborium::from_reader(body).expect("CBOR"))
}

/// Converts a JSON answer to CBOR, with payloads as bytes and times in milliseconds. A body that is not JSON is left as it is.
pub(crate) async fn to_cbor(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.expect("a body");
    let Ok(json) = serde_json::from_slice::<Value>(&body) else {
        return Response::from_parts(parts, Body::from(body));
    };
    let bytes = encoded(&json);
    parts.headers.insert("content-type", HeaderValue::from_static(CONTENT_TYPE));
    parts.headers.remove("content-length");
    Response::from_parts(parts, Body::from(bytes))
}

/// The CBOR of a JSON answer, with payloads as bytes and times in milliseconds.
pub(crate) fn encoded(json: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&from_json("", json), &mut bytes).expect("CBOR");
    bytes
}

fn from_json(name: &str, value: &Value) -> Cbor {
    match value {
        Value::Null => Cbor::Null,
        Value::Bool(value) => Cbor::Bool(*value),
        #[allow(clippy::cast_possible_truncation)] // the times of the tests fit
        Value::Number(number) if name.ends_with("Timestamp") => {
            let millis = (number.as_f64().expect("a time") * 1000.0).round() as i64;
            Cbor::Tag(1, Box::new(Cbor::from(millis)))
        }
        Value::Number(number) => Cbor::from(number.as_i64().expect("an integer")),
        Value::String(text) if name == "Data" => {
            Cbor::Bytes(base64_simd::STANDARD.decode_to_vec(text).expect("base64"))
        }
        Value::String(text) => Cbor::from(text.as_str()),
        Value::Array(items) => Cbor::Array(items.iter().map(|item| from_json("", item)).collect()),
        Value::Object(members) => Cbor::Map(
            members.iter().map(|(name, value)| (Cbor::from(name.as_str()), from_json(name, value))).collect(),
        ),
    }
}
