//! What writing a checkpoint can fail with.

use lease_store::{Error, ErrorKind, StoreError, StoreErrorKind};

/// What a checkpoint can fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointErrorKind {
    /// The lease belongs to another worker; nothing can be written any more.
    Fenced,
    /// The store asked to slow down, and the retries are used up.
    Throttled,
    /// The store could not be reached, and the retries are used up.
    Unavailable,
    /// Credentials are missing or do not allow the write.
    Denied,
    /// The position, the row or the table is not what it must be.
    Invalid,
    /// The checkpointer has stopped after an earlier error.
    Closed,
}

impl ErrorKind for CheckpointErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of the checkpointer.
pub type CheckpointError = Error<CheckpointErrorKind>;

/// What a failed write means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Wait a little and write again.
    Retry,
    /// Report it and write again when the next interval is over; people have to do something first.
    NextInterval,
    /// No write can ever succeed.
    Stop,
}

pub(crate) fn reaction_to(kind: StoreErrorKind) -> Reaction {
    match kind {
        StoreErrorKind::Throttled | StoreErrorKind::Unavailable => Reaction::Retry,
        StoreErrorKind::Fenced | StoreErrorKind::Conflict | StoreErrorKind::Invalid => Reaction::Stop,
        _ => Reaction::NextInterval,
    }
}

pub(crate) fn checkpoint_error(error: StoreError) -> CheckpointError {
    let kind = match error.kind() {
        StoreErrorKind::Fenced | StoreErrorKind::Conflict => CheckpointErrorKind::Fenced,
        StoreErrorKind::Throttled => CheckpointErrorKind::Throttled,
        StoreErrorKind::Denied => CheckpointErrorKind::Denied,
        StoreErrorKind::Invalid => CheckpointErrorKind::Invalid,
        _ => CheckpointErrorKind::Unavailable,
    };
    CheckpointError::new(kind, format!("checkpoint not written: {error}")).with_source(error)
}
