//! The call of `GetRecords`: everything between an iterator and records that are slices of one buffer.
//!
//! The SDK's parser costs more than all else in reading a shard, and its machinery more than all else in reading an empty
//! one. So the answer is read here, and as a rule the request is sent from here too:
//!
//! | file | what |
//! | --- | --- |
//! | [`call`] | one call: which way it goes, and what happens when it fails |
//! | [`format`] | the setting, and the memory of a fall-back |
//! | [`direct`] | an attempt over the SDK's connections with its credentials, without its machinery; [`signing`] signs it |
//! | [`door`] | a call through all of the SDK, with our encoding of request and answer |
//! | [`reference`] | a call that leaves the answer to the SDK as well |
//! | [`cbor`], [`json`] | the encodings; [`time`] their numbers, [`malformed`] their faults |
//! | [`answer`] | what comes out |
//!
//! A direct attempt is never the last word on a failure: unless the failure is about the request, or the shard is read too
//! often, the next one is the SDK's, with all it knows about clocks, credentials and connections. Where it went and how it
//! signed is learnt from the calls it makes itself.

mod answer;
#[cfg(feature = "bench-internals")]
pub(crate) mod bench;
mod call;
mod cbor;
mod direct;
mod door;
mod format;
mod json;
mod malformed;
mod reference;
mod signing;
mod time;

#[cfg(test)]
mod differential_tests;

use std::fmt;

use aws_sdk_kinesis::error::ErrorMetadata;
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use bytes::Bytes;

pub(crate) use answer::Answer;
pub(crate) use call::{CallError, GetRecords};
pub use format::GetRecordsFormat;
use malformed::{Malformed, Undecoded};

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Cbor,
    Json,
}

impl Encoding {
    /// As the headers of requests and answers name it.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Cbor => "application/x-amz-cbor-1.1",
            Self::Json => "application/x-amz-json-1.1",
        }
    }

    /// By its first byte, since servers mislabel bodies: every answer is a map or an object. `None`: neither.
    fn of(body: &[u8]) -> Option<Self> {
        match body.first()? {
            0xa0..=0xbf => Some(Self::Cbor),
            b'{' | b' ' | b'\n' | b'\r' | b'\t' => Some(Self::Json),
            _ => None,
        }
    }

    pub(crate) fn request(self, iterator: &str) -> Vec<u8> {
        match self {
            Self::Cbor => cbor::request(iterator),
            Self::Json => json::request(iterator),
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

/// Reads the body of a good answer, in whichever encoding it came.
fn read_answer(body: Vec<u8>) -> Result<Answer, Undecoded> {
    if body.len() > answer::MAX_BODY_BYTES {
        return Err(
            Malformed { encoding: None, offset: answer::MAX_BODY_BYTES, what: "it is too long" }.into()
        );
    }
    match Encoding::of(&body) {
        Some(Encoding::Cbor) => cbor::decode(&Bytes::from(body)),
        Some(Encoding::Json) => json::decode(body),
        None => Err(Malformed { encoding: None, offset: 0, what: "it is neither CBOR nor JSON" }.into()),
    }
}

/// Reads the body of a refusal, as far as it can be read: the code may also stand in a header.
fn read_refusal(code_header: Option<&str>, body: Vec<u8>) -> GetRecordsError {
    let (code, message) = match Encoding::of(&body) {
        Some(Encoding::Cbor) => cbor::refusal(&Bytes::from(body)),
        Some(Encoding::Json) => json::refusal(body),
        None => Ok((None, None)),
    }
    .unwrap_or_default();
    let code = code_header.map(str::to_owned).or(code);
    // `com.amazonaws.kinesis#Code` and `Code:http://...` are both written.
    let code = code.map(|code| {
        let code = code.rsplit('#').next().unwrap_or_default();
        code.split(':').next().unwrap_or_default().to_owned()
    });
    let mut metadata = ErrorMetadata::builder();
    if let Some(code) = code.filter(|code| !code.is_empty()) {
        metadata = metadata.code(code);
    }
    if let Some(message) = message {
        metadata = metadata.message(message);
    }
    GetRecordsError::generic(metadata.build())
}
