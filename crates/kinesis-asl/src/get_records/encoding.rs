//! The two encodings of `GetRecords`, and how to recognise them.

use std::fmt;

/// The encoding of a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Cbor,
    Json,
}

impl Encoding {
    /// The value of the `content-type` header.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Cbor => "application/x-amz-cbor-1.1",
            Self::Json => "application/x-amz-json-1.1",
        }
    }

    /// The encoding of a body by its first byte, because some servers send a wrong content type. Every answer is a map or an
    /// object. `None`: neither.
    pub(super) fn of(body: &[u8]) -> Option<Self> {
        match body.first()? {
            0xa0..=0xbf => Some(Self::Cbor),
            b'{' | b' ' | b'\n' | b'\r' | b'\t' => Some(Self::Json),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cbor => "CBOR",
            Self::Json => "JSON",
        })
    }
}
