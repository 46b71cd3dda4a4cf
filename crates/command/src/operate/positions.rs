//! `kinesis-streaming positions`: the positions of an application as a file, and back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet_view::PositionsFile;
use fleet_view::plan::ResetTo;

use crate::connection::ApplicationArguments;
use crate::exit_code::{CommandError, CommandErrorKind, output_error};
use crate::look::{LookOptions, Observer};
use crate::operate::reset::{ResetPlanArguments, run_to};
use crate::operate::reset_target::read_positions;
use crate::terminal::{print, print_json};

/// The arguments of `kinesis-streaming positions`.
#[derive(Debug, Args)]
pub(crate) struct PositionsArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Writes the positions of all shards as JSON.
    Export(Box<ExportArguments>),
    /// Resets an application to the positions of a file; the same as reset --to FILE.
    Import(Box<ImportArguments>),
}

#[derive(Debug, Args)]
struct ExportArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// The file to write, which must not exist [default: the standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Prints the positions on one line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ImportArguments {
    #[command(flatten)]
    application: ApplicationArguments,

    /// The file of positions
    #[arg(long, value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    options: ResetPlanArguments,
}

/// Runs the command.
pub(crate) async fn run(arguments: PositionsArguments) -> Result<(), CommandError> {
    match arguments.action {
        Action::Export(arguments) => export(*arguments).await,
        Action::Import(arguments) => {
            let file = read_positions(&arguments.file)?;
            run_to(&arguments.application, &ResetTo::Positions(file), &arguments.options).await
        }
    }
}

async fn export(arguments: ExportArguments) -> Result<(), CommandError> {
    let mut observer = Observer::open(&arguments.application).await?;
    let looked = observer.look(LookOptions::for_plan()).await?;
    for gap in &looked.gaps {
        eprintln!("kinesis-streaming: {gap}");
    }
    for row in &looked.look.malformed {
        eprintln!("kinesis-streaming: row {:?} has no position that can be read, and is left out", row.key);
    }
    let file = PositionsFile::of(&looked.look);
    if arguments.json && arguments.output.is_none() {
        return print_json(&file);
    }
    let invalid =
        |error: fleet_view::FleetError| CommandError::new(CommandErrorKind::Invalid, error.to_string());
    let text = file.to_json().map_err(invalid)? + "\n";
    let Some(path) = arguments.output else { return print(text.as_bytes()) };
    let mut output = std::fs::File::create_new(&path).map_err(output_error)?;
    std::io::Write::write_all(&mut output, text.as_bytes()).map_err(output_error)
}
