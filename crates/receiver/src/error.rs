//! What a fleet member can fail with.

use lease_store::{Error, ErrorKind, StoreError, StoreErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// What a fleet member can fail with. Only its start can fail; later failures are retried, and seen in its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiverErrorKind {
    /// A setting or a part is missing, or contradicts another. The message lists all faults.
    InvalidSettings,
    /// There is no such stream.
    StreamNotFound,
    /// The lease table belongs to another stream, or to one of the same name that was deleted and created again.
    WrongStream,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The lease store holds something of another layout, or a row that cannot be read.
    Invalid,
    /// The stream or the lease store asked to slow down, more often than the start was willing to wait.
    Throttled,
    /// The stream or the lease store could not be reached.
    Unavailable,
}

impl ErrorKind for ReceiverErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a fleet member.
pub type ReceiverError = Error<ReceiverErrorKind>;

pub(crate) fn store_error(doing: &str, error: StoreError) -> ReceiverError {
    let kind = match error.kind() {
        StoreErrorKind::Throttled => ReceiverErrorKind::Throttled,
        StoreErrorKind::Denied => ReceiverErrorKind::Denied,
        StoreErrorKind::Unavailable => ReceiverErrorKind::Unavailable,
        _ => ReceiverErrorKind::Invalid,
    };
    ReceiverError::new(kind, format!("{doing}: {error}")).with_source(error)
}

pub(crate) fn source_error(doing: &str, error: SourceError) -> ReceiverError {
    let kind = match error.kind() {
        SourceErrorKind::StreamNotFound => ReceiverErrorKind::StreamNotFound,
        SourceErrorKind::Throttled => ReceiverErrorKind::Throttled,
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => ReceiverErrorKind::Denied,
        SourceErrorKind::Unavailable => ReceiverErrorKind::Unavailable,
        _ => ReceiverErrorKind::Invalid,
    };
    ReceiverError::new(kind, format!("{doing}: {error}")).with_source(error)
}
