//! A started child with its session, from the start of its process to its exit.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::launch::{ChildLauncher, ChildProcess};
use super::output::ChildOutput;
use crate::conversation::handler::CheckpointHandler;
use crate::conversation::reader::{MAX_UNREAD_MESSAGES, read_messages};
use crate::conversation::session::{Session, SessionLimits};
use crate::error::{MultilangError, MultilangErrorKind};
use crate::protocol::ChildRecord;

/// How long a failed child may take to exit by itself, so that the error can name its exit status.
const EXIT_STATUS_WAIT: Duration = Duration::from_secs(1);

/// How long a child may take to exit after a signal to terminate.
const TERMINATION_WAIT: Duration = Duration::from_secs(5);

/// The time limits of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildLimits {
    /// The limits of the conversation.
    pub session: SessionLimits,
    /// How long a child may take to exit after its input was closed; 30 s by default. Java waits without an end.
    pub exit_time: Duration,
}

impl Default for ChildLimits {
    fn default() -> Self {
        Self { session: SessionLimits::default(), exit_time: Duration::from_secs(30) }
    }
}

/// A started child.
#[derive(Debug)]
pub struct RunningChild {
    session: Session<Box<dyn AsyncWrite + Send + Unpin>>,
    process: Box<dyn ChildProcess>,
    exit_time: Duration,
}

impl RunningChild {
    /// Starts a child. Output that is no message goes to `sink`.
    ///
    /// # Errors
    /// `ChildNotStarted` when the executable is missing or cannot be started.
    pub fn start(
        launcher: &dyn ChildLauncher,
        shard_id: &str,
        limits: ChildLimits,
        sink: Arc<dyn ChildOutput>,
    ) -> Result<Self, MultilangError> {
        let shard_id: Arc<str> = shard_id.into();
        let launched = launcher.launch(&shard_id)?;
        let (sender, messages) = mpsc::channel(MAX_UNREAD_MESSAGES);
        // It ends with the output of the child, which `stop` or the drop of the process ends.
        tokio::spawn(read_messages(launched.output, shard_id.clone(), sender, sink));
        let session = Session::new(&*shard_id, launched.input, messages, limits.session);
        Ok(Self { session, process: launched.process, exit_time: limits.exit_time })
    }

    /// Sends `initialize`; see [`Session::initialize`].
    ///
    /// # Errors
    /// Each failure of the conversation, with the exit status if the child has exited.
    pub async fn initialize(&mut self, position: Option<(&str, u64)>) -> Result<(), MultilangError> {
        let done = self.session.initialize(position).await;
        self.with_exit(done).await
    }

    /// Sends a batch; see [`Session::process_records`].
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn process_records<'a>(
        &mut self,
        records: impl IntoIterator<Item = ChildRecord<'a>, IntoIter: Clone>,
        millis_behind_latest: Option<u64>,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        let done = self.session.process_records(records, millis_behind_latest, checkpoints).await;
        self.with_exit(done).await
    }

    /// Sends `shardEnded`; see [`Session::shard_ended`].
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn shard_ended(
        &mut self,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        let done = self.session.shard_ended(checkpoints).await;
        self.with_exit(done).await
    }

    /// Sends `shutdownRequested`; see [`Session::shutdown_requested`].
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn shutdown_requested(
        &mut self,
        checkpoints: &mut dyn CheckpointHandler,
    ) -> Result<(), MultilangError> {
        let done = self.session.shutdown_requested(checkpoints).await;
        self.with_exit(done).await
    }

    /// Sends `leaseLost`; see [`Session::lease_lost`].
    ///
    /// # Errors
    /// As for [`initialize`](Self::initialize).
    pub async fn lease_lost(&mut self) -> Result<(), MultilangError> {
        let done = self.session.lease_lost().await;
        self.with_exit(done).await
    }

    /// Waits, between two actions, until the child fails, and returns the failure. Safe to cancel.
    pub async fn failed(&mut self) -> MultilangError {
        let error = self.session.failed().await;
        self.named_exit(error).await
    }

    /// The failure of a child that answered `shardEnded` without a checkpoint.
    pub fn end_not_checkpointed(&mut self) -> MultilangError {
        self.session.conversation_mut().end_not_checkpointed()
    }

    /// Closes the child's input and waits until it has exited: first by itself, then after a signal, then by force. Returns
    /// how it exited.
    pub async fn stop(self) -> String {
        let Self { session, mut process, exit_time } = self;
        let shard = session.conversation().shard_id().to_owned();
        session.close().await;
        if let Ok(exit) = timeout(exit_time, process.exited()).await {
            return exit;
        }
        tracing::warn!(shard, waited = ?exit_time, "child does not exit after its input was closed, terminating it");
        process.terminate();
        if let Ok(exit) = timeout(TERMINATION_WAIT, process.exited()).await {
            return exit;
        }
        process.kill();
        process.exited().await
    }

    /// Ends the child at once.
    pub async fn kill(mut self) {
        self.process.kill();
        self.process.exited().await;
    }

    async fn with_exit(&mut self, done: Result<(), MultilangError>) -> Result<(), MultilangError> {
        match done {
            Ok(()) => Ok(()),
            Err(error) => Err(self.named_exit(error).await),
        }
    }

    /// Adds the exit status to the failure of a child that closed a pipe.
    async fn named_exit(&mut self, error: MultilangError) -> MultilangError {
        if error.kind() != MultilangErrorKind::ChildExited {
            return error;
        }
        match timeout(EXIT_STATUS_WAIT, self.process.exited()).await {
            Ok(exit) => MultilangError::new(error.kind(), format!("{error} ({exit})")).with_source(error),
            Err(_) => error,
        }
    }
}
