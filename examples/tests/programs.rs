//! The examples that end by themselves do, and find what they say they show.

#![allow(clippy::unwrap_used)] // a test may

use std::process::Command;

/// Runs a program to its end; what it printed.
#[track_caller]
fn run(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_example_of_dead_letters_accepts_and_rejects_every_order_once() {
    assert!(run(env!("CARGO_BIN_EXE_dead_letters")).contains("90 orders"));
}

#[test]
fn the_example_of_concurrency_keeps_each_account_in_order() {
    assert!(run(env!("CARGO_BIN_EXE_concurrency_per_key")).contains(" 0 out of order"));
}

#[test]
fn the_example_of_united_receivers_delivers_every_record() {
    assert!(
        run(env!("CARGO_BIN_EXE_united_receivers")).contains("1000 records from 4 shards by 4 receivers")
    );
}
