//! The examples that end by themselves succeed and report the expected totals.

#![allow(clippy::unwrap_used)] // a test may

use std::process::Command;

/// Runs a program to its end and returns its standard output.
#[track_caller]
fn run(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn dead_letters_accepts_or_rejects_every_order_once() {
    assert!(run(env!("CARGO_BIN_EXE_dead_letters")).contains("90 orders"));
}

#[test]
fn concurrency_keeps_each_account_in_order() {
    assert!(run(env!("CARGO_BIN_EXE_concurrency_per_key")).contains(" 0 out of order"));
}

#[test]
fn several_streams_share_a_worker() {
    let output = run(env!("CARGO_BIN_EXE_several_streams"));
    for part in
        ["orders shardId-000000000000: order 2", "bills shardId-000000000000: bill 1", "drained: true"]
    {
        assert!(output.contains(part), "{part} is not in {output}");
    }
}

#[test]
fn united_receivers_deliver_every_record() {
    assert!(
        run(env!("CARGO_BIN_EXE_united_receivers")).contains("1000 records from 4 shards by 4 receivers")
    );
}

#[test]
fn word_count_counts_a_folder_and_shows_progress_at_once() {
    let folder = std::env::temp_dir().join(format!("word-count-input-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let lines: String = (0..20_000).map(|line| format!("line {line} has {} words\n", line % 7)).collect();
    std::fs::write(folder.join("text.txt"), lines).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_word_count"));
    program.args(["--plain", "--seconds", "3", "--failover-time-ms", "500", "--input"]).arg(&folder);
    let output = program.output().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("every word was counted") && text.contains("100000"), "{text}");
    assert!(text.contains("ended abruptly") && text.contains("read again after the end"), "{text}");
    assert!(text.contains(" of 20000 records"), "{text}");
}

#[test]
fn word_count_ends_well_without_a_reader() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_word_count"));
    program.args(["--plain", "--seconds", "1", "--input", "Cargo.toml"]);
    let mut child =
        program.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // As `| head -1` does.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
