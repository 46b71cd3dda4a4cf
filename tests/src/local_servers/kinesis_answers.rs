//! Answers that AWS documents and the Java KCL relies on, added in front of `ferrokinesis`, which lacks them.
//!
//! | call | AWS | `ferrokinesis` 0.7 | here |
//! | --- | --- | --- | --- |
//! | all but writes and consumers, by `StreamARN` | same as by name | refused | the ARN is replaced by the name |
//! | `GetRecords`, end of a closed shard | no next iterator, and `ChildShards` | no next iterator | `ChildShards` added |
//! | `ListShards` with `ShardFilter` | `AT_LATEST`: the open shards; `AT_TRIM_HORIZON`: those at the oldest record; `AFTER_SHARD_ID`: those after it; `FROM_TIMESTAMP`: those not closed before it | ignored | applied, but all shards for `FROM_TIMESTAMP` |
//!
//! Requests and answers of `GetRecords` may be JSON or CBOR. No record is trimmed during a test, so the shards at the trim
//! horizon are those without a parent. Each of the first two filters therefore returns shards that cover every hash key
//! exactly once, which the Java KCL checks. Other filters are refused, so that a test that needs one does not pass by
//! accident.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use ciborium::Value as CborValue;
use ferrokinesis::shard_iterator::decode_shard_iterator;
use ferrokinesis::store::Store;
use serde_json::{Value, json};

/// The largest request body, above the 5 MiB of a full `PutRecords` in base64.
pub(super) const MAX_BODY_BYTES: usize = 7 * 1024 * 1024;

/// The size limit of an answer: more than 10,000 records in base64.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Passes a request on, and adapts the request and the answer to the documentation of AWS.
pub(super) async fn answer_as_aws(store: &Store, request: Request, next: Next) -> Response {
    let operation = operation(&request);
    // The server knows ARNs where consumers are concerned.
    if operation.starts_with("PutRecord") || operation.contains("StreamConsumer") {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return refusal("the request body is too large or was cut off");
    };
    let (body, requested) = match rewritten(&body) {
        Some(requested) => (Bytes::from(requested.to_string()), requested),
        // A CBOR request has an iterator only; the server itself reports any other fault.
        None => (body.clone(), ciborium::from_reader(&*body).unwrap_or(Value::Null)),
    };
    let filter = match shard_filter(&requested) {
        Ok(filter) => filter,
        Err(why) => return refusal(&why),
    };
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    if answer.status() != StatusCode::OK {
        return answer;
    }
    match operation.as_str() {
        "GetRecords" => with_children(store, &requested, answer).await,
        "ListShards" => filtered(filter, answer).await,
        _ => answer,
    }
}

fn operation(request: &Request) -> String {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
}

/// The request with the stream's name instead of its ARN. `None` when it is not a JSON object.
fn rewritten(body: &[u8]) -> Option<Value> {
    let mut requested: Value = serde_json::from_slice(body).ok()?;
    let request = requested.as_object_mut()?;
    let name = request.get("StreamARN").and_then(Value::as_str).and_then(|arn| arn.rsplit('/').next());
    if let Some(name) = name.map(str::to_owned) {
        request.remove("StreamARN");
        // A call with an iterator has no stream name.
        if !request.contains_key("ShardIterator") {
            request.insert("StreamName".to_owned(), Value::String(name));
        }
    }
    Some(requested)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ShardFilter {
    AtLatest,
    AtTrimHorizon,
    After(String),
}

fn shard_filter(requested: &Value) -> Result<Option<ShardFilter>, String> {
    match requested["ShardFilter"]["Type"].as_str() {
        None => Ok(None),
        Some("AT_LATEST") => Ok(Some(ShardFilter::AtLatest)),
        // The closing times of shards are unknown here, and a listing may contain more shards than requested.
        Some("FROM_TIMESTAMP") => Ok(None),
        Some("AT_TRIM_HORIZON") => Ok(Some(ShardFilter::AtTrimHorizon)),
        Some("AFTER_SHARD_ID") => {
            let shard_id =
                requested["ShardFilter"]["ShardId"].as_str().ok_or("AFTER_SHARD_ID needs a shard id")?;
            Ok(Some(ShardFilter::After(shard_id.to_owned())))
        }
        Some(other) => Err(format!("this test server does not know the shard filter {other}")),
    }
}

async fn filtered(filter: Option<ShardFilter>, answer: Response) -> Response {
    let Some(filter) = filter else { return answer };
    changed(answer, |listed| {
        let Some(shards) = listed["Shards"].as_array_mut() else { return };
        shards.retain(|shard| match &filter {
            ShardFilter::AtLatest => shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null(),
            ShardFilter::AtTrimHorizon => shard["ParentShardId"].is_null(),
            ShardFilter::After(shard_id) => {
                shard["ShardId"].as_str().is_some_and(|id| id > shard_id.as_str())
            }
        });
    })
    .await
}

/// An answer of `GetRecords`, with the children of the shard if it is the last one of the shard.
async fn with_children(store: &Store, requested: &Value, answer: Response) -> Response {
    let children = async {
        let (_, stream, shard, _) = decode_shard_iterator(requested["ShardIterator"].as_str()?).ok()?;
        let stream = store.get_stream(&stream).await.ok()?;
        let children = stream.shards.iter().filter_map(|child| {
            let parents = [&child.parent_shard_id, &child.adjacent_parent_shard_id];
            let parents: Vec<&String> = parents.into_iter().flatten().collect();
            if !parents.contains(&&shard) {
                return None;
            }
            let (id, range) = (&child.shard_id, &child.hash_key_range);
            Some(json!({"ShardId": id, "ParentShards": parents, "HashKeyRange": range}))
        });
        Some(Value::Array(children.collect()))
    };
    let Some(children) = children.await else { return answer };
    changed(answer, |got| {
        if got["NextShardIterator"].is_null() {
            got["ChildShards"] = children;
        }
    })
    .await
}

async fn changed(answer: Response, change: impl FnOnce(&mut Value)) -> Response {
    let (mut parts, body) = answer.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER_BYTES).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let body = match serde_json::from_slice(&body) {
        Ok(mut value) => {
            change(&mut value);
            value.to_string().into_bytes()
        }
        Err(_) => changed_cbor(&body, change).unwrap_or_else(|| body.to_vec()),
    };
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(parts, Body::from(body))
}

