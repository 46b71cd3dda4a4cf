//! Everything that must be green before a change lands.

use std::time::Instant;

use crate::process::{Outcome, cargo};
use crate::testing;
use crate::{
    aggregates, api, bench, daemon_tests, demo, deny, features, fuzz, interop, package_check, sim, soak,
    tidy, wire,
};

type Step = (&'static str, fn() -> Outcome);

/// The steps, the quick ones first. A failure ends the run.
///
/// Steps that build the same packages use the same features, so that each unit is built once for each profile: `dev` without
/// crates of AWS (the README's command), `dev` with all features for what needs them, and `checked`.
const STEPS: [Step; 21] = [
    ("format", || cargo("fmt --all -- --check").run()),
    ("tidy", tidy::check),
    ("api", api::check),
    ("test", || {
        // The very command that the README gives.
        cargo("xtask test").run()
    }),
    ("demo", || demo::run(&["--plain".to_owned()])),
    ("features", features::check),
    ("clippy", || cargo("clippy --workspace --all-targets --all-features -- --deny warnings").run()),
    ("clippy without features", || cargo("clippy --all-targets -- --deny warnings").run()),
    ("docs", || cargo("doc --workspace --all-features --no-deps").env("RUSTDOCFLAGS", "-D warnings").run()),
    ("packages", || package_check::run(package_check::Form::WorkingTree)),
    ("tests with AWS", testing::run_with_aws),
    ("wire", wire::run),
    ("soak", soak::run_short),
    ("interop", interop::run_short_where_possible),
    ("aggregates", aggregates::run_where_possible),
    ("daemon", daemon_tests::run_short_where_possible),
    ("long tests", testing::run_long),
    ("simulation", || {
        sim::run(&["--seeds", "500"].map(str::to_owned))?;
        // The range is printed, so that a failure can be repeated.
        sim::run(&["--seeds", "100", "--fresh"].map(str::to_owned))
    }),
    ("bench", || bench::run(bench::Form::Short, &[])),
    ("fuzz", || fuzz::run(fuzz::Form::WithoutAws, 5, None)),
    ("deny", deny::check),
];

/// Runs all steps and prints the time of each.
// Times are shown to people; nothing depends on them.
#[allow(clippy::disallowed_methods)]
pub(crate) fn run() -> Outcome {
    let mut times = Vec::new();
    let started_at = Instant::now();
    for (number, (name, step)) in STEPS.into_iter().enumerate() {
        println!("\n=== {name} ({} of {}) ===", number + 1, STEPS.len());
        let step_started_at = Instant::now();
        step()?;
        times.push((name, step_started_at.elapsed()));
    }
    println!("\n=== all green ===");
    for (name, time) in times {
        println!("{:>6.1} s  {name}", time.as_secs_f64());
    }
    println!("{:>6.1} s  in all", started_at.elapsed().as_secs_f64());
    Ok(())
}
