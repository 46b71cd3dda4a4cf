//! The subcommands and their dispatch.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::daemon::{self, DaemonCommand};
use crate::describe::{self, DescribeArguments};
use crate::doctor::{self, DoctorArguments, VerifyArguments};
use crate::exit_code::finished;
use crate::lag::{self, LagArguments};
use crate::operate::{
    self, AdoptArguments, AssignArguments, CopyArguments, DeleteArguments, PauseArguments,
    PositionsArguments, ReleaseArguments, ResetArguments, ResumeArguments,
};
use crate::provide::{self, ProvideArguments};
use crate::read::{self, CatArguments, TailArguments};
use crate::replay::{self, ReplayArguments};
use crate::serve::{self, ServeArguments};
use crate::terminal::print;

/// Sees, checks and moves applications on Amazon Kinesis, and reads their streams.
///
/// Exit codes: 0 done; 1 the answer is bad; 2 the command line is not valid; 3 not found; 4 not allowed; 5 not reachable, try again;
/// 6 not what the command needs; 7 the output cannot be written. Those of `daemon` are its own: docs/daemon.md.
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
    /// Shows workers, shards, lag and verdicts of an application.
    Describe(DescribeArguments),
    /// Finds what is wrong with an application, its stream, its table and its permissions, and names the remedy.
    Doctor(DoctorArguments),
    /// Checks a lease table: its layout, its rows against the stream, lineage, positions and hash keys. Reads only.
    Verify(VerifyArguments),
    /// Prints how far an application is behind, and how many workers its load wants.
    Lag(LagArguments),
    /// Sets positions of an application: shows what is read again or skipped, and acts with --execute.
    Reset(ResetArguments),
    /// Writes the positions of an application to a file, or resets it to those of a file.
    Positions(PositionsArguments),
    /// Makes a second application that starts at the positions of the first.
    Copy(CopyArguments),
    /// Makes a table of the KCL ready for workers of this library: shows what changes, and acts with --execute.
    Adopt(AdoptArguments),
    /// Makes owners release leases, so that other workers take them.
    Release(ReleaseArguments),
    /// Makes a worker the owner of a lease.
    Assign(AssignArguments),
    /// Stops reading shards for a while; the pause survives the workers.
    Pause(PauseArguments),
    /// Ends pauses.
    Resume(ResumeArguments),
    /// Deletes the leases of an application.
    Delete(DeleteArguments),
    /// Serves a page, metrics, health and load of an application.
    Serve(ServeArguments),
    /// Follows a stream in a terminal.
    Tail(TailArguments),
    /// Reads a stream up to its tip, or to a time.
    Cat(CatArguments),
    /// Replays a range of a stream, or dead letters, into a file, a stream or a program.
    Replay(ReplayArguments),
    /// Prints the least policy for an application.
    IamPolicy(ProvideArguments),
    /// Prints a configuration for Terraform: lease table, policy, alarm and fan-out consumer.
    Terraform(ProvideArguments),
    /// Prints the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
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
        Command::Describe(arguments) => finished(Box::pin(describe::run(arguments)).await),
        Command::Doctor(arguments) => finished(Box::pin(doctor::run(arguments)).await),
        Command::Verify(arguments) => finished(Box::pin(doctor::verify(arguments)).await),
        Command::Lag(arguments) => finished(Box::pin(lag::run(arguments)).await),
        Command::Reset(arguments) => finished(Box::pin(operate::run_reset(arguments)).await),
        Command::Positions(arguments) => finished(Box::pin(operate::run_positions(arguments)).await),
        Command::Copy(arguments) => finished(Box::pin(operate::run_copy(arguments)).await),
        Command::Adopt(arguments) => finished(Box::pin(operate::run_adopt(arguments)).await),
        Command::Release(arguments) => finished(Box::pin(operate::run_release(arguments)).await),
        Command::Assign(arguments) => finished(Box::pin(operate::run_assign(arguments)).await),
        Command::Pause(arguments) => finished(Box::pin(operate::run_pause(arguments)).await),
        Command::Resume(arguments) => finished(Box::pin(operate::run_resume(arguments)).await),
        Command::Delete(arguments) => finished(Box::pin(operate::run_delete(arguments)).await),
        Command::Serve(arguments) => finished(Box::pin(serve::run(arguments)).await),
        Command::Tail(arguments) => finished(Box::pin(read::tail(arguments)).await),
        Command::Cat(arguments) => finished(Box::pin(read::cat(arguments)).await),
        Command::Replay(arguments) => finished(Box::pin(replay::run(arguments)).await),
        Command::IamPolicy(arguments) => finished(provide::iam_policy(arguments)),
        Command::Terraform(arguments) => finished(provide::terraform(arguments)),
        Command::Completions { shell } => finished(print(&completions(shell))),
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "kinesis-streaming", &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn completions_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(completions(shell)).unwrap();
            assert!(text.contains("describe") && text.contains("endpoint-url"), "{shell}");
        }
    }
}
