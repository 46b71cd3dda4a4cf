//! Simulated fleets from seeds: builds the simulator and runs it.

use crate::process::{Outcome, built_in, cargo, command};

/// The profile that the simulator and the short benchmark share, so that the AWS SDK is built once for both.
pub(crate) const CHECKED_PROFILE: &str = "checked";

/// Builds the programs of the profile `checked`. Both are always built together: alone, each would select other features of the
/// crates that they share, and build these again.
pub(crate) fn build() -> Outcome {
    println!(
        "building the simulator and the benchmark with optimisation and assertions; the first build takes minutes ..."
    );
    let words = format!("build --profile {CHECKED_PROFILE} --package simulation --package benchmark");
    cargo(&words).args(["--features", "simulation/fan-out"]).run()
}

/// Runs the simulator with the arguments.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    build()?;
    command(&built_in(CHECKED_PROFILE, "simulation")).args(arguments).run()
}
