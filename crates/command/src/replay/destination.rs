//! Where a replay goes: a file of lines, a stream, or the standard input of a program.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::item::Item;
use super::stream_destination::StreamDestination;
use crate::connection::ConnectionArguments;
use crate::exit_code::{CommandError, CommandErrorKind, output_error};

/// How long a program may take to end after the end of its input was abandoned. Then it is killed.
const ABANDONED_TIME: Duration = Duration::from_secs(5);

/// How many bytes are read at a time from the end of a file, to find the last whole line.
const TAIL_BYTES: u64 = 64 * 1024;

/// The arguments that name the destination.
#[derive(Debug, Args)]
#[command(next_help_heading = "Destination")]
pub(crate) struct DestinationArguments {
    #[command(flatten)]
    place: PlaceArguments,

    /// Continues the file of --output; a line that an earlier run left unfinished is cut off
    #[arg(long, requires = "output")]
    append: bool,
}

/// The destination: one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlaceArguments {
    /// Writes one line of JSON for each record to this file, which must be new, or be continued with --append
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Puts the payloads into this stream, with their partition keys
    #[arg(long, value_name = "STREAM")]
    to_stream: Option<String>,

    /// Starts this program and writes one line of JSON for each record to its standard input; comes last, after --
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

impl DestinationArguments {
    /// Whether the records go into this stream.
    pub(crate) fn is_stream(&self, stream: &str) -> bool {
        let name = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        self.place.to_stream.as_deref().is_some_and(|to| name(to) == name(stream))
    }
}

/// An open destination.
pub(crate) enum Destination {
    /// A file of lines.
    Lines { file: File, path: PathBuf, length: u64 },
    /// A stream.
    Stream(StreamDestination),
    /// A running program.
    Program { name: String, child: Box<Child>, input: Option<ChildStdin> },
}

impl Destination {
    /// Opens the destination.
    ///
    /// # Errors
    /// `Output` when the file cannot be created; `Invalid` when the program cannot be started; `Usage` when the stream has no valid
    /// name.
    pub(crate) async fn open(
        arguments: &DestinationArguments,
        connection: &ConnectionArguments,
    ) -> Result<Self, CommandError> {
        if let Some(path) = &arguments.place.output {
            let (file, length) = if arguments.append { continued(path)? } else { created(path)? };
            return Ok(Self::Lines { file, path: path.clone(), length });
        }
        if let Some(stream) = &arguments.place.to_stream {
            return StreamDestination::open(stream, connection).await.map(Self::Stream);
        }
        let [name, rest @ ..] = arguments.place.program.as_slice() else {
            return Err(crate::exit_code::usage(
                "name a destination: --output, --to-stream, or a program after --",
            ));
        };
        let mut command = Command::new(name);
        command.args(rest).stdin(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            let message =
                format!("the program {name:?} cannot be started: {error}; check its name and its rights");
            CommandError::new(CommandErrorKind::Invalid, message).with_source(error)
        })?;
        let input = child.stdin.take();
        Ok(Self::Program { name: name.clone(), child: Box::new(child), input })
    }

    /// Whether a batch is done once it is written. A program may have read a line without having processed it.
    pub(crate) fn confirms_batches(&self) -> bool {
        !matches!(self, Self::Program { .. })
    }

    /// Writes a batch, in order.
    ///
    /// # Errors
    /// `Output`, or the error of the stream; the destination may have a part of the batch.
    pub(crate) async fn write(&mut self, items: &[Item]) -> Result<(), CommandError> {
        match self {
            Self::Lines { file, path, length } => {
                let lines: Vec<u8> = items.iter().flat_map(|item| item.line.iter().copied()).collect();
                let written = file.write_all(&lines).and_then(|()| file.sync_data());
                if let Err(error) = written {
                    // A line that was written in part would be no record. The error of the write counts.
                    let _ = file.set_len(*length);
                    let message =
                        format!("{} cannot be written: {error}; check the file and its disk", path.display());
                    return Err(CommandError::new(CommandErrorKind::Output, message));
                }
                *length += lines.len() as u64;
                Ok(())
            }
            Self::Stream(stream) => stream.write(items).await,
            Self::Program { name, child, input } => {
                let written = match input {
                    Some(input) => write_lines(input, items).await,
                    None => Err(std::io::ErrorKind::BrokenPipe.into()),
                };
                match written {
                    Ok(()) => Ok(()),
                    Err(error) => Err(refused_input(name, child, input.take(), &error).await),
                }
            }
        }
    }

    /// Ends the destination after the last batch.
    ///
    /// # Errors
    /// `BadAnswer` when the program did not succeed; then it is not known which records it has processed.
    pub(crate) async fn finish(&mut self) -> Result<(), CommandError> {
        let Self::Program { name, child, input } = self else { return Ok(()) };
        drop(input.take());
        let status = child.wait().await.map_err(output_error)?;
        if status.success() {
            return Ok(());
        }
        Err(CommandError::new(
            CommandErrorKind::BadAnswer,
            format!("the program {name:?} ended with {status}; look at what it wrote"),
        ))
    }

    /// Ends the destination after a failure: a program sees the end of its input, and is killed if that does not end it.
    pub(crate) async fn abandon(&mut self) {
        if let Self::Program { child, input, .. } = self {
            drop(input.take());
            if timeout(ABANDONED_TIME, child.wait()).await.is_err() {
                // It may have ended just now.
                let _ = child.start_kill();
            }
        }
    }
}

