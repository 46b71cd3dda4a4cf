//! The subcommands and their dispatch.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::daemon::{self, DaemonArguments};

/// Sees, checks, moves and replays applications on Amazon Kinesis.
#[derive(Debug, Parser)]
#[command(name = "kinesis-streaming", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs record processors in other languages, in place of the KCL's MultiLangDaemon.
    Daemon(DaemonArguments),
}

/// Runs the command with these arguments; the first is the name of the program.
pub async fn run(arguments: Vec<OsString>) -> ExitCode {
    match CommandLine::parse_from(arguments).command {
        Command::Daemon(arguments) => daemon::run(arguments).await,
    }
}
