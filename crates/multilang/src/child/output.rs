//! Where the output of a child goes that is no message.

use std::fmt;
use std::io::Write as _;

/// The most bytes of a line that are copied into a log message.
const MAX_LOGGED_BYTES: usize = 4096;

/// Receives the output of children that is no message. Calls must not block for long.
pub trait ChildOutput: fmt::Debug + Send + Sync + 'static {
    /// A line of the standard output, without its end; `dropped_bytes` were cut from its end.
    fn stdout_line(&self, shard_id: &str, line: &[u8], dropped_bytes: u64);

    /// Bytes of the standard error: whole lines, or a part of one that was not continued for a while.
    fn stderr_bytes(&self, shard_id: &str, bytes: &[u8]);
}

/// What happens to output of a child on its standard output that is no message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StdoutMode {
    /// It is written to the standard output of this process, unchanged.
    #[default]
    PassThrough,
    /// It becomes a log event with the shard.
    Log,
    /// It is dropped.
    Drop,
}

/// Passes the output on to the streams of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamOutput {
    mode: StdoutMode,
}

impl StreamOutput {
    /// Passes the standard error on, and treats the standard output as `mode` says.
    pub fn new(mode: StdoutMode) -> Self {
        Self { mode }
    }
}

impl ChildOutput for StreamOutput {
    fn stdout_line(&self, shard_id: &str, line: &[u8], dropped_bytes: u64) {
        match self.mode {
            StdoutMode::PassThrough => {
                let mut stdout = std::io::stdout().lock();
                // A closed standard output is no reason to stop the application.
                let _ = stdout
                    .write_all(line)
                    .and_then(|()| stdout.write_all(b"\n"))
                    .and_then(|()| stdout.flush());
            }
            StdoutMode::Log => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(MAX_LOGGED_BYTES)]);
                tracing::info!(shard = shard_id, line = %shown, "output of the child");
            }
            StdoutMode::Drop => return,
        }
        if dropped_bytes > 0 {
            tracing::warn!(
                shard = shard_id,
                dropped_bytes,
                "line of the child cut, it exceeds the limit; end lines with a line feed"
            );
        }
    }

    fn stderr_bytes(&self, _shard_id: &str, bytes: &[u8]) {
        let _ = std::io::stderr().lock().write_all(bytes);
    }
}
