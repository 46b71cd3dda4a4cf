//! The error type of all crates: a comparable kind, a message for people, and the source.

use std::fmt;

use crate::service_cause::ServiceCause;

/// A boxed error of any origin, as a source or from application code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Implemented by the error kinds of each crate.
pub trait ErrorKind: fmt::Debug + Copy + Eq + Send + Sync + 'static {
    /// Whether the same call may succeed when it is made again later.
    fn is_retryable(self) -> bool;
}

/// An error with a kind: callers match on [`kind`](Error::kind), people read the message.
///
/// The message names the failure, the value and the remedy; the source keeps the cause.
#[derive(Debug)]
pub struct Error<K> {
    kind: K,
    message: String,
    source: Option<BoxError>,
}

impl<K: ErrorKind> Error<K> {
    /// An error of this kind with a message for people.
    pub fn new(kind: K, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind, for callers to match on.
    pub fn kind(&self) -> K {
        self.kind
    }

    /// Whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// What the service answered, if a call to a service is the cause: its code, the ids of the request, and whether the
    /// credentials were at fault.
    pub fn service_cause(&self) -> Option<&ServiceCause> {
        let first = std::error::Error::source(self);
        std::iter::successors(first, |&error| error.source()).find_map(|cause| cause.downcast_ref())
    }
}

impl<K: ErrorKind> fmt::Display for Error<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl<K: ErrorKind> std::error::Error for Error<K> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// The kinds of failure of a lease store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// This holder no longer owns the lease and can never write it again.
    Fenced,
    /// Another worker changed the row first; the caller may read it and decide again.
    Conflict,
    /// The store throttled the call; nothing was written.
    Throttled,
    /// The store could not be reached or failed. A write that may have been applied all the same is reported as
    /// [`WriteOutcome::Unknown`](crate::WriteOutcome::Unknown).
    Unavailable,
    /// The credentials are missing or do not allow the call.
    Denied,
    /// The table does not exist.
    NotFound,
    /// A value, a row, a request or a table layout is invalid.
    Invalid,
}

impl ErrorKind for StoreErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a lease store or of one of its values.
pub type StoreError = Error<StoreErrorKind>;

impl StoreError {
    /// An error of kind [`StoreErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Invalid, message)
    }
}
