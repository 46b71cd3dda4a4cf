//! The errors of a stream and its shards.

use lease_store::{Error, ErrorKind};

/// Why a call to a stream failed.
///
/// ```
/// use lease_store::ErrorKind;
/// use shard_worker::SourceErrorKind;
///
/// assert!(SourceErrorKind::Throttled.is_retryable());
/// assert!(!SourceErrorKind::StreamNotFound.is_retryable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The stream throttled the call.
    Throttled,
    /// The stream could not be reached, or failed.
    Unavailable,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The encryption key of the stream cannot be used: it is disabled or deleted, or these credentials do not allow its
    /// use.
    KeyUnavailable,
    /// There is no such stream.
    StreamNotFound,
    /// The stream has no such shard, or no longer has it.
    ShardNotFound,
    /// The stream removed unread records, and the policy is to stop reading the shard.
    DataLost,
    /// A request or an answer is not valid.
    Invalid,
}

impl ErrorKind for SourceErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a stream or of one of its shards.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::{InMemoryStream, SourceErrorKind};
///
/// let stream = InMemoryStream::new("orders", NonZeroUsize::MIN);
/// let error = stream.split(&"shardId-000000000009".parse()?).expect_err("there is one shard");
/// assert_eq!(error.kind(), SourceErrorKind::ShardNotFound);
/// # Ok::<(), lease_store::StoreError>(())
/// ```
pub type SourceError = Error<SourceErrorKind>;
