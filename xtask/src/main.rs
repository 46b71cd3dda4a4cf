//! The tasks of this repository: `cargo xtask <task>`.

mod aggregates;
mod api;
mod aws_check;
mod bench;
mod ci;
mod daemon_packages;
mod daemon_tests;
mod demo;
mod demo_page;
mod deny;
mod emulators;
mod features;
mod fuzz;
mod interop;
mod mutate;
mod package_check;
mod packaging;
mod process;
mod sim;
mod soak;
mod source_tree;
mod testing;
mod tidy;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
        /// Over local servers instead, with the page of the fleet in a browser, until Ctrl-C; an address may follow.
        #[arg(long)]
        page: bool,
        /// Passed on to the example; `-- --help` lists its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests that need nothing but Rust, side by side.
    Test {
        /// Only this package, built by itself; can be repeated.
        #[arg(long, short)]
        package: Vec<String>,
        /// Only the tests whose name contains this.
        filters: Vec<String>,
    },
    /// Run the tests of the packages that differ from the main branch, and of all packages that depend on them.
    Check,
    /// Visit every state of the models of the protocols.
    Models,
    /// Run the main job over the wire: three receiver processes against each pair of local servers.
    Wire,
    /// Run the real Java KCL and our receiver on one lease table: they share, inherit from and replace each other.
    Interop {
        /// A short run of about a minute, as in `ci`.
        #[arg(long)]
        short: bool,
    },
    /// Read aggregates of the real libraries of other producers, for Node.js and Python, through splits and merges.
    Aggregates,
    /// Run unmodified clients of the KCL for Python and Node.js on our daemon, also from our packages, and compare its lines with the
    /// real Java daemon's.
    DaemonTests {
        /// Without the Java daemon, as in `ci`.
        #[arg(long, conflicts_with = "figures")]
        short: bool,
        /// Only measure a release build: memory, times to start, and CPU beside the Java daemon's.
        #[arg(long)]
        figures: bool,
    },
    /// Run a fleet of processes while proxies break its connections to the servers, and processes are killed, paused, stopped
    /// and replaced; fails if a record is missing at the end.
    Soak {
        /// How long there are faults, in minutes.
        #[arg(long, default_value_t = 10, conflicts_with = "short")]
        minutes: u64,
        /// The seed of the faults; by default a fresh one, which is printed.
        #[arg(long, conflicts_with = "short")]
        seed: Option<u64>,
        /// A run of about a minute with a fixed seed, as in `ci`.
        #[arg(long)]
        short: bool,
    },
    /// Start local Kinesis and DynamoDB endpoints and print how to use them; Ctrl-C ends them.
    Local {
        /// Passed on to the servers; `-- --help` lists their options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check the assumptions of this library about the real services against an account, and write a report without payloads.
    AwsCheck {
        /// Passed on to the check: `--stream NAME_OR_ARN`, `--region R`, `--profile P`, `--report FILE`; `--help` lists all options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Simulate fleets with faults from seeds, optimised and with assertions; a failing seed is shrunk and shown.
    Sim {
        /// Passed on to the simulator: `--seeds 1000`, `--from S`, `--scenario NAME`, `--seed S --trace`; `-- --help` lists
        /// all options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break the code on purpose, one change of `tests/mutations` at a time, and show which test notices.
    Mutate {
        /// Only the changes of this list (a file in `tests/mutations`), or those whose name contains this.
        only: Option<String>,
    },
    /// Fuzz all code that reads bytes from outside, guided by coverage (libFuzzer); inputs that break a property are kept.
    Fuzz {
        /// Only the targets whose name contains this.
        target: Option<String>,
        /// How long for each target.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Without the targets that need crates of AWS, which take minutes to build, as in `ci`.
        #[arg(long)]
        without_aws: bool,
    },
    /// Measure the cost of consuming, against the AWS SDK alone, a hand-written client, `kcl-rs` and `boto3`, in one run.
    Bench {
        /// A short run of about a minute in which only counted figures decide, as in `ci`.
        #[arg(long)]
        short: bool,
        /// Passed on to the benchmark: `--json FILE`, `--shapes a,b,c,d,e,paced`, `--parts time,tls,fan-out,count,latency,python,instructions`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write the public surface of each library crate to `docs/api`.
    Api {
        /// Write nothing and fail unless the files are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Run everything that must be green: format, lints, docs, tests, features, licences, tidy, wire, soak, interop, aggregates, demo.
    Ci,
    /// Check what ordinary tools do not: module docs, names, phrasings, imports, commit subjects, README claims, file sizes.
    Tidy,
    /// Check which crates each feature brings into the dependency tree.
    Features,
    /// Package every crate that is published, and build each from its package.
    PackageCheck {
        /// For a release: refuse uncommitted changes and placeholders.
        #[arg(long)]
        release: bool,
    },
    /// Build the program as packages of other languages in `target/packages`: a wheel for Python, and packages for npm.
    Package,
    /// Check licences, advisories, sources and duplicate versions of the dependencies.
    Deny,
}

/// The exit code of a program that wrote into a closed pipe, as shells show it: the task has not finished.
const CLOSED_PIPE: i32 = 128 + 13;

/// A reader such as `head` that has seen enough ends a task without a word; `println!` would panic.
fn end_quietly_on_a_closed_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<String>().is_some_and(|message| is_of_a_closed_pipe(message)) {
            std::process::exit(CLOSED_PIPE);
        }
        report(panic);
    }));
}

