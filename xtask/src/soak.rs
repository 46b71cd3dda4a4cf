//! Real faults over real sockets: builds the programs and runs `wire_soak`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::process::{Outcome, cargo};

/// How long there are faults in the short form, in seconds; the end and the verdict take about ten more.
const SHORT_SECONDS: u64 = 50;

/// The seed of the short form: the same faults at every landing.
const SHORT_SEED: u64 = 20;

/// The short form: faults of every kind in about a minute.
pub(crate) fn run_short() -> Outcome {
    test(SHORT_SECONDS, SHORT_SEED)
}

/// Faults for so many minutes, drawn from the seed, or from one that is printed.
pub(crate) fn run(minutes: u64, seed: Option<u64>) -> Outcome {
    let seed = seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}: `cargo xtask soak --minutes {minutes} --seed {seed}` repeats it");
    println!(
        "LEFT OUT: the servers from npm, which end themselves when a request is cut (dynalite) or after a while of it \
         (kinesis-local); and fan-out, which can lock the local server up"
    );
    test(minutes.max(1) * 60, seed)
}

fn test(seconds: u64, seed: u64) -> Outcome {
    // The feature set of `wire` and `ci`, so that nothing is built twice. The processes are programs of the test's package, which
    // cargo builds with it.
    cargo("test --workspace --all-features --test wire_soak -- --nocapture wire_soak")
        .env("SOAK_SECONDS", seconds.to_string())
        .env("SOAK_SEED", seed.to_string())
        .run()
}

/// The one place where a seed comes from outside: the time, which is printed.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
