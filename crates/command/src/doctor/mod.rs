//! `kinesis-streaming doctor`: what is wrong with an application, and the remedy. Changes nothing.

mod finding;
mod of_settings;
mod of_stream;
mod of_table;
mod verify;

use std::time::Duration;

use clap::Args;
use fleet_view::{FleetView, History};
use tokio::time::{Instant, sleep};

use self::finding::{Finding, Severity};
use crate::connection::ApplicationArguments;
use crate::describe::add;
use crate::exit_code::{CommandError, CommandErrorKind};
use crate::look::{LookOptions, Observer};
use crate::terminal::{Terminal, print_json};
use crate::time_argument::parse_duration;

pub(crate) use self::verify::{VerifyArguments, run as verify};

/// The wait between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The arguments of `kinesis-streaming doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// How long to look at the table; leases without renewals, and worker ids used twice, show only over time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    over: Duration,

    /// Does not ask whether rows may be written; it is asked with writes whose condition cannot hold
    #[arg(long)]
    no_write_checks: bool,

    #[command(flatten)]
    settings: of_settings::SettingsArguments,

    /// Prints the findings as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(arguments: DoctorArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let mut findings =
        of_settings::findings(&arguments.application, &arguments.settings, observer.stream()).await;
    if let Some(stream) = observer.stream() {
        findings.extend(of_stream::findings(stream).await);
    }
    findings.extend(of_table::of_description(observer.store()).await);
    let terminal = Terminal::of_process();
    let options = LookOptions::for_display(Duration::from_secs(5));
    let started_at = Instant::now();
    let mut history = History::new();
    let looked = loop {
        let looked = observer.look(options).await?;
        add(&mut history, &looked)?;
        let left = arguments.over.saturating_sub(started_at.elapsed());
        if left < LOOK_INTERVAL {
            break looked;
        }
        if terminal.is_terminal() && !arguments.json {
            eprint!("\rlooking for {} s more ", left.as_secs());
        }
        sleep(LOOK_INTERVAL).await;
    };
    if terminal.is_terminal() && !arguments.json {
        eprint!("\r{:30}\r", "");
    }
    findings.push(Finding::good("permission", "dynamodb:Scan is allowed"));
    // Failed calls to the stream are findings already.
    let of_table =
        |gap: &&crate::look::gap::Gap| gap.missing_action.is_none_or(|action| action.starts_with("dynamodb"));
    findings.extend(looked.gaps.iter().filter(of_table).map(|gap| Finding::warning("look", gap.to_string())));
    if let Some(view) = FleetView::of(&history) {
        findings.extend(of_table::of_looks(&view));
    }
    findings.extend(of_table::of_rows(&looked.look, observer.stream()));
    if !arguments.no_write_checks {
        findings.extend(of_table::permissions(observer.store(), looked.look.leases.first()).await);
    }
    show(&findings, arguments.json)
}

/// Shows findings.
///
/// # Errors
/// `BadAnswer` when one of them is an error.
fn show(findings: &[Finding], is_json: bool) -> Result<(), CommandError> {
    if is_json {
        print_json(&findings)?;
    } else {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Terminal::of_process().show(&lines, false)?;
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
        0 => Ok(()),
        errors => Err(CommandError::new(CommandErrorKind::BadAnswer, format!("{errors} errors were found"))),
    }
}
