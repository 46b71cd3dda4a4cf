//! A child of `kinesis-streaming daemon` in its tests.
//!
//! ```text
//! daemon_child JOURNAL [WORD...]
//! ```
//!
//! The words are those of `Script`.

use std::io::{stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use end_to_end_tests::daemon::scripted_child::{Script, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((journal, words)) = arguments.split_first() else {
        eprintln!("usage: daemon_child JOURNAL [WORD...]");
        return ExitCode::FAILURE;
    };
    let done = Script::parse(words).and_then(|script| {
        run(stdin().lock(), stdout().lock(), Path::new(journal), &script).map_err(|error| error.to_string())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("daemon_child: {error}");
            ExitCode::FAILURE
        }
    }
}
