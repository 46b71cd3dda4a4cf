//! What the application's state can fail with.

use lease_store::{Error, ErrorKind};

/// What the application's state can fail with. Whatever it is, the shard does not go on without its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateErrorKind {
    /// A snapshot is damaged: cut short, changed, or not one.
    Corrupt,
    /// A snapshot was written by another version of the format, or for another schema.
    OtherVersion,
    /// A snapshot belongs to another application, stream or shard, or to a stream of the same name that was deleted and
    /// created again.
    OtherStream,
    /// The newest snapshot is older than the position of the shard: the records between would be missing.
    Behind,
    /// There is no snapshot where there must be one.
    Missing,
    /// A snapshot is larger than it may be.
    TooLarge,
    /// The store does not allow the call.
    Denied,
    /// The store could not be reached, failed, or took too long.
    Unavailable,
    /// A setting, a value or a request is not what it must be.
    Invalid,
}

impl ErrorKind for StateErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// An error of the application's state.
pub type StateError = Error<StateErrorKind>;

pub(super) fn store_error(doing: &str, error: object_store::Error) -> StateError {
    use object_store::Error as Cause;
    let kind = match &error {
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => StateErrorKind::Denied,
        _ => StateErrorKind::Unavailable,
    };
    StateError::new(kind, format!("{doing}: {error}")).with_source(error)
}
