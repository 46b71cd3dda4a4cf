//! `kinesis-streaming daemon`: in place of the KCL's `MultiLangDaemon`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// The arguments of `kinesis-streaming daemon`.
#[derive(Debug, Args)]
pub(crate) struct DaemonArguments {
    /// The properties file of the MultiLangDaemon.
    #[arg(long, short)]
    properties_file: PathBuf,
}

/// Runs until the application ends or is asked to.
pub(crate) async fn run(arguments: DaemonArguments) -> ExitCode {
    eprintln!("{} is not read yet", arguments.properties_file.display());
    ExitCode::FAILURE
}