/// Adds entries to a CBOR answer. `None` when it is no map. Existing entries stay as they are, since not every CBOR value
/// exists in JSON.
fn changed_cbor(body: &[u8], change: impl FnOnce(&mut Value)) -> Option<Vec<u8>> {
    let mut answer: Vec<(CborValue, CborValue)> =
        ciborium::from_reader::<CborValue, _>(body).ok()?.into_map().ok()?;
    let keys = answer.iter().filter_map(|(key, value)| Some((key.as_text()?, value)));
    let known: serde_json::Map<String, Value> =
        keys.map(|(key, value)| (key.to_owned(), Value::Bool(!value.is_null()))).collect();
    let mut value = Value::Object(
        known
            .iter()
            .filter(|(_, is_set)| **is_set == Value::Bool(true))
            .map(|(key, is_set)| (key.clone(), is_set.clone()))
            .collect(),
    );
    change(&mut value);
    for (key, value) in value.as_object()? {
        if !known.contains_key(key) {
            answer.push((CborValue::Text(key.clone()), CborValue::serialized(value).ok()?));
        }
    }
    let mut bytes = Vec::new();
    ciborium::into_writer(&CborValue::Map(answer), &mut bytes).ok()?;
    Some(bytes)
}

fn refusal(why: &str) -> Response {
    let body = json!({"__type": "InvalidArgumentException", "message": why}).to_string();
    (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_becomes_a_name_unless_there_is_an_iterator() {
        let requested = rewritten(br#"{"StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/words"}"#);
        assert_eq!(requested, Some(json!({"StreamName": "words"})));
        let requested = rewritten(br#"{"StreamARN": "arn:x/words", "ShardIterator": "i", "Limit": 10}"#);
        assert_eq!(requested, Some(json!({"ShardIterator": "i", "Limit": 10})));
        assert_eq!(rewritten(b"no object"), None);
    }

    #[test]
    fn last_answer_in_cbor_gets_children() {
        let add = |value: &mut Value| {
            if value["NextShardIterator"].is_null() {
                value["ChildShards"] = json!([{"ShardId": "c"}]);
            }
        };
        let encoded = |value: &Value| {
            let mut bytes = Vec::new();
            ciborium::into_writer(value, &mut bytes).unwrap();
            bytes
        };
        let last = changed_cbor(&encoded(&json!({"Records": [], "NextShardIterator": null})), add).unwrap();
        let read: Value = ciborium::from_reader(&*last).unwrap();
        assert_eq!(read["ChildShards"][0]["ShardId"], "c");
        let other = changed_cbor(&encoded(&json!({"NextShardIterator": "i"})), add).unwrap();
        assert_eq!(ciborium::from_reader::<Value, _>(&*other).unwrap(), json!({"NextShardIterator": "i"}));
        assert_eq!(changed_cbor(b"no map", add), None);
    }

    #[test]
    fn an_unknown_filter_is_refused() {
        let filter = |text: &str| shard_filter(&json!({"ShardFilter": {"Type": text}}));
        assert_eq!(filter("AT_LATEST"), Ok(Some(ShardFilter::AtLatest)));
        assert_eq!(filter("AT_TRIM_HORIZON"), Ok(Some(ShardFilter::AtTrimHorizon)));
        assert!(filter("AFTER_SHARD_ID").is_err());
        assert!(filter("AT_TIMESTAMP").is_err());
        assert_eq!(shard_filter(&json!({"StreamName": "words"})), Ok(None));
    }
}
