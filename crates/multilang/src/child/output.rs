//! Where the output of a child goes that is no message.

use std::{fmt, io};

use async_trait::async_trait;

use super::stream_writer::StreamWriter;

/// The most bytes of a line that are copied into a log message.
const MAX_LOGGED_BYTES: usize = 4096;

/// Receives the output of children that is no message. A call that waits holds up the child alone.
#[async_trait]
pub trait ChildOutput: fmt::Debug + Send + Sync + 'static {
    /// A line of the standard output, without its end; `dropped_bytes` were cut from its end.
    async fn stdout_line(&self, shard_id: &str, line: &[u8], dropped_bytes: u64);

    /// Bytes of the standard error: whole lines, or a part of one that was not continued for a while.
    async fn stderr_bytes(&self, shard_id: &str, bytes: &[u8]);
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

/// Passes the output on to the streams of this process. While the reader of one of them makes no progress, the children that write to it wait; no
/// other task does.
#[derive(Debug, Clone)]
pub struct StreamOutput {
    mode: StdoutMode,
    stdout: StreamWriter,
    stderr: StreamWriter,
}

impl StreamOutput {
    /// Passes the standard error on, and treats the standard output as `mode` says. Starts a thread for each stream.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(mode: StdoutMode) -> io::Result<Self> {
        Ok(Self {
            mode,
            stdout: StreamWriter::start("child-stdout", io::stdout())?,
            stderr: StreamWriter::start("child-stderr", io::stderr())?,
        })
    }

    /// Waits until all output so far is written: without an end while their reader makes no progress.
    pub async fn flush(&self) {
        self.stdout.flush().await;
        self.stderr.flush().await;
    }
}

#[async_trait]
impl ChildOutput for StreamOutput {
    async fn stdout_line(&self, shard_id: &str, line: &[u8], dropped_bytes: u64) {
        match self.mode {
            StdoutMode::PassThrough => self.stdout.write([line, b"\n"].concat()).await,
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

    async fn stderr_bytes(&self, _shard_id: &str, bytes: &[u8]) {
        self.stderr.write(bytes.to_vec()).await;
    }
}
