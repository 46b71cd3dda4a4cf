//! Encoding, signing and decoding of `GetRecords` for the benchmark, whose hand-written client shows the least cost of the call,
//! and for the fuzz target. Not a public API.

use aws_credential_types::Credentials;
use aws_sdk_kinesis::types::ChildShard;
use shard_worker::{BoxError, Record};

use crate::get_records::answer::Answer;
use crate::get_records::encoding::Encoding;
use crate::get_records::{codec, internals};

/// Writes and signs requests to one host, in CBOR or in JSON.
#[derive(Debug)]
pub struct HandMade {
    encoding: Encoding,
    signer: internals::Signer,
    credentials: Credentials,
    host: String,
}

/// The variable parts of a signed request.
#[derive(Debug)]
pub struct HandMadeRequest {
    /// The body, which contains the iterator.
    pub body: Vec<u8>,
    /// The `content-type` header.
    pub content_type: &'static str,
    /// The `x-amz-date` header.
    pub date: String,
    /// The `authorization` header.
    pub authorization: String,
}

impl HandMade {
    /// A writer for this host and port.
    pub fn new(is_cbor: bool, host: &str, credentials: Credentials) -> Self {
        let encoding = if is_cbor { Encoding::Cbor } else { Encoding::Json };
        Self { encoding, signer: internals::Signer::default(), credentials, host: host.to_owned() }
    }

    /// A request for the records at an iterator, signed with the current time.
    // The wall clock is used only for the signature.
    #[allow(clippy::disallowed_methods)]
    pub fn request(&self, iterator: &str) -> Option<HandMadeRequest> {
        let body = codec::request(self.encoding, iterator, None, None);
        let content_type = self.encoding.content_type();
        let now = std::time::SystemTime::now();
        let (date, authorization) =
            internals::sign(&self.signer, &self.credentials, &self.host, content_type, &body, now)?;
        Some(HandMadeRequest { body, content_type, date, authorization })
    }
}

/// The records of an answer, and the next iterator.
///
/// # Errors
/// The body cannot be decoded.
pub fn read(body: Vec<u8>) -> Result<(Vec<Record>, Option<String>), BoxError> {
    let Answer { records, next_iterator, .. } = internals::read(body)?;
    Ok((records, next_iterator))
}

/// All members of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeAnswer {
    /// The records.
    pub records: Vec<Record>,
    /// The next iterator.
    pub next_iterator: Option<String>,
    /// How far the answer is behind the tip, in milliseconds.
    pub millis_behind_latest: Option<i64>,
    /// The children, at the end of a shard.
    pub children: Vec<ChildShard>,
}

/// All members of an answer, in either encoding.
///
/// # Errors
/// The body cannot be decoded.
pub fn read_whole(body: Vec<u8>) -> Result<WholeAnswer, BoxError> {
    let Answer { records, next_iterator, millis_behind_latest, children } = internals::read(body)?;
    Ok(WholeAnswer { records, next_iterator, millis_behind_latest, children })
}
