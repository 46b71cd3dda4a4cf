//! `kinesis-streaming delete`: the end of an application.

use clap::Args;
use fleet_view::plan::{Note, delete};

use crate::connection::ApplicationArguments;
use crate::exit_code::CommandError;
use crate::look::Observer;
use crate::look::gap::Gap;
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

/// Runs the command. It deletes the rows of the application, and leaves the tables.
pub(crate) async fn run(arguments: DeleteArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let mut found = situation(&mut observer, Until::OneRenews, arguments.plan.look_time).await?;
    let mut plan = delete(&found.for_plan());
    match observer.store().kcl_tables().await {
        Ok(names) => plan.notes.extend(names.into_iter().map(|name| Note::TableStays { name })),
        Err(error) => {
            let unknown = "which tables of a KCL 3.0 to 3.4 fleet stay";
            found.gaps.push(Gap::of_table(unknown, "dynamodb:DescribeTable on them", &error));
        }
    }
    if plan.is_refused() || !arguments.execute {
        return Report::of_plan(&plan, &found.gaps).show(arguments.plan.json, TO_EXECUTE);
    }
    let outcomes = carry_out(observer.store(), &plan, now_millis(), arguments.plan.wait).await?;
    Report::of_outcomes(&plan, &found.gaps, &outcomes).show(arguments.plan.json, TO_EXECUTE)
}
