//! Encodings and signing of `GetRecords` for the benchmark, which puts them on a bare connection: what a client made by hand
//! for this one call would cost; and the decoders for the fuzz target. No API.

use aws_credential_types::Credentials;
use aws_sdk_kinesis::types::ChildShard;
use shard_worker::{BoxError, Record};

use crate::get_records::bench;
use crate::get_records::{Answer, Encoding};

/// Signs requests to one host, in CBOR or in JSON.
#[derive(Debug)]
pub struct HandMade {
    encoding: Encoding,
    signer: bench::Signer,
    credentials: Credentials,
    host: String,
}

/// What to send.
#[derive(Debug)]
pub struct HandMadeRequest {
    /// The body, with an iterator.
    pub body: Vec<u8>,
    /// Its type.
    pub content_type: &'static str,
    /// `x-amz-date`.
    pub date: String,
    /// `authorization`.
    pub authorization: String,
}

impl HandMade {
    /// For this host, with its port.
    pub fn new(is_cbor: bool, host: &str, credentials: Credentials) -> Self {
        let encoding = if is_cbor { Encoding::Cbor } else { Encoding::Json };
        Self { encoding, signer: bench::Signer::default(), credentials, host: host.to_owned() }
    }

    /// A request for what an iterator stands for, signed for now.
    // The signature of a request to a local server: nothing is decided by it.
    #[allow(clippy::disallowed_methods)]
    pub fn request(&self, iterator: &str) -> Option<HandMadeRequest> {
        let body = self.encoding.request(iterator);
        let content_type = self.encoding.content_type();
        let now = std::time::SystemTime::now();
        let (date, authorization) =
            bench::sign(&self.signer, &self.credentials, &self.host, content_type, &body, now)?;
        Some(HandMadeRequest { body, content_type, date, authorization })
    }
}

/// The records of an answer, and where to go on.
///
/// # Errors
/// The body is not sound.
pub fn read(body: Vec<u8>) -> Result<(Vec<Record>, Option<String>), BoxError> {
    let Answer { records, next_iterator, .. } = bench::read(body)?;
    Ok((records, next_iterator))
}

/// All that an answer says.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeAnswer {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on.
    pub next_iterator: Option<String>,
    /// How far behind the tip the answer is, in milliseconds.
    pub millis_behind_latest: Option<i64>,
    /// Named at the end of a shard.
    pub children: Vec<ChildShard>,
}

/// Everything in an answer, in whichever encoding it is.
///
/// # Errors
/// The body is not sound.
pub fn read_whole(body: Vec<u8>) -> Result<WholeAnswer, BoxError> {
    let Answer { records, next_iterator, millis_behind_latest, children } = bench::read(body)?;
    Ok(WholeAnswer { records, next_iterator, millis_behind_latest, children })
}
