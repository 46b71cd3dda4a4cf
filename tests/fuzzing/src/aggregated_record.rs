//! Payloads that may be aggregates of the Kinesis Producer Library. They cause no panic and no copy, claim bounded
//! memory, lose no record without counting it, and are de-aggregated only with a correct digest.

use bytes::Bytes;
use shard_worker::Deaggregated;

use crate::aggregate_checks::{MAGIC, check_payload, sealed};
use crate::target::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "aggregated_record",
    check,
    // Field keys, indexes, and lengths near their limits.
    tokens: &[
        b"\x00", b"\x01", b"\x08", b"\x0a", b"\x10", b"\x12", b"\x1a", b"\x22", b"\x7f", b"\x80", b"\xf3",
        b"\xfe", b"\xff", b"9", &MAGIC,
    ],
};

/// Length of the digest after the message, in bytes.
const DIGEST_BYTES: usize = 16;

/// Returns the bytes at the place of an aggregate's message.
fn message_of(payload: &[u8]) -> &[u8] {
    let end = payload.len().saturating_sub(DIGEST_BYTES);
    payload.get(MAGIC.len()..end).unwrap_or_default()
}

fn check(input: &[u8]) -> Reading {
    let as_it_is = check_payload(&Bytes::copy_from_slice(input));
    if let Deaggregated::Aggregate { .. } = as_it_is {
        assert_eq!(sealed(message_of(input)), input, "a payload with a wrong digest was de-aggregated");
    }
    // The correct digest lets nearly every input reach the parser.
    check_payload(&sealed(input));
    match check_payload(&sealed(message_of(input))) {
        Deaggregated::Aggregate { .. } => Reading::Accepted,
        Deaggregated::Malformed { .. } => Reading::Refused,
        Deaggregated::Plain => Reading::Ignored,
    }
}
