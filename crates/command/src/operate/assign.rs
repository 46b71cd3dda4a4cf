//! `kinesis-streaming release` and `assign`: who reads a shard.

use clap::Args;
use fleet_view::plan::{AssignOptions, assign};
use lease_store::WorkerId;

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, usage};
use crate::look::Observer;
use crate::operate::arguments::{PlanArguments, ShardArguments, shard_id};
use crate::operate::carry_out::carry_out;
use crate::operate::order::Order;
use crate::operate::report::Report;
use crate::operate::situation::{Until, situation};
use crate::wall_clock::now_millis;

/// What a person does to carry a shown plan out.
pub(crate) const TO_EXECUTE: &str = "leave out --dry-run to act";

/// The arguments of `kinesis-streaming release`.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    #[command(flatten)]
    shards: ShardArguments,

    /// Asks live owners; otherwise a live worker is a reason to refuse
    #[arg(long)]
    live: bool,

    /// Only shows the plan
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// The arguments of `kinesis-streaming assign`.
#[derive(Debug, Args)]
pub(crate) struct AssignArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// The shard
    shard: String,

    /// The worker that is to read it
    worker: String,

    /// Accepts a worker that renews no lease, and so leaves no trace in the table
    #[arg(long)]
    unknown_worker: bool,

    /// Only shows the plan
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// Runs `release`.
pub(crate) async fn run_release(arguments: ReleaseArguments) -> Result<(), CommandError> {
    let order = Order::Release { shards: arguments.shards.shards()?, is_live: arguments.live };
    let mut observer = Observer::open(&arguments.application).await?;
    let given = order.give(&mut observer, arguments.plan.times(), !arguments.dry_run).await?;
    given.show(arguments.plan.json, TO_EXECUTE)
}

/// Runs `assign`.
pub(crate) async fn run_assign(arguments: AssignArguments) -> Result<(), CommandError> {
    let shard_id = shard_id(&arguments.shard)?;
    let worker_id = WorkerId::new(arguments.worker).map_err(|error| usage(error.to_string()))?;
    let mut observer = Observer::open(&arguments.application).await?;
    let found = situation(&mut observer, Until::AllKnown, arguments.plan.look_time).await?;
    let options = AssignOptions { accepts_unknown_worker: arguments.unknown_worker };
    let plan = assign(&found.for_plan(), &shard_id, &worker_id, options);
    if plan.is_refused() || arguments.dry_run {
        return Report::of_plan(&plan, &found.gaps).show(arguments.plan.json, TO_EXECUTE);
    }
    let outcomes = carry_out(observer.store(), &plan, now_millis(), arguments.plan.wait).await?;
    Report::of_outcomes(&plan, &found.gaps, &outcomes).show(arguments.plan.json, TO_EXECUTE)
}
