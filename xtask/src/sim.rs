//! Simulated fleets from seeds: builds the simulator and runs it.

use crate::process::{Outcome, built_in, cargo, command};

/// The profile that the simulator and the short benchmark share, so that the AWS SDK is built once for both.
pub(crate) const CHECKED_PROFILE: &str = "checked";

/// The packages of the profile `checked`: the simulator, the benchmark, and those with long tests. They are always selected together:
/// alone, each would select other features of the crates that they share, and build these again.
const PACKAGES: [&str; 5] = ["benchmark", "end-to-end-tests", "fuzzing", "kinesis-receiver", "simulation"];

/// The arguments of cargo that select the profile `checked` and its packages.
pub(crate) fn selection() -> String {
    let packages = PACKAGES.map(|name| format!(" --package {name}")).concat();
    format!("--profile {CHECKED_PROFILE}{packages} --features simulation/fan-out")
}

/// Builds the programs of the profile `checked`.
pub(crate) fn build() -> Outcome {
    println!(
        "building the simulator and the benchmark with optimisation and assertions; the first build takes minutes ..."
    );
    cargo(&format!("build {} --bin simulation --bin benchmark", selection())).run()
}

/// Runs the simulator with the arguments.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    build()?;
    command(&built_in(CHECKED_PROFILE, "simulation")).args(arguments).run()
}
