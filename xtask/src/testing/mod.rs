//! Builds the test programs of a selection of packages with one cargo command and runs them side by side.

mod changes;
mod programs;
mod report;
mod runner;

use crate::process::{Outcome, Run, cargo};
use crate::sim;
use programs::TestProgram;

/// The packages that are built. One list for each feature set, so that every task builds the same units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packages {
    /// Everything that needs no crate of AWS, without the models, which have a task of their own.
    WithoutAws,
    /// All others with all features. Their dependencies in the workspace are built too, but not the tests of those.
    WithAws,
    /// These packages with their default features.
    Only(Vec<String>),
}

impl Packages {
    /// The arguments of cargo that select them.
    pub(crate) fn cargo_words(&self) -> String {
        match self {
            Self::WithoutAws => {
                "--workspace --exclude kinesis-asl --exclude kinesis-command --exclude benchmark --exclude models --exclude third-party"
                    .to_owned()
            }
            Self::WithAws => {
                let excluded = ALIKE_WITHOUT_AWS.map(|name| format!(" --exclude {name}")).concat();
                format!("--workspace{excluded} --all-features")
            }
            Self::Only(names) => {
                names.iter().map(|name| format!("--package {name}")).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// Packages whose tests are the same with and without AWS. `cargo xtask test` and the long tests run all of them.
const ALIKE_WITHOUT_AWS: [&str; 10] = [
    "kinesis-checkpointer",
    "kinesis-fleet-view",
    "kinesis-multilang",
    "kinesis-processor-state",
    "kinesis-receiver",
    "kinesis-shard-worker",
    "kinesis-storage-buffer",
    // Its tests over the crates of AWS are among the long ones.
    "simulation",
    "test-support",
    "xtask",
];

/// Test programs of other packages for which the same holds.
const PROGRAMS_ALIKE_WITHOUT_AWS: [&str; 3] = ["embedded", "embedded_heap", "embedded_log"];

/// Tests with their own steps in `cargo xtask ci`, which install and start the servers that they need.
const OWN_STEPS: [&str; 10] = [
    "daemon_clients",
    "wire_daemon",
    "wire_fan_out",
    "wire_fleet",
    "wire_goaway",
    "wire_lease_store",
    "interop_aggregates",
    "interop_kcl",
    "interop_operations",
    "wire_soak",
];

/// Tests that take many seconds of computation. `cargo xtask test` leaves them out, `cargo xtask ci` runs them. For most of them a
/// test beside it makes the same assertions with fewer shards, workers or seeds, and is always run.
pub(crate) const LONG_TESTS: [&str; 23] = [
    "a_fleet_starts_within_a_minute_after_an_outage",
    "a_seed_gives_the_same_trace_over_the_sdk",
    "a_thousand_workers_start_within_a_minute",
    "cost_table_in_the_docs_matches_a_fleet",
    "five_thousand_shards_in_a_process_within_the_budget",
    "hundred_thousand_generations_are_planned",
    "large_scenarios_find_their_defects",
    "list_changes_of_more_seeds_skip_no_record",
    "odd_answers_of_the_stream_are_not_believed",
    "planned_moves_of_more_seeds_repeat_nothing",
    "promises_hold_for_another_seed_of_every_scenario",
    "promises_hold_over_fan_out_and_all_its_faults_happen",
    "quiet_shard_is_not_reported_as_stuck_within_a_day",
    "requesters_that_stop_at_more_times_leave_no_shard_unread",
    "seeds_that_failed_once_hold",
    "state_and_positions_agree_after_kills_at_more_moments",
    "state_and_positions_agree_after_kills_at_more_requests",
    "stops_of_more_seeds_leave_no_gap",
    "storms_of_more_seeds_skip_and_repeat_nothing",
    "subscription_checks_can_fail",
    "targets_withstand_a_full_run_of_mutations",
    "the_tables_in_the_documentation_match_the_planner",
    "thousand_shards_on_twenty_workers_balance_and_stop_moving",
];

/// The test programs that have most of them.
const LONG_PROGRAMS: [&str; 5] = ["bounded", "embedded", "fan_out", "it", "promises"];

/// Runs the tests of the packages, with the documentation's examples, but without the long ones. The filters go to each test program,
/// and can name a long test.
pub(crate) fn run(packages: &Packages, filters: &[String]) -> Outcome {
    let programs = programs::build(&packages.cargo_words())?;
    let mut arguments = filters.to_vec();
    if *packages == Packages::WithoutAws && filters.is_empty() {
        arguments.extend(skip(&LONG_TESTS));
    }
    let doc_tests = filters.is_empty().then(|| packages.cargo_words());
    runner::run(programs, &arguments, doc_tests.as_deref())
}

/// Runs the tests that `cargo xtask test` leaves out because they take long: most of them in an optimised build with assertions.
pub(crate) fn run_long() -> Outcome {
    println!("building the long tests with optimisation and assertions ...");
    let targets = LONG_PROGRAMS.map(|name| format!(" --test {name}")).concat();
    let mut programs = programs::build(&format!("{}{targets}", sim::selection()))?;
    let not_optimised = programs::build(&Packages::WithoutAws.cargo_words())?;
    programs.extend(not_optimised.into_iter().filter(|program| program.is_library_of("kinesis-receiver")));
    runner::run(programs, &LONG_TESTS.map(str::to_owned), None)
}

/// Runs the tests that need crates of AWS, without those that have steps of their own.
pub(crate) fn run_with_aws() -> Outcome {
    let words = Packages::WithAws.cargo_words();
    let mut programs = programs::build(&words)?;
    let is_elsewhere =
        |target: &str| OWN_STEPS.contains(&target) || PROGRAMS_ALIKE_WITHOUT_AWS.contains(&target);
    programs.retain(|program| !is_elsewhere(&program.target));
    runner::run(programs, &skip(&LONG_TESTS).collect::<Vec<_>>(), Some(&words))
}

/// Runs one test program that needs crates of AWS; `-- --nocapture` may follow its name.
pub(crate) fn with_aws(test: &str) -> Run {
    cargo(&format!("test {} --test {test}", Packages::WithAws.cargo_words()))
}

/// Runs the tests of the packages that differ from the main branch, and of all packages that depend on them.
pub(crate) fn run_changed() -> Outcome {
    let affected = changes::affected_packages()?;
    for package in affected.iter().filter(|package| {
        ["kinesis-asl", "kinesis-command", "benchmark", "models"].contains(&package.as_str())
    }) {
        println!(
            "LEFT OUT: {package}, which takes minutes to build or run: `cargo test -p {package} --all-features`"
        );
    }
    let is_affected = |program: &TestProgram| affected.contains(&program.package);
    // All packages are built, so that cargo selects the same features as in `cargo xtask test` and rebuilds only what changed.
    let mut programs = programs::build(&Packages::WithoutAws.cargo_words())?;
    programs.retain(is_affected);
    if programs.is_empty() {
        println!("no test program is affected by the changes");
        return Ok(());
    }
    runner::run(programs, &skip(&LONG_TESTS).collect::<Vec<_>>(), None)
}

/// The arguments of a test program that leave tests out.
fn skip(names: &[&str]) -> impl Iterator<Item = String> {
    names.iter().flat_map(|name| ["--skip".to_owned(), (*name).to_owned()])
}

/// Visits every state of the models.
pub(crate) fn run_models() -> Outcome {
    cargo("test --package models").run()
}

/// Builds these programs, some of which need crates of AWS, and no test.
pub(crate) fn build_programs(names: &[&str]) -> Outcome {
    println!("building {}; the first build takes minutes ...", names.join(", "));
    let build = cargo(&format!("build --quiet {}", Packages::WithAws.cargo_words()));
    build.args(names.iter().flat_map(|name| ["--bin", name])).run()
}

/// Builds all programs and test programs that need crates of AWS.
pub(crate) fn build_with_aws() -> Outcome {
    println!("building what needs crates of AWS; the first build takes minutes ...");
    programs::build(&Packages::WithAws.cargo_words()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::command;

    /// A package that needs AWS switches features on for every other package of the selection.
    #[test]
    fn tests_without_aws_build_no_crate_of_aws() {
        let words = Packages::WithoutAws.cargo_words();
        let listed = command("cargo")
            .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,build,dev"])
            .args(words.split(' '))
            .output()
            .expect("cargo runs");
        assert!(listed.contains("kinesis-receiver"), "the selection {words} lists {listed}");
        let of_aws: Vec<&str> = listed.lines().filter(|line| line.starts_with("aws-")).collect();
        assert!(of_aws.is_empty(), "the selection {words} builds {of_aws:?}");
    }
}
