//! A checkpoint request of a child, and the words that tell it why a checkpoint failed.

use std::fmt;

/// The position that a child wants to checkpoint, as it sent it. The answer repeats both fields unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointRequest {
    /// The sequence number. `None`: the newest position that the child was given.
    pub sequence_number: Option<String>,
    /// The index inside an aggregate. `None`: 0.
    pub sub_sequence_number: Option<i64>,
}

impl fmt::Display for CheckpointRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sequence_number, self.sub_sequence_number) {
            (None, _) => formatter.write_str("the newest position"),
            (Some(number), None) => formatter.write_str(number),
            (Some(number), Some(sub)) => write!(formatter, "{number}/{sub}"),
        }
    }
}

/// Why a checkpoint failed. Its word is the simple name of the Java exception, because applications compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// Another worker owns the lease.
    Shutdown,
    /// The lease table throttled the write.
    Throttling,
    /// The action has no checkpointer, or the lease table is missing.
    InvalidState,
    /// The lease table could not be reached or failed.
    Dependency,
    /// The position is malformed or outside the delivered range.
    IllegalArgument,
}

impl CheckpointFault {
    /// The word in the answer.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shutdown => "ShutdownException",
            Self::Throttling => "ThrottlingException",
            Self::InvalidState => "InvalidStateException",
            Self::Dependency => "KinesisClientLibDependencyException",
            Self::IllegalArgument => "IllegalArgumentException",
        }
    }
}

impl fmt::Display for CheckpointFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}
