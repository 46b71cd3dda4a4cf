//! The driver: starts servers and contenders as processes of their own, in turn, and compares what they took.

mod cells;
mod instructions;
mod processes;
mod python;
mod report;

use std::path::PathBuf;

use kinesis_streaming::prelude::BoxError;
use serde_json::json;

use crate::measure::{load, processor};
use crate::shape::Shape;
use cells::{Cell, Kind};
use processes::{Server, contend};
use report::Report;

/// What to run.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Less of it, and only counted figures decide.
    pub(crate) is_short: bool,
    /// Where the figures go as JSON as well.
    pub(crate) json: Option<PathBuf>,
    /// The Python with `kcl-rs` and `boto3`; `Err`: why they are left out.
    pub(crate) python: Option<Result<PathBuf, String>>,
    /// Serves DynamoDB for `kcl-rs`.
    pub(crate) local_endpoints: Option<PathBuf>,
    /// Only these shapes, by their letters; empty: all.
    pub(crate) shapes: Vec<String>,
    /// Only these parts: `time`, `count`, `latency`, `python`, `instructions`; empty: all.
    pub(crate) parts: Vec<String>,
}

/// Runs everything, prints the figures and checks those that are counted.
pub(crate) fn run(options: &Options) -> Result<(), BoxError> {
    println!("processor: {}, load before: {:.2}", processor(), load());
    let mut report = Report::default();
    let cells = if options.is_short { cells::short() } else { cells::full() };
    let has_part = |part: &str| options.parts.is_empty() || options.parts.iter().any(|wanted| wanted == part);
    let has_shape = |shape: Shape| {
        options.shapes.is_empty() || options.shapes.iter().any(|wanted| wanted == shape.letter())
    };
    for cell in cells.iter().filter(|cell| has_part(cell.kind.part()) && has_shape(cell.shape)) {
        println!("\n{} shards, {} ({})", cell.shards, cell.shape, cell.kind);
        run_cell(cell, &mut report)?;
    }
    if !options.is_short && has_part("python") {
        match (&options.python, &options.local_endpoints) {
            (Some(Ok(python)), Some(local_endpoints)) => python::run(python, local_endpoints, &mut report)?,
            (Some(Err(why)), _) => println!("\nLEFT OUT: kcl-rs and boto3: {why}"),
            _ => println!("\nLEFT OUT: kcl-rs and boto3: not asked for"),
        }
    }
    if !options.is_short && has_part("instructions") {
        instructions::run(&mut report)?;
    }
    println!("\nload after: {:.2}", load());
    if let Some(path) = &options.json {
        let whole = json!({ "processor": processor(), "short": options.is_short, "rows": report.rows() });
        std::fs::write(path, serde_json::to_string_pretty(&whole)?)?;
    }
    report.print_bars();
    report.check_counted()
}

fn run_cell(cell: &Cell, report: &mut Report) -> Result<(), BoxError> {
    let server = Server::start(cell.shape, cell.shards, cell.answers, false)?;
    let mut best: Vec<Option<serde_json::Value>> = vec![None; cell.contenders.len()];
    let rounds = if cell.kind == Kind::Time { cell.rounds } else { 1 };
    for _ in 0..rounds {
        for (contender, best) in cell.contenders.iter().zip(&mut best) {
            let found = contend(*contender, cell, &server)?;
            let nanos = |figures: &serde_json::Value| figures["cpu_nanos"].as_u64().unwrap_or(u64::MAX);
            if best.as_ref().is_none_or(|best| nanos(&found) < nanos(best)) {
                *best = Some(found);
            }
        }
    }
    report.add_cell(cell, best.into_iter().flatten());
    println!("  the server itself: {:.2} s of CPU time in all", server.cpu_seconds()?);
    Ok(())
}
