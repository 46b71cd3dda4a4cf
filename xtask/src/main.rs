//! The tasks of this repository: `cargo xtask <task>`.

mod bench;
mod ci;
mod deny;
mod emulators;
mod features;
mod fuzz;
mod interop;
mod mutate;
mod process;
mod soak;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::{Outcome, cargo, command};

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the main job on the embedded stream: a fleet counts words through a reshard and a crash.
    Demo {
        /// Passed on to the example; `-- --help` lists what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests that need nothing but Rust.
    Test,
    /// Run the main job over the wire: three receiver processes against each pair of local servers.
    Wire,
    /// Run the real Java KCL and our receiver on one lease table: they share, inherit from and replace each other.
    Interop {
        /// Less of it, in about a minute: what `ci` runs.
        #[arg(long)]
        short: bool,
    },
    /// Run a fleet of processes while proxies break its connections to the servers, and processes are killed, paused,
    /// stopped and replaced; at the end nothing may be missing.
    Soak {
        /// How long there are faults, in minutes.
        #[arg(long, default_value_t = 10, conflicts_with = "short")]
        minutes: u64,
        /// Which faults; a fresh seed is drawn and printed unless one is given.
        #[arg(long, conflicts_with = "short")]
        seed: Option<u64>,
        /// About a minute of it, always the same: what `ci` runs.
        #[arg(long)]
        short: bool,
    },
    /// Start local Kinesis and DynamoDB endpoints and print how to use them; Ctrl-C ends them.
    Local {
        /// Passed on to the servers; `-- --help` lists what they take.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Simulate fleets with faults from seeds, in release with debug assertions; a failing seed is shrunk and shown.
    Sim {
        /// Passed on to the simulator: `--seeds 1000`, `--from S`, `--scenario NAME`, `--seed S --trace`; `-- --help` lists
        /// what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break the code on purpose, one change of `tests/mutations` at a time, and show which test notices.
    Mutate {
        /// Only the changes of this list (a file in `tests/mutations`), or whose name contains this.
        only: Option<String>,
    },
    /// Feed all that reads bytes from outside with inputs made by coverage (libFuzzer); what breaks a property is kept.
    Fuzz {
        /// Only the targets whose name contains this.
        target: Option<String>,
        /// How long for each target.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Without the targets that need crates of AWS, which take minutes to build: what `ci` runs.
        #[arg(long)]
        without_aws: bool,
    },
    /// Measure what consuming costs, against the AWS SDK alone, a client made by hand, `kcl-rs` and `boto3`, in one run.
    Bench {
        /// Less of it, in about a minute, and only counted figures decide: what `ci` runs.
        #[arg(long)]
        short: bool,
        /// Passed on to the benchmark: `--json FILE`, `--shapes a,b,c,d,e,paced`, `--parts time,count,latency,python,instructions`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run everything that must be green: format, lints, docs, tests, features, licences, tidy, wire, soak, interop, demo.
    Ci,
    /// Check what ordinary tools do not: module docs, README claims, work markers, file sizes.
    Tidy,
    /// Check what each feature brings into the dependency tree.
    Features,
    /// Check licences, advisories, sources and duplicate versions of the dependencies.
    Deny,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo { arguments } => demo(&arguments),
        Task::Test => test(),
        Task::Wire => wire(),
        Task::Interop { short: true } => interop::run(interop::Form::Short),
        Task::Interop { short: false } => interop::run(interop::Form::Full),
        Task::Soak { short: true, .. } => soak::run_short(),
        Task::Soak { minutes, seed, short: false } => soak::run(minutes, seed),
        Task::Local { arguments } => local(&arguments),
        Task::Sim { arguments } => sim(&arguments),
        Task::Mutate { only } => mutate::run(only.as_deref()),
        Task::Fuzz { target, seconds, without_aws: true } => {
            fuzz::run(fuzz::Form::WithoutAws, seconds, target.as_deref())
        }
        Task::Fuzz { target, seconds, without_aws: false } => {
            fuzz::run(fuzz::Form::All, seconds, target.as_deref())
        }
        Task::Bench { short: true, arguments } => bench::run(bench::Form::Short, &arguments),
        Task::Bench { short: false, arguments } => bench::run(bench::Form::Full, &arguments),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::check(),
        Task::Features => features::check(),
        Task::Deny => deny::check(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &[String]) -> Outcome {
    cargo("run --quiet --package examples --bin word_count --").args(arguments).run()
}

fn sim(arguments: &[String]) -> Outcome {
    cargo("run --quiet --profile simulation --package simulation --features fan-out --").args(arguments).run()
}

fn test() -> Outcome {
    cargo("test").run()
}

fn wire() -> Outcome {
    let emulators = emulators::install()?;
    // One feature set for the programs and the tests, the one that `ci` tests with: nothing is built twice.
    cargo("test --workspace --all-features --no-run").run()?;
    let mut test = cargo("test --workspace --all-features --test wire_fleet --test wire_lease_store");
    test = test.args(["--", "--nocapture", "--test-threads", "1"]);
    match emulators {
        emulators::Installed::In(directory) => test = test.env("EMULATORS_DIR", directory),
        emulators::Installed::LeftOut(why) => {
            println!("LEFT OUT: the servers from npm (kinesis-local, dynalite): {why}");
        }
    }
    test.run()
}

fn local(arguments: &[String]) -> Outcome {
    // The same feature set as everywhere, and the programs that the printed lines call.
    cargo("build --workspace --all-features --bins").run()?;
    command(&process::built("local_endpoints")).args(arguments).run()
}