async fn write_lines(input: &mut ChildStdin, items: &[Item]) -> std::io::Result<()> {
    for item in items {
        input.write_all(&item.line).await?;
    }
    input.flush().await
}

/// The error of a program that reads no more.
async fn refused_input(
    name: &str,
    child: &mut Child,
    input: Option<ChildStdin>,
    error: &std::io::Error,
) -> CommandError {
    drop(input);
    let ended = match timeout(ABANDONED_TIME, child.wait()).await {
        Ok(Ok(status)) => format!("ended with {status}"),
        Ok(Err(_)) | Err(_) => "still runs".to_owned(),
    };
    CommandError::new(
        CommandErrorKind::BadAnswer,
        format!("the program {name:?} reads no more ({error}) and {ended}; look at what it wrote"),
    )
}

fn created(path: &Path) -> Result<(File, u64), CommandError> {
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        let message = format!(
            "{} cannot be created: {error}; name a new file, or add --append to continue it",
            path.display()
        );
        CommandError::new(CommandErrorKind::Output, message)
    })?;
    Ok((file, 0))
}

/// Opens a file behind its last whole line.
fn continued(path: &Path) -> Result<(File, u64), CommandError> {
    let fault = |error: std::io::Error| {
        let message = format!("{} cannot be continued: {error}; check its name", path.display());
        CommandError::new(CommandErrorKind::Output, message)
    };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fault)?;
    let length = whole_lines(&mut file).map_err(fault)?;
    file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0))).map_err(fault)?;
    Ok((file, length))
}

/// The length of a file up to its last line break.
fn whole_lines(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    while end > 0 {
        let start = end.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut part = Vec::new();
        file.take(end - start).read_to_end(&mut part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_line_is_cut_off() {
        let path = std::env::temp_dir().join(format!("replay-lines-{}", std::process::id()));
        for (before, after) in [("", ""), ("half", ""), ("one\ntwo\n", "one\ntwo\n"), ("one\nhalf", "one\n")]
        {
            std::fs::write(&path, before).unwrap();
            let (_, length) = continued(&path).unwrap();
            assert_eq!(length, after.len() as u64);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
        let long = format!("one\n{}", "x".repeat(3 * usize::try_from(TAIL_BYTES).unwrap()));
        std::fs::write(&path, long).unwrap();
        assert_eq!(continued(&path).unwrap().1, 4);
        std::fs::remove_file(&path).unwrap();
    }
}
