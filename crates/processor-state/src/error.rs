//! Errors of the application's state.

use lease_store::{Error, ErrorKind};

/// The kinds of errors of the application's state. A shard never proceeds without its state.
///
/// ```
/// use lease_store::ErrorKind;
/// use processor_state::StateErrorKind;
///
/// assert!(StateErrorKind::Unavailable.is_retryable());
/// assert!(!StateErrorKind::Corrupt.is_retryable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateErrorKind {
    /// A snapshot is damaged: truncated, changed, or not a snapshot.
    Corrupt,
    /// A snapshot has another format version or another schema.
    OtherVersion,
    /// A snapshot belongs to another application, stream or shard, or to a stream of the same name that was deleted and
    /// created again.
    OtherStream,
    /// The newest snapshot is older than the position of the shard: records in between would be missing.
    Behind,
    /// A required snapshot does not exist.
    Missing,
    /// A snapshot exceeds the size limit.
    TooLarge,
    /// The store denies the call.
    Denied,
    /// The store is unreachable, failed, or took too long.
    Unavailable,
    /// A setting, a value or a request is invalid.
    Invalid,
}

impl ErrorKind for StateErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// An error of the application's state.
///
/// ```
/// use std::time::Duration;
/// use processor_state::{SlidingWindow, StateErrorKind};
///
/// let error = SlidingWindow::new(Duration::ZERO, Duration::ZERO).expect_err("a window has a length");
/// assert_eq!(error.kind(), StateErrorKind::Invalid);
/// ```
pub type StateError = Error<StateErrorKind>;
