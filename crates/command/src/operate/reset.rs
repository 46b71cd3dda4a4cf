//! `kinesis-streaming reset`: another position for an application, or for some of its shards.

use clap::Args;
use fleet_view::plan::{ResetTo, Scope};

use crate::connection::ApplicationArguments;
use crate::exit_code::CommandError;
use crate::look::Observer;
use crate::operate::arguments::{PlanArguments, ShardArguments};
use crate::operate::order::Order;
use crate::operate::reset_target::reset_target;
use crate::wall_clock::now_millis;

/// What a person does to carry a shown reset out.
const TO_EXECUTE: &str = "add --execute to act";

/// The arguments of `kinesis-streaming reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// Where to begin: trim-horizon, latest, a time, a duration such as 2h, or a file of positions
    #[arg(long, value_name = "TARGET")]
    to: String,

    #[command(flatten)]
    options: ResetPlanArguments,
}

/// The arguments of a reset beside its target.
#[derive(Debug, Clone, Args)]
pub(crate) struct ResetPlanArguments {
    #[command(flatten)]
    shards: ShardArguments,

    /// Resets the shards that came from the named ones too
    #[arg(long, requires = "shards")]
    with_descendants: bool,

    /// Acts; otherwise the plan is only shown
    #[arg(long)]
    execute: bool,

    /// Asks live owners to stop at a batch boundary and resume from the new position; otherwise a live worker is a reason to
    /// refuse
    #[arg(long)]
    live: bool,

    /// Resets to a time although workers of the KCL, which ignore the time in the rows, read the stream
    #[arg(long)]
    even_with_kcl: bool,

    #[command(flatten)]
    pub(crate) plan: PlanArguments,
}

/// Runs the command.
pub(crate) async fn run(arguments: ResetArguments) -> Result<(), CommandError> {
    let to = reset_target(&arguments.to, now_millis())?;
    run_to(&arguments.application, &to, &arguments.options).await
}

/// Resets an application to a target.
pub(crate) async fn run_to(
    application: &ApplicationArguments,
    to: &ResetTo,
    options: &ResetPlanArguments,
) -> Result<(), CommandError> {
    let scope = match options.shards.shards()? {
        None => Scope::All,
        Some(shards) => Scope::Shards { shards, with_descendants: options.with_descendants },
    };
    let order =
        Order::Reset { scope, to: to.clone(), is_live: options.live, even_with_kcl: options.even_with_kcl };
    let mut observer = Observer::open(application).await?;
    let given = order.give(&mut observer, options.plan.times(), options.execute).await?;
    given.show(options.plan.json, TO_EXECUTE)
}
