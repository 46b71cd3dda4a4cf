//! The contract of starting a child, so that tests need no process.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::MultilangError;

/// Starts children.
pub trait ChildLauncher: fmt::Debug + Send + Sync + 'static {
    /// Starts the child of one shard.
    ///
    /// # Errors
    /// `ChildNotStarted` when the executable is missing or cannot be started.
    fn launch(&self, shard_id: &Arc<str>) -> Result<LaunchedChild, MultilangError>;
}

/// A started child: its pipes and its process.
pub struct LaunchedChild {
    /// The writer to its standard input.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// The reader of its standard output.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// Its process.
    pub process: Box<dyn ChildProcess>,
}

impl fmt::Debug for LaunchedChild {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LaunchedChild").field("process", &self.process).finish_non_exhaustive()
    }
}

/// The process of a child. Dropping it kills the child.
#[async_trait]
pub trait ChildProcess: fmt::Debug + Send + 'static {
    /// Waits until the child has exited, and describes how: `exit status 3`. Safe to cancel.
    async fn exited(&mut self) -> String;

    /// Asks the child and the processes that it started to exit.
    fn terminate(&mut self);

    /// Ends the child and the processes that it started at once.
    fn kill(&mut self);
}
