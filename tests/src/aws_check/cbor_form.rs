//! The form of a CBOR answer of `GetRecords`: pure.

use ciborium::Value;

/// The first byte of a map of indefinite length, and the byte that ends it.
const INDEFINITE_MAP: u8 = 0xbf;
const BREAK: u8 = 0xff;

/// The least time that is a number of milliseconds: it is in 1973, and as seconds in the year 5138.
const LEAST_MILLIS: i128 = 100_000_000_000;

/// How a map is written. `None`: the body is not a map in CBOR.
pub(super) fn has_indefinite_map(body: &[u8]) -> Option<bool> {
    match (body.first()?, body.last()?) {
        (&INDEFINITE_MAP, &BREAK) => Some(true),
        (0xa0..=0xbb, _) => Some(false),
        _ => None,
    }
}

/// The form of a value, without the value.
pub(super) fn form(value: &Value) -> &'static str {
    match value {
        Value::Bytes(_) => "a byte string",
        Value::Text(_) => "a text string",
        Value::Integer(number) if i128::from(*number) >= LEAST_MILLIS => "a whole number of milliseconds",
        Value::Integer(_) => "a whole number of seconds",
        Value::Float(_) => "a floating-point number",
        Value::Tag(_, inner) => form(inner),
        Value::Null => "null",
        _ => "another type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_told_apart_by_their_ends() {
        assert_eq!(has_indefinite_map(&[0xbf, 0xff]), Some(true));
        assert_eq!(has_indefinite_map(&[0xa0]), Some(false));
        assert_eq!(has_indefinite_map(b"{}"), None);
        assert_eq!(has_indefinite_map(&[]), None);
    }

    #[test]
    fn times_are_told_apart_by_type_and_size() {
        let millis = Value::Integer(1_767_225_600_000_u64.into());
        assert_eq!(form(&Value::Tag(1, Box::new(millis))), "a whole number of milliseconds");
        assert_eq!(form(&Value::Integer(1_767_225_600.into())), "a whole number of seconds");
        assert_eq!(form(&Value::Float(1_767_225_600.5)), "a floating-point number");
        assert_eq!(form(&Value::Bytes(Vec::new())), "a byte string");
    }
}
