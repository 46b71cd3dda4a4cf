//! Any bytes, read as a snapshot of the application's state.

#![no_main]

#[path = "../../crates/receiver/tests/support/state_checks.rs"]
mod state_checks;

use libfuzzer_sys::fuzz_target;
use state_checks::{check, sealed};

fuzz_target!(|input: &[u8]| {
    check(input);
    // With the right checksum, without which nearly everything would be kept from the parser.
    check(&sealed(input));
});
