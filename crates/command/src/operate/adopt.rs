//! `kinesis-streaming adopt`: a table of the KCL becomes one that the workers of this library accept.

use clap::Args;
use fleet_view::plan::adopt;
use lease_store::dynamodb::{DynamoDbLeaseStore, KclFleetMode};

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind, table_error};
use crate::look::Observer;
use crate::operate::arguments::PlanArguments;
use crate::operate::carry_out::{Outcome, carry_out};
use crate::operate::report::{ModeChange, Report};
use crate::operate::situation::{Until, situation};
use crate::wall_clock::now_millis;

/// What a person does to carry a shown plan out.
const TO_EXECUTE: &str = "add --execute to adopt the table";

/// Who changed the mode, as the item of the KCL records it.
const MODIFIED_BY: &str = "kinesis-streaming-adopt";

/// The arguments of `kinesis-streaming adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// Adopts the table; otherwise the plan is only shown
    #[arg(long)]
    execute: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// Runs the command. The mode of a KCL 3.x fleet is changed last: until then workers refuse the table, so a run that was cut short
/// leaves nothing half done.
pub(crate) async fn run(arguments: AdoptArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let seen_mode = mode_to_pin(observer.store()).await?;
    let found = situation(&mut observer, Until::OneRenews, arguments.plan.look_time).await?;
    let plan = adopt(&found.for_plan());
    let mut mode = seen_mode.as_ref().map(|seen| ModeChange {
        table: seen.table.clone(),
        from: seen.mode.clone(),
        to: KclFleetMode::PINNED,
        is_done: false,
    });
    let (gaps, json) = (&found.gaps, arguments.plan.json);
    if plan.is_refused() || !arguments.execute {
        return Report::of_plan(&plan, gaps).with_mode(mode.as_ref()).show(json, TO_EXECUTE);
    }
    let outcomes = carry_out(observer.store(), &plan, now_millis(), arguments.plan.wait).await?;
    let is_done = outcomes.iter().all(|shard| shard.outcome == Outcome::Done);
    if let (Some(seen), Some(mode), true) = (&seen_mode, &mut mode, is_done) {
        let pinned = observer.store().pin_kcl_fleet_mode(seen, MODIFIED_BY, now_millis()).await;
        pinned.map_err(table_error)?;
        mode.is_done = true;
    }
    Report::of_outcomes(&plan, gaps, &outcomes).with_mode(mode.as_ref()).show(json, TO_EXECUTE)
}

/// The mode that keeps workers out of the table; `None`: none does.
///
/// # Errors
/// `Invalid` when the table is no lease table, or has the index of KCL 3.x and no mode.
async fn mode_to_pin(store: &DynamoDbLeaseStore) -> Result<Option<KclFleetMode>, CommandError> {
    let invalid = |message: String| CommandError::new(CommandErrorKind::Invalid, message);
    let report = store.table_report().await.map_err(table_error)?;
    if let Some(fault) = report.layout_fault {
        return Err(invalid(fault));
    }
    match store.kcl_fleet_mode().await.map_err(table_error)? {
        Some(mode) => Ok(Some(mode).filter(|mode| !mode.is_pinned())),
        None if report.has_kcl_index => Err(invalid(format!(
            "the table {:?} has the index of KCL 3.x, and no mode is stored under the name of this application; give the name of the \
             KCL's application, and the table with --table",
            store.table_name()
        ))),
        None => Ok(None),
    }
}
