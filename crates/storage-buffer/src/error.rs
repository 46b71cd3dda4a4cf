//! Errors of building a storage buffer.

use lease_store::{Error, ErrorKind};

/// The kinds of errors of building a storage buffer. Failures of an open shard are [`shard_worker::SourceError`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// Settings and stores contradict each other, or a directory cannot be used. The message lists all faults.
    InvalidSettings,
}

impl ErrorKind for StorageErrorKind {
    fn is_retryable(self) -> bool {
        match self {
            Self::InvalidSettings => false,
        }
    }
}

/// An error of building a storage buffer.
pub type StorageError = Error<StorageErrorKind>;
