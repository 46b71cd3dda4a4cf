//! Real faults over real sockets: builds the programs and runs the test `wire_soak`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::process::Outcome;
use crate::testing;

/// How long there are faults in the short form, in seconds. The recovery, the end and the verdict take about fifteen more.
const SHORT_SECONDS: u64 = 35;

/// The seed of the short form, so that every landing has the same faults.
const SHORT_SEED: u64 = 20;

/// The short form: faults of every kind in about a minute.
pub(crate) fn run_short() -> Outcome {
    test(SHORT_SECONDS, SHORT_SEED)
}

/// Faults for this many minutes from a seed; without one, from a fresh seed that is printed.
pub(crate) fn run(minutes: u64, seed: Option<u64>) -> Outcome {
    let seed = seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}: `cargo xtask soak --minutes {minutes} --seed {seed}` repeats it");
    test(minutes.max(1) * 60, seed)
}

fn test(seconds: u64, seed: u64) -> Outcome {
    testing::build_with_aws()?;
    println!("running the soak: {seconds} s of faults, then the verdict ...");
    testing::with_aws("wire_soak -- --nocapture wire_soak")
        .env("SOAK_SECONDS", seconds.to_string())
        .env("SOAK_SEED", seed.to_string())
        .run()
}

/// The present time as a seed. All other seeds are arguments.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
