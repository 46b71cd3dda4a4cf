//! The exit codes of every command, and the error type that leads to them.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the command ran, and its answer is bad: an error found by `doctor`, an alarm with `--fail-on-alarm`, a refused plan |
//! | 2 | the command line is not valid |
//! | 3 | the table, the stream or the shard does not exist |
//! | 4 | credentials are missing, or do not allow a call without which nothing can be shown |
//! | 5 | a service could not be reached, failed or throttled; the same command may succeed later |
//! | 6 | what was found is not what the command needs: the table is no lease table, a file is not readable |
//! | 7 | the output could not be written |

use std::io;
use std::process::ExitCode;

use kinesis_asl::{AslError, AslErrorKind};
use lease_store::{Error, ErrorKind, StoreError, StoreErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandErrorKind {
    /// The command ran, and its answer is bad.
    BadAnswer,
    /// The command line is not valid.
    Usage,
    /// The table, the stream or the shard does not exist.
    NotFound,
    /// Credentials are missing, or do not allow a call.
    Denied,
    /// A service could not be reached, failed or throttled.
    Unavailable,
    /// What was found is not what the command needs.
    Invalid,
    /// The output could not be written.
    Output,
}

impl CommandErrorKind {
    /// The exit code of the program.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::BadAnswer => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Unavailable => 5,
            Self::Invalid => 6,
            Self::Output => 7,
        }
    }
}

impl ErrorKind for CommandErrorKind {
    fn is_retryable(self) -> bool {
        self == Self::Unavailable
    }
}

/// The error of a command.
pub(crate) type CommandError = Error<CommandErrorKind>;

/// An error of the command line.
pub(crate) fn usage(message: impl Into<String>) -> CommandError {
    CommandError::new(CommandErrorKind::Usage, message)
}

/// Ends the program: prints the error, if there is one.
pub(crate) fn finished(result: Result<(), CommandError>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // A reader such as `head` that has seen enough is no failure.
    let is_closed_pipe = std::error::Error::source(&error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if is_closed_pipe {
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    if !text.is_empty() {
        eprintln!("kinesis-streaming: {text}");
    }
    ExitCode::from(error.kind().code())
}

/// The error of an output that could not be written.
pub(crate) fn output_error(error: io::Error) -> CommandError {
    let message = format!("the output cannot be written: {error}; check the terminal, the pipe or the disk");
    CommandError::new(CommandErrorKind::Output, message).with_source(error)
}

/// The error of a call to the table.
pub(crate) fn table_error(error: StoreError) -> CommandError {
    let kind = match error.kind() {
        StoreErrorKind::NotFound => CommandErrorKind::NotFound,
        StoreErrorKind::Denied => CommandErrorKind::Denied,
        StoreErrorKind::Throttled | StoreErrorKind::Unavailable => CommandErrorKind::Unavailable,
        _ => CommandErrorKind::Invalid,
    };
    CommandError::new(kind, error.to_string()).caused_by(error)
}

/// The error of a call to the stream.
pub(crate) fn stream_error(error: SourceError) -> CommandError {
    let kind = match error.kind() {
        SourceErrorKind::StreamNotFound | SourceErrorKind::ShardNotFound => CommandErrorKind::NotFound,
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => CommandErrorKind::Denied,
        SourceErrorKind::Throttled | SourceErrorKind::Unavailable => CommandErrorKind::Unavailable,
        _ => CommandErrorKind::Invalid,
    };
    CommandError::new(kind, error.to_string()).caused_by(error)
}

/// The error of settings that are not valid.
pub(crate) fn settings_error(error: AslError) -> CommandError {
    let kind = match error.kind() {
        AslErrorKind::InvalidSettings => CommandErrorKind::Usage,
        AslErrorKind::Denied => CommandErrorKind::Denied,
        AslErrorKind::Throttled | AslErrorKind::Unavailable => CommandErrorKind::Unavailable,
        _ => CommandErrorKind::Invalid,
    };
    CommandError::new(kind, error.to_string()).caused_by(error)
}
