//! The errors of this crate.

use lease_store::{Error, ErrorKind};

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetErrorKind {
    /// A file of positions is malformed.
    Malformed,
    /// A value cannot be written as JSON.
    Unwritable,
}

impl ErrorKind for FleetErrorKind {
    fn is_retryable(self) -> bool {
        false
    }
}

/// An error of this crate.
pub type FleetError = Error<FleetErrorKind>;
