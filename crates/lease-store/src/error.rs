//! One error shape for all crates: a comparable kind, a message for people, and the source.

use std::fmt;

/// A boxed error of any origin, as a source or from application code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What a crate's error kinds can tell about themselves.
pub trait ErrorKind: fmt::Debug + Copy + Eq + Send + Sync + 'static {
    /// Whether the same call may succeed when it is made again later.
    fn is_retryable(self) -> bool;
}

/// An error by meaning: callers match on [`kind`](Error::kind), people read the message.
///
/// The message says what was wrong, with which value, and what to do; the source keeps the cause.
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

    /// What the error means.
    pub fn kind(&self) -> K {
        self.kind
    }

    /// Whether the same call may succeed when it is made again later.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
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

/// What a lease store can fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Another worker owns the lease now; this holder can write it no more.
    Fenced,
    /// Somebody else was first; the caller holds nothing and may look again.
    Conflict,
    /// The store asked to slow down; nothing was written.
    Throttled,
    /// The store could not be reached or failed; a write's outcome is then [`crate::WriteOutcome::Unknown`].
    Unavailable,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The table does not exist.
    NotFound,
    /// A value, a row, a request or a table layout is not what it must be.
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
    /// An [`StoreErrorKind::Invalid`] error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Invalid, message)
    }
}
