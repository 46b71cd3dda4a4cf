//! The errors of a receiver.

use lease_store::{Error, ErrorKind, StoreError, StoreErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// The reason of a [`ReceiverError`]. After the start only `WrongStream` ends a receiver. Other failures are retried, and
/// reported in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiverErrorKind {
    /// A setting or a component is missing or invalid. The message lists all faults.
    InvalidSettings,
    /// The stream does not exist.
    StreamNotFound,
    /// The lease table belongs to another stream, or to one of the same name that was deleted and created again.
    WrongStream,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The lease store has another layout, or an answer cannot be interpreted.
    Invalid,
    /// The stream or the lease store throttled the requests of the start until `start_timeout` was over.
    Throttled,
    /// The stream or the lease store could not be reached until `start_timeout` was over.
    Unavailable,
}

impl ErrorKind for ReceiverErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a receiver.
pub type ReceiverError = Error<ReceiverErrorKind>;

pub(crate) fn store_error(doing: &str, error: StoreError) -> ReceiverError {
    let kind = match error.kind() {
        StoreErrorKind::Throttled => ReceiverErrorKind::Throttled,
        StoreErrorKind::Denied => ReceiverErrorKind::Denied,
        StoreErrorKind::Unavailable => ReceiverErrorKind::Unavailable,
        _ => ReceiverErrorKind::Invalid,
    };
    ReceiverError::new(kind, format!("{doing}: {error}")).caused_by(error)
}

pub(crate) fn source_error(doing: &str, error: SourceError) -> ReceiverError {
    let kind = match error.kind() {
        SourceErrorKind::StreamNotFound => ReceiverErrorKind::StreamNotFound,
        SourceErrorKind::Throttled => ReceiverErrorKind::Throttled,
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => ReceiverErrorKind::Denied,
        SourceErrorKind::Unavailable => ReceiverErrorKind::Unavailable,
        _ => ReceiverErrorKind::Invalid,
    };
    ReceiverError::new(kind, format!("{doing}: {error}")).caused_by(error)
}
