//! `kinesis-streaming verify`: whether a table is what its stream and the workers expect. Reads only.

use std::time::Duration;

use clap::Args;
use fleet_view::{FleetView, History};

use super::finding::Finding;
use super::{of_table, show};
use crate::connection::ApplicationArguments;
use crate::describe::add;
use crate::exit_code::CommandError;
use crate::look::{LookOptions, Observer};
use crate::time_argument::parse_duration;

/// The arguments of `kinesis-streaming verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// How long shards may be probed for waiting records; a position before the oldest record is a loss only if some wait
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    probe_time: Duration,

    /// Prints the findings as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: one consistent look at the table, and what contradicts it.
pub(crate) async fn run(arguments: VerifyArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let options = LookOptions { probe_time: arguments.probe_time, ..LookOptions::for_plan() };
    let looked = observer.look(options).await?;
    let mut history = History::new();
    add(&mut history, &looked)?;
    let mut findings = of_table::of_description(observer.store()).await;
    findings.extend(looked.gaps.iter().map(|gap| Finding::warning("look", gap.to_string())));
    if let Some(view) = FleetView::of(&history) {
        findings.extend(of_table::of_looks(&view));
    }
    findings.extend(of_table::of_rows(&looked.look, observer.stream()));
    show(&findings, arguments.json)
}
