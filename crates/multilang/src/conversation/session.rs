//! Drives a conversation over the pipes of a child: writes actions, waits for the answers, within time limits.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::action::Action;
use super::handler::{CheckpointHandler, NoCheckpoints};
use super::state::{Conversation, Reaction};
use crate::error::MultilangError;
use crate::protocol::incoming::FromChild;
use crate::protocol::outgoing::{ChildRecord, ToChild, write_process_records};

/// The most messages that wait while a line is written or between two actions. A child that sends more does not read.
pub const MAX_PENDING_MESSAGES: usize = 1024;

/// A line buffer above this many bytes is freed after the line was written, because each of hundreds of children has one.
const KEPT_LINE_BYTES: usize = 64 * 1024;

/// The time limits of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimits {
    /// How long the child may take to read a line, and then until each of its messages (`timeoutInSeconds`). A checkpoint
    /// starts the time anew, other output does not. `None`: without an end.
    pub answer_time: Option<Duration>,
}

impl SessionLimits {
    /// Limits with this time for each answer.
    pub fn new(answer_time: Option<Duration>) -> Self {
        Self { answer_time }
    }
}

/// The conversation with one child, over a writer to its input and the messages that
/// [`read_messages`](super::read_messages) found in its output.
///
/// While a line is written, messages of the child are read, so neither side can block on full pipes. A call that is dropped
/// while it writes leaves half a line behind; every later call fails with `OutOfOrder`. Run the session in a task of its own
/// when its caller may be cancelled.
pub struct Session<W> {
    conversation: Conversation,
    input: W,
    messages: mpsc::Receiver<FromChild>,
    /// Messages that arrived while no action waited for them.
    pending: VecDeque<FromChild>,
    line: Vec<u8>,
    limits: SessionLimits,
    is_mid_line: bool,
}

impl<W: AsyncWrite + Send + Unpin> Session<W> {
    /// A session that has not started.
    pub fn new(
        shard_id: impl Into<String>,
        input: W,
        messages: mpsc::Receiver<FromChild>,
        limits: SessionLimits,
    ) -> Self {
        Self {
            conversation: Conversation::new(shard_id),
            input,
            messages,
            pending: VecDeque::new(),
            line: Vec::new(),
            limits,
            is_mid_line: false,
        }
    }

    /// The state of the conversation.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// The state of the conversation, to turn what happened outside into an error.
    pub fn conversation_mut(&mut self) -> &mut Conversation {
        &mut self.conversation
    }

    /// Sends `initialize` with the position where the shard starts.
    ///
    /// # Errors
    /// Each failure of the conversation; the session is of no use afterwards.
    pub async fn initialize(&mut self, position: Option<(&str, u64)>) -> Result<(), MultilangError> {
        self.begin(Action::Initialize)?;
        let shard_id = self.conversation.shard_id();
        ToChild::Initialize { shard_id, position }.write(&mut self.line);
        self.finish(&mut NoCheckpoints).await
    }

