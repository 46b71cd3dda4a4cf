//! Everything that must be green before a change lands.

use std::time::Instant;

use crate::process::{Outcome, cargo};
use crate::{bench, demo, deny, features, fuzz, interop, sim, soak, tidy, wire};

type Step = (&'static str, fn() -> Outcome);

/// The steps, the quick ones first. A failure ends the run.
const STEPS: [Step; 16] = [
    ("format", || cargo("fmt --all -- --check").run()),
    ("tidy", tidy::check),
    ("features", features::check),
    ("test", || {
        // The very command that the README gives.
        cargo("xtask test").run()
    }),
    ("clippy", || cargo("clippy --workspace --all-targets --all-features -- --deny warnings").run()),
    ("clippy without features", || cargo("clippy --all-targets -- --deny warnings").run()),
    ("docs", || cargo("doc --workspace --all-features --no-deps").env("RUSTDOCFLAGS", "-D warnings").run()),
    ("test all features", || {
        // These have steps of their own, which install what they need.
        let test = cargo("test --workspace --all-features -- --skip wire_fleet --skip wire_lease_store");
        test.args(["--skip", "interop_kcl", "--skip", "wire_soak", "--skip", "wire_fan_out"]).run()?;
        println!(
            "LEFT OUT: fan-out against a local server, because subscriptions and writes can lock that server up for good; \
             `cargo test -p end-to-end-tests --all-features --test wire_fan_out` runs it"
        );
        Ok(())
    }),
    ("simulation", || {
        sim(&["--seeds", "500"].map(str::to_owned))?;
        // The range is printed, so that a failure can be repeated.
        sim(&["--seeds", "100", "--fresh"].map(str::to_owned))
    }),
    ("fuzz", || fuzz::run(fuzz::Form::WithoutAws, 5, None)),
    ("deny", deny::check),
    ("wire", wire),
    ("soak", soak::run_short),
    ("interop", interop::run_short_where_possible),
    ("bench", || bench::run(bench::Form::Short, &[])),
    ("demo", || demo(&["--plain".to_owned()])),
];

/// Runs all steps and prints what each took.
// Time is shown to people here and decides nothing.
#[allow(clippy::disallowed_methods)]
pub(crate) fn run() -> Outcome {
    let mut times = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name} ===");
        let started_at = Instant::now();
        step()?;
        times.push((name, started_at.elapsed()));
    }
    println!("\n=== all green ===");
    for (name, time) in times {
        println!("{:>6.1} s  {name}", time.as_secs_f64());
    }
    Ok(())
}
