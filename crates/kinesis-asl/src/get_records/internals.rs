//! Access to signing and decoding for [`crate::internals`].

use std::time::SystemTime;

use aws_credential_types::Credentials;
use shard_worker::BoxError;

use super::answer::Answer;
use super::codec::read_answer;
use super::decode_error::DecodeError;
use super::signing::Signable;
pub(crate) use super::signing::Signer;

/// The date and the authorization of a request to Kinesis in `us-east-1`.
pub(crate) fn sign(
    signer: &Signer,
    credentials: &Credentials,
    host: &str,
    content_type: &str,
    body: &[u8],
    time: SystemTime,
) -> Option<(String, String)> {
    let target = "Kinesis_20131202.GetRecords";
    let signable = Signable { region: "us-east-1", service: "kinesis", host, content_type, target, body };
    let signature = signer.sign(credentials, &signable, time)?;
    Some((signature.date, signature.authorization))
}

/// Decodes an answer.
pub(crate) fn read(body: Vec<u8>) -> Result<Answer, BoxError> {
    read_answer(body).map_err(|error| match error {
        DecodeError::Malformed(malformed) => malformed.into(),
        DecodeError::SequenceNumber(error) => error.into(),
    })
}
