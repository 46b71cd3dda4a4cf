//! Reads the output of a child from its start to its end, so that the pipe never fills up.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::child::output::ChildOutput;
use crate::protocol::incoming::{FromChild, parse_line};
use crate::protocol::lines::LineSplitter;

/// The most messages of a child between the reader and the session. A well-behaved child sends one at a time.
pub const MAX_UNREAD_MESSAGES: usize = 64;

/// The bytes of one read.
const READ_BYTES: usize = 8 * 1024;

/// What a line of the child is, beside a blank one.
enum Found {
    Message(FromChild),
    /// No message, without the bytes that were dropped from its end.
    Other(Vec<u8>, u64),
}

/// Reads until the child closes its output. Messages go to the session, all other lines to `sink`.
///
/// Once the session is gone, messages are dropped and the reading continues: a child that still writes must not block on
/// its pipe while it is about to exit.
pub async fn read_messages<R>(
    mut output: R,
    shard_id: Arc<str>,
    messages: mpsc::Sender<FromChild>,
    sink: Arc<dyn ChildOutput>,
) where
    R: AsyncRead + Send + Unpin,
{
    let mut splitter = LineSplitter::default();
    let mut bytes = vec![0; READ_BYTES];
    let mut found = Vec::new();
    loop {
        let length = match output.read(&mut bytes).await {
            Ok(length) => length,
            Err(error) => {
                tracing::warn!(shard = %shard_id, %error, "standard output of the child cannot be read");
                0
            }
        };
        let mut each = |line: &[u8], dropped_bytes: u64| match parse_line(line) {
            FromChild::Blank => {}
            FromChild::Noise | FromChild::OtherAction => {
                found.push(Found::Other(line.to_vec(), dropped_bytes));
            }
            message => found.push(Found::Message(message)),
        };
        match length {
            0 => splitter.finish(&mut each),
            length => splitter.push(&bytes[..length], &mut each),
        }
        for found in found.drain(..) {
            match found {
                // An error means that the session is gone.
                Found::Message(message) => drop(messages.send(message).await),
                Found::Other(line, dropped_bytes) => sink.stdout_line(&shard_id, &line, dropped_bytes).await,
            }
        }
        if length == 0 {
            return;
        }
    }
}
