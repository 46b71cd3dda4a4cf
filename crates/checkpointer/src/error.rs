//! Errors of the checkpointer, and the reaction to each.

use lease_store::{Error, ErrorKind, StoreError, StoreErrorKind};

/// The kinds of failure of a checkpoint.
///
/// ```
/// use checkpointer::CheckpointErrorKind;
/// use lease_store::ErrorKind;
///
/// assert!(CheckpointErrorKind::Throttled.is_retryable());
/// assert!(!CheckpointErrorKind::Fenced.is_retryable(), "another worker owns the lease");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointErrorKind {
    /// The holder lost the lease; no further checkpoint can be written.
    Fenced,
    /// The store throttled the write, and the retries are exhausted.
    Throttled,
    /// The store could not be reached, and the retries are exhausted.
    Unavailable,
    /// The credentials are missing or do not allow the write.
    Denied,
    /// The position, the row or the table is invalid.
    Invalid,
    /// The checkpointer stopped after an earlier error.
    Closed,
}

impl ErrorKind for CheckpointErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of the checkpointer: a [kind](CheckpointErrorKind) to decide by, a message with the position or row that it is
/// about, and the error of the store as its source. `is_retryable` is true for `Throttled` and `Unavailable`.
///
/// ```
/// use checkpointer::{CheckpointError, CheckpointErrorKind};
///
/// /// Whether a processor should stop its work on the shard.
/// fn is_lost(error: &CheckpointError) -> bool {
///     error.kind() == CheckpointErrorKind::Fenced
/// }
/// assert!(is_lost(&CheckpointError::new(CheckpointErrorKind::Fenced, "worker-b owns the lease")));
/// ```
pub type CheckpointError = Error<CheckpointErrorKind>;

/// The reaction to a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Wait, then retry.
    Retry,
    /// Report the error, and write again at the next interval: an operator must act first.
    NextInterval,
    /// Stop, because no later write can succeed.
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
    CheckpointError::new(kind, format!("checkpoint not written: {error}")).caused_by(error)
}