    /// Sends a batch of records.
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn process_records<'a>(
        &mut self,
        records: impl IntoIterator<Item = ChildRecord<'a>, IntoIter: Clone>,
        millis_behind_latest: Option<u64>,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        self.begin(Action::ProcessRecords)?;
        write_process_records(&mut self.line, records, millis_behind_latest);
        self.finish(checkpoints).await
    }

    /// Sends `leaseLost`, the last action after a lost lease and at a stop.
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn lease_lost(&mut self) -> Result<(), MultilangError> {
        self.begin(Action::LeaseLost)?;
        ToChild::LeaseLost.write(&mut self.line);
        self.finish(&mut NoCheckpoints).await
    }

    /// Sends `shardEnded`, the last action at the end of a shard.
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn shard_ended(
        &mut self,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        self.begin(Action::ShardEnded)?;
        ToChild::ShardEnded.write(&mut self.line);
        self.finish(checkpoints).await
    }

    /// Sends `shutdownRequested`; only [`lease_lost`](Self::lease_lost) may follow.
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn shutdown_requested(
        &mut self,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        self.begin(Action::ShutdownRequested)?;
        ToChild::ShutdownRequested.write(&mut self.line);
        self.finish(checkpoints).await
    }

    /// Waits, between two actions, until the child closes its output or sends too many messages, and returns that failure.
    /// Safe to cancel.
    pub async fn failed(&mut self) -> MultilangError {
        while self.pending.len() < MAX_PENDING_MESSAGES {
            match self.messages.recv().await {
                Some(message) => self.pending.push_back(message),
                None => return self.conversation.closed(),
            }
        }
        self.conversation.flooded(MAX_PENDING_MESSAGES)
    }

    /// Closes the child's input, the only sign for it to exit. The rest of its output is read by the reader.
    pub async fn close(mut self) {
        // The child may have closed its side before.
        let _ = self.input.shutdown().await;
    }

    fn begin(&mut self, action: Action) -> Result<(), MultilangError> {
        if self.is_mid_line {
            return Err(self.conversation.interrupted());
        }
        self.line.clear();
        self.conversation.begin(action)
    }

    /// Writes the line, and reads messages until the action is done.
    async fn finish(&mut self, checkpoints: &mut dyn CheckpointHandler) -> Result<(), MultilangError> {
        self.send_line().await?;
        loop {
            let message = self.next_message().await?;
            let (request, error) = match self.conversation.hear(message)? {
                Reaction::Done => return Ok(()),
                Reaction::KeepReading => continue,
                Reaction::Checkpoint(request) => {
                    let error = checkpoints.checkpoint(&request).await.err();
                    (request, error)
                }
                Reaction::Refuse(request, fault) => (request, Some(fault)),
            };
            if let Some(fault) = error {
                let shard = self.conversation.shard_id();
                tracing::info!(shard, %request, %fault, "checkpoint of the child failed, the child decides what follows");
            }
            ToChild::Checkpoint { request: &request, error }.write(&mut self.line);
            self.send_line().await?;
        }
    }

    async fn next_message(&mut self) -> Result<FromChild, MultilangError> {
        if let Some(message) = self.pending.pop_front() {
            return Ok(message);
        }
        match within(self.limits.answer_time, self.messages.recv()).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.conversation.closed()),
            Err(limit) => Err(self.conversation.timed_out(limit)),
        }
    }

    /// Writes the line, and takes messages of the child meanwhile.
    async fn send_line(&mut self) -> Result<(), MultilangError> {
        self.is_mid_line = true;
        let Self { input, line, messages, pending, limits, .. } = self;
        let sent = {
            let writing = async {
                input.write_all(line).await?;
                input.flush().await
            };
            let writing = within(limits.answer_time, writing);
            tokio::pin!(writing);
            let mut is_open = true;
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break match written {
                        Ok(Ok(())) => Sent::Written,
                        Ok(Err(error)) => Sent::Failed(error),
                        Err(limit) => Sent::TimedOut(limit),
                    },
                    message = messages.recv(), if is_open => match message {
                        Some(_) if pending.len() >= MAX_PENDING_MESSAGES => break Sent::Flooded,
                        Some(message) => pending.push_back(message),
                        // The write fails by itself unless a process of the child still holds the pipe.
                        None => is_open = false,
                    },
                }
            }
        };
        line.clear();
        if line.capacity() > KEPT_LINE_BYTES {
            *line = Vec::new();
        }
        match sent {
            Sent::Written => {
                self.is_mid_line = false;
                Ok(())
            }
            Sent::Failed(error) => Err(self.conversation.input_failed(error)),
            Sent::TimedOut(limit) => Err(self.conversation.timed_out(limit)),
            Sent::Flooded => Err(self.conversation.flooded(MAX_PENDING_MESSAGES)),
        }
    }
}

impl<W> fmt::Debug for Session<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("conversation", &self.conversation).finish_non_exhaustive()
    }
}

/// The result of writing a line.
enum Sent {
    Written,
    Failed(std::io::Error),
    TimedOut(Duration),
    Flooded,
}

/// The result of a future, or the time limit that it exceeded.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Result<F::Output, Duration> {
    match limit {
        Some(limit) => timeout(limit, future).await.map_err(|_| limit),
        None => Ok(future.await),
    }
}
