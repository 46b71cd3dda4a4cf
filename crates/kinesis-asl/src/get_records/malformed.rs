//! A body that is not what it must be: which format, where, and what was expected there; never what stood there.

use std::error::Error as StdError;
use std::fmt;

use lease_store::StoreError;

use super::Encoding;

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) encoding: Option<Encoding>,
    /// The byte at which reading stopped.
    pub(crate) offset: usize,
    pub(crate) what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encoding, offset, what } = self;
        match encoding {
            Some(encoding) => {
                write!(
                    formatter,
                    "the answer of GetRecords in {encoding} is malformed at byte {offset}: {what}"
                )
            }
            None => write!(formatter, "the answer of GetRecords is malformed at byte {offset}: {what}"),
        }
    }
}

impl StdError for Malformed {}

/// Why a body gave no answer.
#[derive(Debug)]
pub(crate) enum Undecoded {
    /// The encoding is broken: another try may bring a sound body.
    Malformed(Malformed),
    /// The encoding is sound, but a record has a sequence number that is none.
    SequenceNumber(StoreError),
}

impl From<Malformed> for Undecoded {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
