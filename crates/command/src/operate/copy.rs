//! `kinesis-streaming copy`: a second application from the positions of the first.

use clap::Args;
use fleet_view::plan::copy;
use fleet_view::{History, Look};
use lease_store::LeaseStore as _;

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind, table_error};
use crate::look::{LookOptions, Observer};
use crate::operate::arguments::PlanArguments;
use crate::operate::carry_out::carry_out;
use crate::operate::report::Report;
use crate::operate::situation::{Situation, Until, situation};
use crate::wall_clock::now_millis;

/// What a person does to carry a shown copy out.
const TO_EXECUTE: &str = "add --execute to copy";

/// The arguments of `kinesis-streaming copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    #[command(flatten)]
    from: ApplicationArguments,

    /// The second application: the name of its lease table, unless --to-table names another one
    to: String,

    /// The lease table of the second application [default: its name]
    #[arg(long, value_name = "TABLE")]
    to_table: Option<String>,

    /// Copies; otherwise the plan is only shown
    #[arg(long)]
    execute: bool,

    #[command(flatten)]
    plan: PlanArguments,
}

/// Runs the command. The workers of the first application may run; the table of the second one is created if it is missing.
pub(crate) async fn run(arguments: CopyArguments) -> Result<(), CommandError> {
    let mut from = Observer::open(&arguments.from).await?;
    let looked = from.look(LookOptions::for_plan()).await?;
    let stream = looked.look.stream.as_ref().map(|stream| stream.identity.arn.clone());
    let to = ApplicationArguments {
        application: arguments.to.clone(),
        table: arguments.to_table.clone(),
        stream: arguments.from.stream.clone().or(stream),
        connection: arguments.from.connection.clone(),
    };
    let (store, found) = match Observer::open(&to).await {
        Ok(mut observer) => {
            let found = situation(&mut observer, Until::OneLook, arguments.plan.look_time).await?;
            (observer.store().clone(), found)
        }
        Err(error) if error.kind() == CommandErrorKind::NotFound => {
            let connection = &to.connection;
            let store = connection.table(&to.application, to.table.as_deref(), to.stream.as_deref()).await?;
            (store, of_missing_table(&to.application, &looked.look)?)
        }
        Err(error) => return Err(error),
    };
    let plan = copy(&looked.look, &found.for_plan());
    if plan.is_refused() || !arguments.execute {
        return Report::of_plan(&plan, &looked.gaps).show(arguments.plan.json, TO_EXECUTE);
    }
    store.prepare().await.map_err(table_error)?;
    let outcomes = carry_out(&store, &plan, now_millis(), arguments.plan.wait).await?;
    Report::of_outcomes(&plan, &looked.gaps, &outcomes).show(arguments.plan.json, TO_EXECUTE)
}

/// The situation of an application whose table does not exist.
fn of_missing_table(application: &str, from: &Look) -> Result<Situation, CommandError> {
    let look = Look {
        taken_at_millis: from.taken_at_millis,
        application: application.to_owned(),
        shards: from.shards.clone(),
        stream: from.stream.clone(),
        ..Look::default()
    };
    let mut history = History::new();
    history
        .add(&look)
        .map_err(|refusal| CommandError::new(CommandErrorKind::Invalid, refusal.to_string()))?;
    Ok(Situation { look, history, gaps: Vec::new() })
}
