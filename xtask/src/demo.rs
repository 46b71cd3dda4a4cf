//! The main job on the embedded stream: a fleet counts words through a reshard and a crash.

use crate::process::{Outcome, cargo};

/// Builds the example and runs it with the arguments.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    println!("building the example word_count ...");
    cargo("build --package examples --bin word_count").run()?;
    cargo("run --quiet --package examples --bin word_count --").args(arguments).run()
}
