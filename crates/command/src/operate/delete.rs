//! `kinesis-streaming delete`: the end of an application.

use clap::Args;
use fleet_view::plan::delete;

use crate::connection::ApplicationArguments;
use crate::exit_code::CommandError;
use crate::look::Observer;
use crate::operate::arguments::PlanArguments;
use crate::operate::carry_out::carry_out;
use crate::operate::report::Report;
use crate::operate::situation::{Until, situation};
use crate::wall_clock::now_millis;

/// What a person does to carry a shown deletion out.
const TO_EXECUTE: &str = "add --execute to delete";

/// The arguments of `kinesis-streaming delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// Deletes; otherwise the plan is only shown
    #[arg(long)]
    execute: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// Runs the command. It deletes the rows of the application, and leaves the table.
pub(crate) async fn run(arguments: DeleteArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let found = situation(&mut observer, Until::OneRenews, arguments.plan.look_time).await?;
    let plan = delete(&found.for_plan());
    if plan.is_refused() || !arguments.execute {
        return Report::of_plan(&plan, &found.gaps).show(arguments.plan.json, TO_EXECUTE);
    }
    let outcomes = carry_out(observer.store(), &plan, now_millis(), arguments.plan.wait).await?;
    Report::of_outcomes(&plan, &found.gaps, &outcomes).show(arguments.plan.json, TO_EXECUTE)
}
