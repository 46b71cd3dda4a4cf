//! The errors of a child and of its configuration.

use lease_store::{Error, ErrorKind};

/// The reason of a [`MultilangError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultilangErrorKind {
    /// The command line is invalid.
    InvalidArguments,
    /// The properties file is malformed, or a value of it cannot be used.
    InvalidProperties,
    /// The executable of the child is missing or cannot be started.
    ChildNotStarted,
    /// The child exited or closed a pipe before it had answered.
    ChildExited,
    /// The child answered an action other than the one it was asked for.
    WrongStatus,
    /// The child did not answer within the time limit.
    TimedOut,
    /// The child sends messages without reading its input.
    TooManyMessages,
    /// The child answered the end of its shard without a checkpoint at the end.
    EndNotCheckpointed,
    /// The caller sent actions in an order that the protocol does not allow, or dropped a call before it was written.
    OutOfOrder,
}

impl ErrorKind for MultilangErrorKind {
    /// Whether a new child may succeed.
    fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::ChildExited
                | Self::WrongStatus
                | Self::TimedOut
                | Self::TooManyMessages
                | Self::EndNotCheckpointed
                | Self::OutOfOrder
        )
    }
}

/// An error of a child or of its configuration.
pub type MultilangError = Error<MultilangErrorKind>;
