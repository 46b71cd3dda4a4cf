//! The JSON form of DynamoDB items, which keeps the seeds readable: `{"leaseCounter": {"N": "7"}}`.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64_simd::STANDARD;
use serde_json::Value;

/// Parses an item; `None` when the input is not an item.
pub(super) fn item(input: &[u8]) -> Option<HashMap<String, AttributeValue>> {
    attributes(&serde_json::from_slice(input).ok()?)
}

fn attributes(value: &Value) -> Option<HashMap<String, AttributeValue>> {
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), attribute(value)?))).collect()
}

/// Parses a value: an object whose only member is named after the type.
fn attribute(value: &Value) -> Option<AttributeValue> {
    let (kind, value) = value.as_object().filter(|value| value.len() == 1)?.iter().next()?;
    Some(match kind.as_str() {
        "S" => AttributeValue::S(text(value)?),
        "N" => AttributeValue::N(text(value)?),
        "B" => AttributeValue::B(bytes(value)?),
        "BOOL" => AttributeValue::Bool(value.as_bool()?),
        "NULL" => AttributeValue::Null(value.as_bool()?),
        "L" => AttributeValue::L(each(value, attribute)?),
        "M" => AttributeValue::M(attributes(value)?),
        "SS" => AttributeValue::Ss(each(value, text)?),
        "NS" => AttributeValue::Ns(each(value, text)?),
        "BS" => AttributeValue::Bs(each(value, bytes)?),
        _ => return None,
    })
}

fn each<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn bytes(value: &Value) -> Option<Blob> {
    STANDARD.decode_to_vec(value.as_str()?).ok().map(Blob::new)
}
