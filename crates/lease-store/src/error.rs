//! The error type of all crates: a comparable kind, a message for people, and the source.

use std::fmt;

use crate::service_cause::ServiceCause;

/// A boxed error of any origin, as a source or from application code.
///
/// ```
/// use lease_store::BoxError;
///
/// fn amount(text: &str) -> Result<u64, BoxError> {
///     Ok(text.trim().parse()?)
/// }
/// assert!(amount("12").is_ok() && amount("twelve").is_err());
/// ```
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Implemented by the error kinds of each crate.
pub trait ErrorKind: fmt::Debug + Copy + Eq + Send + Sync + 'static {
    /// Whether the same call may succeed when it is made again later.
    fn is_retryable(self) -> bool;
}

/// An error with a kind: callers match on [`kind`](Error::kind), people read the message.
///
/// The message names the failure, the value and the remedy; the source keeps the cause. A cause whose text is in the message
/// already is left out of the chain of sources, so that a report of the whole chain says everything once. `Debug` is such a
/// report: `fn main() -> Result<(), BoxError>` prints it.
pub struct Error<K> {
    kind: K,
    message: String,
    source: Option<BoxError>,
    service_cause: Option<Box<ServiceCause>>,
}

/// The most causes that a report of an error follows.
pub(crate) const MAX_CAUSES: usize = 16;

impl<K: ErrorKind> Error<K> {
    /// An error of this kind with a message for people.
    pub fn new(kind: K, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, service_cause: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        self.service_cause = source.downcast_ref::<ServiceCause>().cloned().map(Box::new);
        self.source = Some(source);
        self
    }

    /// The same error, caused by another error of these crates: [`service_cause`](Self::service_cause) is the cause's too.
    #[must_use]
    pub fn caused_by<J: ErrorKind>(mut self, mut cause: Error<J>) -> Self {
        let service_cause =
            cause.service_cause.take().or_else(|| cause.service_cause().cloned().map(Box::new));
        cause.service_cause.clone_from(&service_cause);
        self.service_cause = service_cause;
        self.source = Some(cause.into());
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
        self.service_cause.as_deref().or_else(|| {
            let first = std::error::Error::source(self);
            std::iter::successors(first, |&error| error.source()).find_map(|cause| cause.downcast_ref())
        })
    }
}

impl<K: ErrorKind> fmt::Display for Error<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl<K: ErrorKind> std::error::Error for Error<K> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let first = self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static));
        std::iter::successors(first, |&cause| cause.source())
            .take(MAX_CAUSES)
            .find(|cause| !self.message.contains(&cause.to_string()))
    }
}

/// The kind, the message, and each cause on a line of its own.
impl<K: ErrorKind> fmt::Debug for Error<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.kind, self.message)?;
        let first = std::error::Error::source(self);
        for cause in std::iter::successors(first, |&cause| cause.source()).take(MAX_CAUSES) {
            write!(formatter, "\ncaused by: {cause}")?;
        }
        Ok(())
    }
}

/// The kinds of failure of a lease store.
///
/// ```
/// use lease_store::{ErrorKind, StoreErrorKind};
///
/// assert!(StoreErrorKind::Throttled.is_retryable());
/// assert!(!StoreErrorKind::Fenced.is_retryable(), "another worker owns the lease");
/// ```
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
///
/// ```
/// use lease_store::{StoreErrorKind, WorkerId};
///
/// let error = WorkerId::new("").expect_err("an empty id is refused");
/// assert_eq!(error.kind(), StoreErrorKind::Invalid);
/// assert!(!error.is_retryable());
/// ```
pub type StoreError = Error<StoreErrorKind>;

impl StoreError {
    /// An error of kind [`StoreErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Invalid, message)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn message_never_repeats_its_source() {
        let service = ServiceCause::new("slow down").with_answer(400, Some("ThrottlingException"));
        let inner = StoreError::new(StoreErrorKind::Throttled, "reading the lease failed: slow down");
        let inner = inner.with_source(service.clone());
        assert!(inner.source().is_none(), "the message has the text of the service");
        assert_eq!(inner.service_cause(), Some(&service));
        let outer = StoreError::new(StoreErrorKind::Throttled, format!("the start failed: {inner}"));
        let outer = outer.caused_by(inner);
        assert!(outer.source().is_none());
        assert_eq!(outer.service_cause(), Some(&service), "the answer of the service is kept");
        let untold = StoreError::invalid("the row is malformed").caused_by(outer);
        assert_eq!(
            untold.source().unwrap().to_string(),
            "the start failed: reading the lease failed: slow down"
        );
        assert_eq!(untold.service_cause(), Some(&service));
    }

    #[test]
    fn debug_is_a_short_report_for_main() {
        let cause = std::io::Error::other("the disk is full");
        let error = StoreError::invalid("the row is malformed").with_source(cause);
        assert_eq!(format!("{error:?}"), "Invalid: the row is malformed\ncaused by: the disk is full");
        let boxed: BoxError = StoreError::invalid("only this").into();
        assert_eq!(format!("{boxed:?}"), "Invalid: only this");
    }
}
