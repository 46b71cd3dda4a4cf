//! Real faults over real sockets: builds the programs, installs the servers and runs `wire_soak`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::emulators;
use crate::process::{Outcome, Run, cargo};

/// How long there are faults in the short form, in seconds; the end and the verdict take about ten more.
const SHORT_SECONDS: u64 = 50;

/// The seed of the short form: the same faults at every landing.
const SHORT_SEED: u64 = 20;

/// Of a long run this part, in percent, is against kinesis-local from npm where that can be had.
const NPM_PERCENT: u64 = 30;

const IN_PROCESS: &str = "wire_soak_on_ferrokinesis_and_dynoxide";
const FROM_NPM: &str = "wire_soak_on_kinesis_local_and_dynoxide";

/// The short form: faults of every kind in about a minute, against the servers that need nothing.
pub(crate) fn run_short() -> Outcome {
    test(IN_PROCESS, SHORT_SECONDS, SHORT_SEED).run()
}

/// Faults for so many minutes, drawn from the seed, or from one that is printed.
pub(crate) fn run(minutes: u64, seed: Option<u64>) -> Outcome {
    let seed = seed.unwrap_or_else(fresh_seed);
    let seconds = minutes.max(1) * 60;
    println!("seed {seed}: `cargo xtask soak --minutes {minutes} --seed {seed}` repeats it");
    match emulators::install()? {
        emulators::Installed::In(directory) => {
            let npm_seconds = seconds * NPM_PERCENT / 100;
            test(IN_PROCESS, seconds - npm_seconds, seed).run()?;
            test(FROM_NPM, npm_seconds, seed).env("EMULATORS_DIR", directory).run()
        }
        emulators::Installed::LeftOut(why) => {
            println!("LEFT OUT: kinesis-local from npm: {why}");
            test(IN_PROCESS, seconds, seed).run()
        }
    }
}

fn test(name: &str, seconds: u64, seed: u64) -> Run {
    // The feature set of `wire` and `ci`, so that nothing is built twice. The processes are programs of the test's package, which
    // cargo builds with it.
    cargo("test --workspace --all-features --test wire_soak --")
        .args(["--nocapture", "--exact", name])
        .env("SOAK_SECONDS", seconds.to_string())
        .env("SOAK_SEED", seed.to_string())
}

/// The one place where a seed comes from outside: the time, which is printed.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
