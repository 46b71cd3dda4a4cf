//! `kinesis-streaming lag`: how far an application is behind, as one number, or as JSON for a scaler.

use std::time::Duration;

use clap::Args;
use fleet_view::{FleetView, History};
use tokio::time::{Instant, sleep};

use crate::connection::ApplicationArguments;
use crate::describe::add;
use crate::exit_code::{CommandError, CommandErrorKind};
use crate::load::{Load, ScaleGoal};
use crate::look::{LookOptions, Observer};
use crate::terminal::{print, print_json};
use crate::time_argument::parse_duration;

/// The wait between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The arguments of `kinesis-streaming lag`.
#[derive(Debug, Args)]
pub(crate) struct LagArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// Looks for this long before it answers, so that verdicts are known
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    over: Duration,

    /// How long each look may measure the lag of shards by reading one record of each
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    probe_time: Duration,

    #[command(flatten)]
    goal: ScaleGoal,

    /// Prints JSON for a scaler, instead of the milliseconds that the shard furthest behind is behind
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(arguments: LagArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let options = LookOptions::for_display(arguments.probe_time);
    let started_at = Instant::now();
    let mut history = History::new();
    let gaps = loop {
        let looked = observer.look(options).await?;
        add(&mut history, &looked)?;
        if started_at.elapsed() + LOOK_INTERVAL > arguments.over {
            break looked.gaps;
        }
        sleep(LOOK_INTERVAL).await;
    };
    let view = FleetView::of(&history);
    let view = view.ok_or_else(|| CommandError::new(CommandErrorKind::Invalid, "there is no look"))?;
    let load = Load::of(&view, &arguments.goal);
    for gap in &gaps {
        eprintln!("kinesis-streaming: {gap}");
    }
    if arguments.json {
        return print_json(&load);
    }
    match load.behind_millis {
        Some(behind) => print(format!("{behind}\n").as_bytes()),
        None => Err(CommandError::new(
            CommandErrorKind::Unavailable,
            "no lag is known; the reasons are above, or try again with a longer --probe-time",
        )),
    }
}
