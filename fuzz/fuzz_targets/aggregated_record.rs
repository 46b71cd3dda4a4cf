//! No payload makes de-aggregation panic, copy, allocate beyond its bound, or lose a record uncounted.

#![no_main]

#[path = "../../crates/shard-worker/tests/support/aggregate_checks.rs"]
mod aggregate_checks;

use aggregate_checks::{check_payload, sealed};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check_payload(&Bytes::copy_from_slice(input));
    // With a right digest, so that the parser sees the input.
    check_payload(&sealed(input));
});
