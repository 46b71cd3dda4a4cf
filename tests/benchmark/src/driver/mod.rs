//! The driver: runs server and contenders as separate processes, in turn, and compares their figures.

mod comparisons;
mod instructions;
mod processes;
mod progress;
mod python;
mod report;

use std::path::PathBuf;

use kinesis_streaming::prelude::BoxError;
use serde_json::json;

use crate::measure::{load, processor};
use crate::shape::Shape;
use comparisons::Comparison;
use processes::{Server, contend};
use progress::Progress;
use report::Report;

/// The options of a run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Runs fewer comparisons; only counted figures can fail.
    pub(crate) is_short: bool,
    /// Also writes the figures to this file as JSON.
    pub(crate) json: Option<PathBuf>,
    /// The Python interpreter with `kcl-rs` and `boto3`; `Err` with the reason to skip them.
    pub(crate) python: Option<Result<PathBuf, String>>,
    /// The program that serves DynamoDB for `kcl-rs`.
    pub(crate) local_endpoints: Option<PathBuf>,
    /// Runs only these shapes, by their letters; empty for all.
    pub(crate) shapes: Vec<String>,
    /// Runs only these parts: `time`, `tls`, `fan-out`, `count`, `latency`, `python`, `instructions`; empty for all.
    pub(crate) parts: Vec<String>,
}

/// Runs the comparisons, prints the figures, and checks the counted ones.
pub(crate) fn run(options: &Options) -> Result<(), BoxError> {
    println!("processor: {}, load before: {:.2}", processor(), load());
    let mut report = Report::default();
    let mut chosen = if options.is_short { comparisons::short() } else { comparisons::full() };
    let has_part = |part: &str| options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == part);
    let has_shape = |shape: Shape| {
        options.shapes.is_empty() || options.shapes.iter().any(|wanted| wanted == shape.letter())
    };
    chosen.retain(|comparison| has_part(comparison.kind.part()) && has_shape(comparison.shape));
    let mut progress = Progress::start(chosen.len(), chosen.iter().map(Comparison::runs).sum());
    for comparison in &chosen {
        println!("\n{} shards, {} ({})", comparison.shards, comparison.shape, comparison.kind);
        run_comparison(comparison, &mut report, &mut progress)?;
    }
    if !options.is_short && has_part("python") {
        match (&options.python, &options.local_endpoints) {
            (Some(Ok(python)), Some(local_endpoints)) => {
                python::run(python, local_endpoints, &mut report, &progress)?;
            }
            (Some(Err(why)), _) => println!("\nLEFT OUT: kcl-rs and boto3: {why}"),
            _ => println!("\nLEFT OUT: kcl-rs and boto3: no Python interpreter given"),
        }
    }
    if !options.is_short && has_part("instructions") {
        instructions::run(&mut report, &progress)?;
    }
    println!("\nload after: {:.2}", load());
    if let Some(path) = &options.json {
        let whole = json!({ "processor": processor(), "short": options.is_short, "rows": report.rows() });
        std::fs::write(path, serde_json::to_string_pretty(&whole)?)?;
    }
    report.print_ratios();
    report.check_counted()
}

fn run_comparison(
    comparison: &Comparison,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<(), BoxError> {
    let server = Server::start(comparison.shape, comparison.shards, comparison.answers, false)?;
    let mut best: Vec<Option<serde_json::Value>> = vec![None; comparison.contenders.len()];
    for _ in 0..comparison.rounds_to_run() {
        for (contender, best) in comparison.contenders.iter().zip(&mut best) {
            progress.run(&format!(
                "{}, {}, {} shards",
                contender.name(),
                comparison.shape,
                comparison.shards
            ));
            let found = contend(*contender, comparison, &server)?;
            let nanos = |figures: &serde_json::Value| figures["cpu_nanos"].as_u64().unwrap_or(u64::MAX);
            if best.as_ref().is_none_or(|best| nanos(&found) < nanos(best)) {
                *best = Some(found);
            }
        }
    }
    report.add_comparison(comparison, best.into_iter().flatten());
    println!("  the server used {:.2} s of CPU time", server.cpu_seconds()?);
    Ok(())
}
