//! The assumptions about the real services, checked against an account.

use crate::process::{self, Outcome, cargo, command};

/// Builds the program and runs it with these arguments. The crates of AWS are in that program, so this one stays quick to build.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    println!("building the check; the first build takes minutes ...");
    cargo("build --quiet --workspace --all-features --bin aws_check").run()?;
    command(&process::built("aws_check")).args(arguments).run()
}
