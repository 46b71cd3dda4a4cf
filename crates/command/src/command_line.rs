//! The subcommands and their dispatch.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::daemon::{self, DaemonCommand};

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
    Daemon(DaemonCommand),
}

/// Runs the command with these arguments; the first is the name of the program.
///
/// A line for `java` with the main class of the MultiLangDaemon runs the daemon, so that this program can stand in for `java`.
pub async fn run(arguments: Vec<OsString>) -> ExitCode {
    if let Some(java) = daemon::java_line(&arguments) {
        return daemon::run_as_java(&java).await;
    }
    match CommandLine::parse_from(arguments).command {
        Command::Daemon(arguments) => daemon::run(arguments).await,
    }
}
