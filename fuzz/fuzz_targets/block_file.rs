//! No file makes the reading of a stored block panic, copy, or claim memory that it does not hold.

#![no_main]

#[path = "../../crates/receiver/tests/support/block_checks.rs"]
mod block_checks;

use block_checks::{check_block, content_of, sealed};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = check_block(&Bytes::copy_from_slice(input));
    // With a right checksum, so that the parser sees the input.
    let _ = check_block(&sealed(input));
    let _ = check_block(&sealed(content_of(input)));
});
