//! The `--help` of each program lists its options.

#![allow(clippy::unwrap_used)] // a test may

use std::process::Command;

fn help(program: &str) -> String {
    let output = Command::new(program).arg("--help").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_names(help: &str, options: &[&str]) {
    for option in options {
        assert!(help.contains(option), "{option} is not in:\n{help}");
    }
}

#[test]
fn word_count_lists_its_options() {
    let help = help(env!("CARGO_BIN_EXE_word_count"));
    assert_names(&help, &["--input", "--receivers", "--shards", "--seconds", "--plain"]);
}

#[test]
fn windowed_word_count_lists_its_options() {
    let help = help(env!("CARGO_BIN_EXE_windowed_word_count"));
    assert_names(&help, &["--input", "--state", "--seconds", "--kills"]);
}

#[test]
fn windowed_word_count_counts_every_word_once() {
    let folder = std::env::temp_dir().join(format!("windowed-word-count-input-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let lines: String = (0..600).map(|line| format!("line {line} has {} words\n", line % 7)).collect();
    std::fs::write(folder.join("text.txt"), lines).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_windowed_word_count"));
    let output =
        program.args(["--seconds", "4", "--kills", "3"]).arg("--input").arg(&folder).output().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("every word is counted exactly once") && text.contains("snapshot .."), "{text}");
}

#[cfg(feature = "kinesis-asl")]
mod with_kinesis_asl {
    //! The programs that need AWS.

    use super::{assert_names, help};

    #[test]
    fn kinesis_word_count_lists_its_options() {
        let help = help(env!("CARGO_BIN_EXE_kinesis_word_count"));
        let options = [
            "--stream",
            "--application",
            "--endpoint-url",
            "--region",
            "--initial-position",
            "--cloudwatch",
            "--retrieval",
            "--consumer-name",
            "--deregister-at-end",
        ];
        assert_names(&help, &options);
    }

    #[test]
    fn list_consumers_lists_its_options() {
        let help = help(env!("CARGO_BIN_EXE_list_consumers"));
        assert_names(&help, &["--stream", "--endpoint-url", "--region"]);
    }

    #[test]
    fn word_producer_lists_its_options() {
        let help = help(env!("CARGO_BIN_EXE_word_producer"));
        let options = [
            "--stream",
            "--endpoint-url",
            "--region",
            "--input",
            "--make-records",
            "--records-per-second",
            "--totals",
        ];
        assert_names(&help, &options);
    }
}
