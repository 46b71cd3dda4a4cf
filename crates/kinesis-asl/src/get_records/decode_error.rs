//! The errors of decoding a body: the encoding, the offset and the expectation, but never the content.

use std::error::Error as StdError;
use std::fmt;

use lease_store::StoreError;

use super::encoding::Encoding;

/// A body that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) encoding: Option<Encoding>,
    /// The byte at which decoding stopped.
    pub(crate) offset: usize,
    pub(crate) fault: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encoding, offset, fault } = self;
        match encoding {
            Some(encoding) => {
                write!(
                    formatter,
                    "the GetRecords answer in {encoding} is malformed at byte {offset}: {fault}"
                )
            }
            None => write!(formatter, "the GetRecords answer is malformed at byte {offset}: {fault}"),
        }
    }
}

impl StdError for Malformed {}

/// Why a body could not be decoded.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// The encoding is broken; a retry may return a correct body.
    Malformed(Malformed),
    /// The encoding is correct, but a record has an invalid sequence number.
    SequenceNumber(StoreError),
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
