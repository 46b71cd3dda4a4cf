//! `kinesis-streaming pause` and `resume`: shards that no worker reads for a while.

use std::time::Duration;

use clap::Args;

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, usage};
use crate::look::Observer;
use crate::operate::arguments::{PlanArguments, ShardArguments};
use crate::operate::assign::TO_EXECUTE;
use crate::operate::order::{Order, PauseEnd};
use crate::time_argument::{parse_duration, parse_instant};
use crate::wall_clock::now_millis;

/// The arguments of `kinesis-streaming pause`.
#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    #[command(flatten)]
    shards: ShardArguments,

    /// Ends the pause after this time, such as 30m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, conflicts_with = "until")]
    for_time: Option<Duration>,

    /// Ends the pause at this time, such as 2026-11-30T07:30:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Pauses until resume, however long that takes
    #[arg(long, conflicts_with_all = ["for_time", "until"])]
    without_end: bool,

    /// Who pauses, for the people who find the pause [default: USER]
    #[arg(long, env = "USER", default_value = "an operator")]
    by: String,

    /// Only shows the plan
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// The arguments of `kinesis-streaming resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    #[command(flatten)]
    shards: ShardArguments,

    /// Only shows the plan
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// Runs `pause`.
pub(crate) async fn run_pause(arguments: PauseArguments) -> Result<(), CommandError> {
    let end = end_of(&arguments, now_millis())?;
    let order = Order::Pause { shards: arguments.shards.shards()?, end, by: arguments.by };
    run(&arguments.application, &order, arguments.dry_run, &arguments.plan).await
}

/// Runs `resume`.
pub(crate) async fn run_resume(arguments: ResumeArguments) -> Result<(), CommandError> {
    let order = Order::Resume { shards: arguments.shards.shards()? };
    run(&arguments.application, &order, arguments.dry_run, &arguments.plan).await
}

async fn run(
    application: &ApplicationArguments,
    order: &Order,
    is_dry_run: bool,
    plan: &PlanArguments,
) -> Result<(), CommandError> {
    let mut observer = Observer::open(application).await?;
    order.give(&mut observer, plan.times(), !is_dry_run).await?.show(plan.json, TO_EXECUTE)
}

/// The end of the pause. It must be said: a forgotten pause loses records.
fn end_of(arguments: &PauseArguments, now_millis: u64) -> Result<PauseEnd, CommandError> {
    match (&arguments.for_time, &arguments.until) {
        (Some(time), _) => Ok(PauseEnd::After(*time)),
        (None, Some(until)) => parse_instant(until, now_millis).map(PauseEnd::At).map_err(usage),
        (None, None) if arguments.without_end => Ok(PauseEnd::Never),
        (None, None) => Err(usage("a pause needs an end: add --for 30m, --until TIME, or --without-end")),
    }
}