/// Whether that is the panic of a `println!` into a closed pipe.
fn is_of_a_closed_pipe(message: &str) -> bool {
    message.starts_with("failed printing to stdout") && message.contains("Broken pipe")
}

fn main() -> ExitCode {
    end_quietly_on_a_closed_pipe();
    let outcome = match Arguments::parse().task {
        Task::Demo { page: true, arguments } => demo_page::run(&arguments),
        Task::Demo { page: false, arguments } => demo::run(&arguments),
        Task::Test { package, filters } if package.is_empty() => {
            testing::run(&testing::Packages::WithoutAws, &filters)
        }
        Task::Test { package, filters } => testing::run(&testing::Packages::Only(package), &filters),
        Task::Check => testing::run_changed(),
        Task::Models => testing::run_models(),
        Task::Wire => wire::run(),
        Task::Interop { short: true } => interop::run(interop::Form::Short),
        Task::Interop { short: false } => interop::run(interop::Form::Full),
        Task::Aggregates => aggregates::run(),
        Task::DaemonTests { figures: true, .. } => daemon_tests::figures(),
        Task::DaemonTests { short: true, .. } => daemon_tests::run(daemon_tests::Form::Short),
        Task::DaemonTests { short: false, .. } => daemon_tests::run(daemon_tests::Form::Full),
        Task::Soak { short: true, .. } => soak::run_short(),
        Task::Soak { minutes, seed, short: false } => soak::run(minutes, seed),
        Task::Local { arguments } => wire::local(&arguments),
        Task::AwsCheck { arguments } => aws_check::run(&arguments),
        Task::Sim { arguments } => sim::run(&arguments),
        Task::Mutate { only } => mutate::run(only.as_deref()),
        Task::Fuzz { target, seconds, without_aws: true } => {
            fuzz::run(fuzz::Form::WithoutAws, seconds, target.as_deref())
        }
        Task::Fuzz { target, seconds, without_aws: false } => {
            fuzz::run(fuzz::Form::All, seconds, target.as_deref())
        }
        Task::Bench { short: true, arguments } => bench::run(bench::Form::Short, &arguments),
        Task::Bench { short: false, arguments } => bench::run(bench::Form::Full, &arguments),
        Task::Api { check: true } => api::check(),
        Task::Api { check: false } => api::write(),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::check(),
        Task::Features => features::check(),
        Task::PackageCheck { release: true } => package_check::run(package_check::Form::Release),
        Task::PackageCheck { release: false } => package_check::run(package_check::Form::WorkingTree),
        Task::Package => packaging::run(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_ends_a_task_quietly() {
        let error = std::io::Error::from_raw_os_error(32);
        assert!(is_of_a_closed_pipe(&format!("failed printing to stdout: {error}")));
        assert!(!is_of_a_closed_pipe("failed printing to stdout: No space left on device (os error 28)"));
        assert!(!is_of_a_closed_pipe("the seed failed: Broken pipe"));
    }

    #[test]
    fn demo_passes_on_what_it_does_not_know() {
        let parse = |line: &str| match Arguments::parse_from(line.split(' ')).task {
            Task::Demo { page, arguments } => (page, arguments),
            other => panic!("{other:?}"),
        };
        assert_eq!(parse("xtask demo"), (false, vec![]));
        assert_eq!(parse("xtask demo --page"), (true, vec![]));
        assert_eq!(parse("xtask demo --page 127.0.0.1:0"), (true, vec!["127.0.0.1:0".to_owned()]));
        assert_eq!(parse("xtask demo --seconds 3"), (false, vec!["--seconds".to_owned(), "3".to_owned()]));
    }
}
