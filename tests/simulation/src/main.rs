//! Runs simulations by seed: `cargo xtask sim`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::page::page;
use simulation::plan::Plan;
use simulation::run::{Outcome, run};
use simulation::scenario::Scenario;
use simulation::shrink::shrink;
use simulation::timeline::timeline;

/// Simulates fleets: the real crates, faults from a seed, promises checked all along.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim")]
struct Arguments {
    /// How many seeds, each with every scenario in turn.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Take the first seed from outside, and print it.
    #[arg(long)]
    fresh: bool,
    /// Only this scenario, with every seed.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// Only this seed; without a scenario, the one that a run over many seeds gives it.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole trace of the seed.
    #[arg(long)]
    trace: bool,
    /// Print what the crates log, too, on the standard error output.
    #[arg(long)]
    log: bool,
    /// Go on after a failing seed, without shrinking, and count.
    #[arg(long)]
    keep_going: bool,
    /// Where the page of a failing run goes.
    #[arg(long, default_value = "target/simulation-pages")]
    pages: PathBuf,
}

/// The scenario of a seed in a run over all of them.
fn scenario_of(seed: u64) -> Scenario {
    let scenarios: Vec<Scenario> = Scenario::available().collect();
    scenarios[usize::try_from(seed % scenarios.len() as u64).unwrap_or(0)]
}

/// The one place where a seed comes from outside: the time, which is printed with the range.
#[allow(clippy::disallowed_methods)]
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs() * 1000
}

/// How long this thread has computed, where the system says so, and else how long it has been running.
fn computed(started_at: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| started_at.elapsed(), Duration::from_nanos)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.log {
        let format = tracing_subscriber::fmt().with_env_filter("debug").with_writer(std::io::stderr);
        format.without_time().with_ansi(false).init();
    }
    if let Some(seed) = arguments.seed {
        return replay(&arguments, seed);
    }
    let from = if arguments.fresh { fresh_seed() } else { arguments.from };
    // For people only.
    #[allow(clippy::disallowed_methods)]
    let started_at = Instant::now();
    let (mut worker_millis, mut failures) = (0, 0u64);
    for seed in from..from + arguments.seeds {
        let scenario = arguments.scenario.unwrap_or_else(|| scenario_of(seed));
        let outcome = run(&Plan::of(scenario, seed));
        worker_millis += outcome.worker_millis;
        if let Some(violation) = &outcome.violation {
            failures += 1;
            println!("seed {seed} of {scenario} fails: {violation}");
            if !arguments.keep_going {
                explain(&arguments, outcome);
                return ExitCode::FAILURE;
            }
        }
    }
    let hours = Duration::from_millis(worker_millis).as_secs_f64() / 3600.0;
    let minutes = computed(started_at).as_secs_f64() / 60.0;
    println!(
        "seeds {from} to {}: {failures} fail; {hours:.0} worker-hours in {minutes:.2} CPU-minutes, {:.0} per minute",
        from + arguments.seeds.saturating_sub(1),
        hours / minutes.max(f64::MIN_POSITIVE)
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(arguments: &Arguments, seed: u64) -> ExitCode {
    let scenario = arguments.scenario.unwrap_or_else(|| scenario_of(seed));
    let outcome = run(&Plan::of(scenario, seed));
    if arguments.trace {
        print!("{}", outcome.trace());
        save(arguments, &outcome);
    } else if outcome.violation.is_some() {
        explain(arguments, outcome);
        return ExitCode::FAILURE;
    } else {
        print!("{}", timeline(&outcome));
        save(arguments, &outcome);
    }
    ExitCode::SUCCESS
}

/// Shrinks a failing run and shows what is left.
fn explain(arguments: &Arguments, outcome: Outcome) {
    let (scenario, seed) = (outcome.plan.scenario, outcome.plan.seed);
    let count = outcome.plan.faults.len();
    let shrunk = shrink(outcome);
    print!("{}", timeline(&shrunk.outcome));
    println!(
        "{} of {count} faults are left after {} runs; replay with: cargo xtask sim --scenario {scenario} --seed {seed} --trace",
        shrunk.outcome.plan.faults.len(),
        shrunk.runs
    );
    save(arguments, &shrunk.outcome);
}

fn save(arguments: &Arguments, outcome: &Outcome) {
    let name = format!("{}-{}.html", outcome.plan.scenario, outcome.plan.seed);
    let path = arguments.pages.join(name);
    let saved = std::fs::create_dir_all(&arguments.pages).and_then(|()| std::fs::write(&path, page(outcome)));
    match saved {
        Ok(()) => eprintln!("the page: {}", path.display()),
        Err(error) => eprintln!("the page could not be written to {}: {error}", path.display()),
    }
}
