//! Payloads that may be aggregates of the Kinesis Producer Library: no panic, no copy, memory within a bound, no record lost
//! uncounted, and nothing is taken apart whose digest is another.

use bytes::Bytes;
use shard_worker::Deaggregated;

use crate::aggregate_checks::{MAGIC, check_payload, sealed};
use crate::{Reading, Target};

pub(crate) const TARGET: Target = Target {
    name: "aggregated_record",
    check,
    // Keys of fields, indexes, and lengths near their limits.
    tokens: &[
        b"\x00", b"\x01", b"\x08", b"\x0a", b"\x10", b"\x12", b"\x1a", b"\x22", b"\x7f", b"\x80", b"\xf3",
        b"\xfe", b"\xff", b"9", &MAGIC,
    ],
};

/// The length of the digest behind a message, in bytes.
const DIGEST_BYTES: usize = 16;

/// The message of an aggregate, or what would be it.
fn message_of(payload: &[u8]) -> &[u8] {
    let end = payload.len().saturating_sub(DIGEST_BYTES);
    payload.get(MAGIC.len()..end).unwrap_or_default()
}

fn check(input: &[u8]) -> Reading {
    let as_it_is = check_payload(&Bytes::copy_from_slice(input));
    if let Deaggregated::Aggregate { .. } = as_it_is {
        assert_eq!(sealed(message_of(input)), input, "only what its digest fits is taken apart");
    }
    // With a right digest, without which it would keep nearly everything from the parser.
    check_payload(&sealed(input));
    match check_payload(&sealed(message_of(input))) {
        Deaggregated::Aggregate { .. } => Reading::Accepted,
        Deaggregated::Malformed { .. } => Reading::Refused,
        Deaggregated::Plain => Reading::LeftAlone,
    }
}
