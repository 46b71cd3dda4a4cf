//! Errors of building a storage buffer.

use lease_store::{Error, ErrorKind};

/// The kinds of errors of building a storage buffer. Failures of an open shard are [`shard_worker::SourceError`]s.
///
/// ```
/// use lease_store::ErrorKind;
/// use storage_buffer::StorageErrorKind;
///
/// assert!(!StorageErrorKind::InvalidSettings.is_retryable());
/// ```
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
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::InMemoryStream;
/// use storage_buffer::{BlockStores, StorageBuffer, StorageErrorKind, StorageLevel, StorageSettings};
///
/// let stream = InMemoryStream::new("orders", NonZeroUsize::MIN);
/// let settings = StorageSettings::new("billing", StorageLevel::DiskOnly);
/// let error = StorageBuffer::new(stream, settings, BlockStores::none()).expect_err("there is no disk");
/// assert_eq!(error.kind(), StorageErrorKind::InvalidSettings);
/// ```
pub type StorageError = Error<StorageErrorKind>;
