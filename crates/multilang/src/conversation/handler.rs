//! Who executes the checkpoints of a child.

use async_trait::async_trait;

use crate::protocol::checkpoint::{CheckpointFault, CheckpointRequest};

/// Executes the checkpoints that a child requests during an action.
#[async_trait]
pub trait CheckpointHandler: Send {
    /// Executes one checkpoint. The child waits for the result.
    ///
    /// # Errors
    /// The fault is sent to the child, which decides what follows; the conversation continues.
    async fn checkpoint(&mut self, request: &CheckpointRequest) -> Result<(), CheckpointFault>;
}

/// Refuses every checkpoint with [`CheckpointFault::InvalidState`].
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCheckpoints;

#[async_trait]
impl CheckpointHandler for NoCheckpoints {
    async fn checkpoint(&mut self, _request: &CheckpointRequest) -> Result<(), CheckpointFault> {
        Err(CheckpointFault::InvalidState)
    }
}
