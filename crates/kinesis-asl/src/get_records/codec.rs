//! Encodes requests, and decodes answers and refusals in whichever encoding they arrive.

use aws_sdk_kinesis::error::ErrorMetadata;
use aws_sdk_kinesis::operation::get_records::GetRecordsError;
use bytes::Bytes;

use super::answer::{Answer, MAX_BODY_BYTES};
use super::decode_error::{DecodeError, Malformed};
use super::encoding::Encoding;
use super::{cbor, json};

/// The body of a request for the records at an iterator; `limit`: at most this many. `stream_arn` names a stream that was given
/// by its ARN, and needs no escapes.
pub(crate) fn request(
    encoding: Encoding,
    iterator: &str,
    limit: Option<u32>,
    stream_arn: Option<&str>,
) -> Vec<u8> {
    match encoding {
        Encoding::Cbor => cbor::request(iterator, limit, stream_arn),
        Encoding::Json => json::request(iterator, limit, stream_arn),
    }
}

/// Decodes the body of a successful answer. Its records are slices of the body.
pub(super) fn read_answer(body: impl AsRef<[u8]> + AsMut<[u8]> + Into<Bytes>) -> Result<Answer, DecodeError> {
    if body.as_ref().len() > MAX_BODY_BYTES {
        return Err(
            Malformed { encoding: None, offset: MAX_BODY_BYTES, fault: "the body is too long" }.into()
        );
    }
    match Encoding::of(body.as_ref()) {
        Some(Encoding::Cbor) => cbor::decode(&body.into()),
        Some(Encoding::Json) => json::decode(body),
        None => Err(Malformed { encoding: None, offset: 0, fault: "neither CBOR nor JSON" }.into()),
    }
}

/// Decodes as much of a refusal as possible; its code may be in a header instead of the body.
pub(super) fn read_refusal(code_header: Option<&str>, body: Vec<u8>) -> GetRecordsError {
    let (code, message) = match Encoding::of(&body) {
        Some(Encoding::Cbor) => cbor::refusal(&Bytes::from(body)),
        Some(Encoding::Json) => json::refusal(body),
        None => Ok((None, None)),
    }
    .unwrap_or_default();
    let code = code_header.map(str::to_owned).or(code);
    // Servers send `com.amazonaws.kinesis#Code` and `Code:http://...` as well as the bare code.
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
