//! The errors of a receiver.

use lease_store::{CredentialFault, Error, ErrorKind, ServiceCause, StoreError, StoreErrorKind};
use shard_worker::{SourceError, SourceErrorKind};

/// The reason of a [`ConsumerError`]. After the start only `WrongStream` and `WrongApplication` end a receiver. Other failures are retried, and
/// reported in the status.
///
/// ```
/// use lease_store::ErrorKind;
/// use receiver::ConsumerErrorKind;
///
/// assert!(ConsumerErrorKind::Unavailable.is_retryable());
/// assert!(!ConsumerErrorKind::WrongStream.is_retryable(), "the table belongs to another stream");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerErrorKind {
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
    /// The consumer was stopped or has ended, so it takes no more streams.
    Stopped,
}

impl ErrorKind for ConsumerErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a receiver.
///
/// ```
/// use receiver::{Consumer, ConsumerErrorKind};
///
/// let error = Consumer::builder().build().expect_err("nothing is set");
/// assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
/// println!("{error}"); // names each fault
/// ```
pub type ConsumerError = Error<ConsumerErrorKind>;

/// Whether a start may succeed later without a change of its settings. Expired credentials count too: the metadata service of an
/// instance may return them for 15 minutes before it has new ones, and the session of a person is used once it is renewed.
pub(crate) fn is_cured_by_waiting(error: &ConsumerError) -> bool {
    let fault = error.service_cause().and_then(ServiceCause::credential_fault);
    error.is_retryable() || fault == Some(CredentialFault::Expired)
}

pub(crate) fn store_error(doing: &str, error: StoreError) -> ConsumerError {
    let kind = match error.kind() {
        StoreErrorKind::Throttled => ConsumerErrorKind::Throttled,
        StoreErrorKind::Denied => ConsumerErrorKind::Denied,
        StoreErrorKind::Unavailable => ConsumerErrorKind::Unavailable,
        _ => ConsumerErrorKind::Invalid,
    };
    ConsumerError::new(kind, format!("{doing}: {error}")).caused_by(error)
}

pub(crate) fn source_error(doing: &str, error: SourceError) -> ConsumerError {
    let kind = match error.kind() {
        SourceErrorKind::StreamNotFound => ConsumerErrorKind::StreamNotFound,
        SourceErrorKind::Throttled => ConsumerErrorKind::Throttled,
        SourceErrorKind::Denied | SourceErrorKind::KeyUnavailable => ConsumerErrorKind::Denied,
        SourceErrorKind::Unavailable => ConsumerErrorKind::Unavailable,
        _ => ConsumerErrorKind::Invalid,
    };
    ConsumerError::new(kind, format!("{doing}: {error}")).caused_by(error)
}
