//! The errors of a receiver.

use lease_store::{CredentialFault, Error, ErrorKind, ServiceCause, StoreError, StoreErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// The reason of a [`ReceiverError`]. After the start only `WrongStream` and `WrongApplication` end a receiver. Other failures are retried, and
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
    /// The lease table belongs to another application.
    WrongApplication,
    /// Credentials are missing, do not allow the call, or were expired until `start_timeout` was over.
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

/// Whether a start may succeed later without a change of its settings. Expired credentials count too: the metadata service of an
/// instance may return them for 15 minutes before it has new ones, and the session of a person is used once it is renewed.
pub(crate) fn is_cured_by_waiting(error: &ReceiverError) -> bool {
    let fault = error.service_cause().and_then(ServiceCause::credential_fault);
    error.is_retryable() || fault == Some(CredentialFault::Expired)
}

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
