//! The assumptions about the real services, checked against an account.

use crate::process::{self, Outcome, command};
use crate::testing;

/// Builds the program and runs it with these arguments. The crates of AWS are in that program, so this one stays quick to build.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    testing::build_programs(&["aws_check"])?;
    command(&process::built("aws_check")).args(arguments).run()
}
