//! Decodes payloads into values, by JSON or by any decoder.

use std::fmt;

use lease_store::{BoxError, RecordPosition};
use serde::de::DeserializeOwned;

use crate::acknowledgement::record_batch::RecordBatch;
use crate::record::Record;

/// A payload could not be decoded.
///
/// The message names the record without its content, so it can be logged. [`source`](std::error::Error::source) is the
/// error of the decoder, which may quote the payload.
///
/// ```
/// use shard_worker::Record;
///
/// let record = Record::new(7_u128.into(), "not json".into());
/// let error = record.json::<u64>().expect_err("the record is no number");
/// assert!(error.is_permanent(), "another attempt would fail too");
/// assert_eq!(error.position().sequence_number, 7_u128.into());
/// ```
#[derive(Debug)]
pub struct DecodeError {
    position: RecordPosition,
    source: BoxError,
    is_permanent: bool,
}

impl DecodeError {
    /// The position of the record in its shard.
    pub fn position(&self) -> &RecordPosition {
        &self.position
    }

    /// Whether another attempt fails in the same way, as it does with JSON. An error of [`Record::decode`] may pass, since its
    /// decoder may call a service; one that returns [`ProcessError::permanent`](crate::ProcessError::permanent) says otherwise.
    pub fn is_permanent(&self) -> bool {
        self.is_permanent
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordPosition { sequence_number, sub_sequence_number } = &self.position;
        write!(formatter, "the payload of record {sequence_number}/{sub_sequence_number} cannot be decoded")
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

impl Record {
    /// Decodes the payload with any decoder.
    ///
    /// # Errors
    /// The error of the decoder.
    pub fn decode<T, E: Into<BoxError>>(
        &self,
        decoder: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<T, DecodeError> {
        decoder(&self.data).map_err(|error| DecodeError {
            position: RecordPosition {
                sequence_number: self.sequence_number.clone(),
                sub_sequence_number: self.sub_sequence_number,
            },
            source: error.into(),
            is_permanent: false,
        })
    }

    /// Decodes the payload as JSON. A processor that returns the error sends the record to the last resort of its failure
    /// policy without further attempts.
    ///
    /// # Errors
    /// The payload is not JSON, or not of this type. The error is [permanent](DecodeError::is_permanent).
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        self.decode(|payload| serde_json::from_slice(payload))
            .map_err(|error| DecodeError { is_permanent: true, ..error })
    }
}

impl RecordBatch {
    /// Decodes all payloads as JSON.
    ///
    /// A processor that returns the error fails the batch. A failure policy that divides then finds the poison record, without
    /// waits, and processes the others.
    ///
    /// # Errors
    /// A payload is not JSON, or not of this type. The error is [permanent](DecodeError::is_permanent).
    pub fn json<T: DeserializeOwned>(&self) -> Result<Vec<T>, DecodeError> {
        self.iter().map(Record::json).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn record(number: u128, data: &'static str) -> Record {
        Record {
            sequence_number: number.into(),
            sub_sequence_number: 3,
            partition_key: None,
            data: data.into(),
            approximate_arrival: None,
        }
    }

    #[test]
    fn a_decode_error_names_the_record_without_its_content() {
        let batch = RecordBatch::new(vec![record(1, "[1, 2]"), record(2, "[]")], None).unwrap();
        assert_eq!(batch.json::<Vec<u8>>().unwrap(), [vec![1, 2], vec![]]);
        let error = record(7, "\"secret\"").json::<u8>().unwrap_err();
        assert_eq!(error.to_string(), "the payload of record 7/3 cannot be decoded");
        assert_eq!(error.position().sub_sequence_number, 3);
        assert!(error.source().unwrap().to_string().contains("secret"), "the source may quote it");
        let upper = record(8, "text").decode(|payload| String::from_utf8(payload.to_ascii_uppercase()));
        assert_eq!(upper.unwrap(), "TEXT");
    }
}
