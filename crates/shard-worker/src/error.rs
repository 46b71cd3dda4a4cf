//! What reading a stream can fail with.

use lease_store::{Error, ErrorKind};

/// What reading a stream can fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The stream asked to slow down.
    Throttled,
    /// The stream could not be reached, or failed.
    Unavailable,
    /// Credentials are missing or do not allow the call.
    Denied,
    /// The key that the stream is encrypted with cannot be used: it is disabled or gone, or may not be used with these
    /// credentials.
    KeyUnavailable,
    /// There is no such stream.
    StreamNotFound,
    /// The stream has no such shard, or no longer has it.
    ShardNotFound,
    /// Records that were not read are no longer in the stream, and the policy is not to go on behind them.
    DataLost,
    /// A request or an answer is not what it must be.
    Invalid,
}

impl ErrorKind for SourceErrorKind {
    fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// An error of a stream or of one of its shards.
pub type SourceError = Error<SourceErrorKind>;
