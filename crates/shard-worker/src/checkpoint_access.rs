//! How the context of a shard reaches its checkpointer.

use std::fmt;

use checkpointer::Flusher;

/// Writes the checkpoints of a shard; part of its context.
#[derive(Clone, Default)]
pub(crate) struct ExplicitCheckpoints {
    /// `None` in a context that no worker made, in a test for example.
    pub(crate) flusher: Option<Flusher>,
}

impl ExplicitCheckpoints {
    pub(crate) fn through(flusher: Flusher) -> Self {
        Self { flusher: Some(flusher) }
    }
}

impl fmt::Debug for ExplicitCheckpoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ExplicitCheckpoints").finish_non_exhaustive()
    }
}
