//! Runs simulations by seed: `cargo xtask sim`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::page::page;
use simulation::plan::Plan;
use simulation::progress::Progress;
use simulation::run::{Outcome, run};
use simulation::scenario::Scenario;
use simulation::shrink::{MAX_RUNS, shrink};
use simulation::timeline::timeline;
use tracing_subscriber::filter::LevelFilter;

/// Simulate fleets of the real crates with faults drawn from a seed, and check the promises at every event.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Arguments {
    /// Number of seeds; the scenarios take turns, one per seed.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Derive the first seed from the time of day, and print it.
    #[arg(long)]
    fresh: bool,
    /// Run only this scenario, with every seed.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// Run only this seed. Without --scenario, it runs the scenario that a run over many seeds gives it.
    #[arg(long)]
    seed: Option<u64>,
    /// Let the workers read a second, idle stream too, as one consumer of several streams.
    #[arg(long)]
    several_streams: bool,
    /// Print the whole trace of the seed.
    #[arg(long)]
    trace: bool,
    /// Print the log lines of the crates on standard error.
    #[arg(long)]
    log: bool,
    /// Continue after a failing seed without shrinking it, and count the failures.
    #[arg(long)]
    keep_going: bool,
    /// Directory for the HTML page of a failing run.
    #[arg(long, default_value = "target/simulation-pages")]
    pages: PathBuf,
}

/// Returns the scenario of a seed in a run over all scenarios.
fn scenario_of(seed: u64) -> Scenario {
    let scenarios: Vec<Scenario> = Scenario::available().collect();
    scenarios[usize::try_from(seed % scenarios.len() as u64).unwrap_or(0)]
}

/// Returns the plan of a seed.
fn plan_of(arguments: &Arguments, scenario: Scenario, seed: u64) -> Plan {
    Plan { has_second_stream: arguments.several_streams, ..Plan::of(scenario, seed) }
}

/// Derives a seed from the time of day. The seed is printed with the range, so the run can be repeated.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs() * 1000
}

/// Returns the CPU time of this thread, or the elapsed time where the system does not report it.
fn cpu_time(started_at: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| started_at.elapsed(), Duration::from_nanos)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        let format =
            tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_writer(std::io::stderr);
        format.without_time().with_ansi(false).init();
    }
    if let Some(seed) = arguments.seed {
        return replay(&arguments, seed);
    }
    run_range(&arguments)
}

/// Runs all seeds of the range and prints the totals.
fn run_range(arguments: &Arguments) -> ExitCode {
    let from = if arguments.fresh { fresh_seed() } else { arguments.from };
    let last = from + arguments.seeds.saturating_sub(1);
    // The elapsed time is only displayed.
    #[allow(clippy::disallowed_methods)]
    let started_at = Instant::now();
    let scenarios = match arguments.scenario {
        Some(scenario) => format!("scenario {scenario}"),
        None => format!("{} scenarios in turn", Scenario::available().count()),
    };
    let mut progress =
        Progress::start(&format!("simulating {} seeds, {from} to {last}: {scenarios}", arguments.seeds));
    let (mut worker_millis, mut failures) = (0, 0u64);
    let mut failovers = Vec::new();
    for seed in from..from + arguments.seeds {
        let scenario = arguments.scenario.unwrap_or_else(|| scenario_of(seed));
        progress.update(|| {
            let done = seed - from;
            format!("{done} of {} seeds done, {failures} failed; running {scenario} {seed}", arguments.seeds)
        });
        let outcome = run(&plan_of(arguments, scenario, seed));
        worker_millis += outcome.worker_millis;
        failovers.extend_from_slice(&outcome.failovers);
        if let Some(violation) = &outcome.violation {
            failures += 1;
            progress.clear();
            show(format_args!("seed {seed} of {scenario} failed: {violation}\n"));
            if !arguments.keep_going {
                explain(arguments, outcome);
                return ExitCode::FAILURE;
            }
        }
    }
    progress.clear();
    let hours = Duration::from_millis(worker_millis).as_secs_f64() / 3600.0;
    let minutes = cpu_time(started_at).as_secs_f64() / 60.0;
    show(format_args!(
        "seeds {from} to {last}: {failures} failed; {hours:.0} worker-hours in {minutes:.2} CPU-minutes, {:.0} per minute\n",
        hours / minutes.max(f64::MIN_POSITIVE)
    ));
    failovers.sort_unstable();
    if let (Some(median), Some(highest)) = (failovers.get(failovers.len() / 2), failovers.last()) {
        let high = failovers.get(failovers.len() * 99 / 100).unwrap_or(highest);
        show(format_args!(
            "{} leases of crashed processes: new owner after {median} ms, 99th percentile {high} ms, at most {highest} ms\n",
            failovers.len()
        ));
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(arguments: &Arguments, seed: u64) -> ExitCode {
    let scenario = arguments.scenario.unwrap_or_else(|| scenario_of(seed));
    let outcome = run(&plan_of(arguments, scenario, seed));
    if arguments.trace {
        show(format_args!("{}", outcome.trace()));
        save(arguments, &outcome);
    } else if outcome.violation.is_some() {
        explain(arguments, outcome);
        return ExitCode::FAILURE;
    } else {
        show(format_args!("{}", timeline(&outcome)));
        save(arguments, &outcome);
    }
    ExitCode::SUCCESS
}

/// Shrinks a failing run and prints the smallest plan found.
fn explain(arguments: &Arguments, outcome: Outcome) {
    let (scenario, seed) = (outcome.plan.scenario, outcome.plan.seed);
    let count = outcome.plan.faults.len();
    let mut progress =
        Progress::start(&format!("shrinking the plan of {scenario} {seed}, in at most {MAX_RUNS} runs"));
    let shrunk = shrink(outcome, |runs| progress.update(|| format!("{runs} runs done")));
    progress.clear();
    show(format_args!("{}", timeline(&shrunk.outcome)));
    show(format_args!(
        "the smallest plan has {} of {count} faults, found in {} runs; replay with: cargo xtask sim --scenario {scenario} --seed {seed}{} --trace\n",
        shrunk.outcome.plan.faults.len(),
        shrunk.runs,
        if arguments.several_streams { " --several-streams" } else { "" }
    ));
    save(arguments, &shrunk.outcome);
}

fn save(arguments: &Arguments, outcome: &Outcome) {
    let name = format!("{}-{}.html", outcome.plan.scenario, outcome.plan.seed);
    let path = arguments.pages.join(name);
    let saved = std::fs::create_dir_all(&arguments.pages).and_then(|()| std::fs::write(&path, page(outcome)));
    match saved {
        Ok(()) => eprintln!("page written to {}", path.display()),
        Err(error) => eprintln!("cannot write the page to {}: {error}", path.display()),
    }
}

/// Prints to the standard output. A reader that has seen enough, such as `head`, changes no verdict.
fn show(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stdout().write_fmt(text);
}
