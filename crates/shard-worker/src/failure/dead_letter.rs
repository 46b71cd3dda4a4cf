//! Dead letters: records that the application could not process, and the contract of the sinks that store them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use lease_store::{BoxError, ShardId};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// Stores records that the application could not process; see
/// [`FailurePolicy::dead_letters`](crate::FailurePolicy::dead_letters).
///
/// ```
/// use async_trait::async_trait;
/// use shard_worker::{BoxError, DeadLetter, DeadLetterSink, FailurePolicy};
///
/// /// Prints the positions of failed records.
/// #[derive(Debug)]
/// struct Printed;
///
/// #[async_trait]
/// impl DeadLetterSink for Printed {
///     async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
///         println!("{}: {}", letter.id(), letter.error);
///         Ok(())
///     }
/// }
/// let policy = FailurePolicy::dead_letters(Printed);
/// ```
#[async_trait]
pub trait DeadLetterSink: fmt::Debug + Send + Sync + 'static {
    /// Stores a record. `Ok` means that it is stored: a checkpoint may pass it from then on.
    ///
    /// May be called again with the same record, after an error or on another worker; [`DeadLetter::id`] identifies it.
    ///
    /// # Errors
    /// Any error is logged, and the call is repeated after a wait. Until it succeeds the shard makes no progress.
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError>;
}

/// A record that could not be processed, and why.
///
/// ```
/// use shard_worker::{DeadLetter, LetterInJson, Record};
///
/// let record = Record::new(7_u128.into(), "not json".into());
/// let letter = DeadLetter::new("billing", "orders", "shardId-000000000000".parse()?, record, "expected value");
/// let read: LetterInJson = serde_json::from_slice(&letter.to_json()?)?;
/// assert_eq!((read.id, read.sequence_number.as_str()), (letter.id(), "7"));
/// # Ok::<(), shard_worker::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The application that could not process it.
    pub application: Arc<str>,
    /// The stream of the record.
    pub stream: Arc<str>,
    /// The shard of the record.
    pub shard_id: ShardId,
    /// The record.
    pub record: Record,
    /// The attempts to process it, alone or in an undivided batch.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: String,
    /// The causes of that error, the nearest first, without the payload: a JSON decoder's by its class and place, none of
    /// another decoder.
    pub causes: Vec<String>,
}

impl DeadLetter {
    /// A letter for a record of this application, stream and shard, after one attempt and without causes.
    pub fn new(
        application: impl Into<Arc<str>>,
        stream: impl Into<Arc<str>>,
        shard_id: ShardId,
        record: Record,
        error: impl Into<String>,
    ) -> Self {
        Self {
            application: application.into(),
            stream: stream.into(),
            shard_id,
            record,
            attempts: 1,
            error: error.into(),
            causes: Vec::new(),
        }
    }

    /// The id of the record, the same in every delivery and on every worker: stream, shard, sequence and sub-sequence
    /// number.
    pub fn id(&self) -> String {
        self.record.id(&self.stream, &self.shard_id).to_string()
    }

    /// The letter as one line of JSON, without the line break. The payload is encoded in base64.
    ///
    /// # Errors
    /// An error of the serializer, which does not happen for these fields.
    pub fn to_json(&self) -> Result<Vec<u8>, BoxError> {
        let data = base64_simd::STANDARD.encode_to_string(&self.record.data);
        Ok(serde_json::to_vec(&self.in_json(data))?)
    }

    /// The letter in binary form: the line of [`to_json`](Self::to_json) with an empty `data`, a line break, and then the payload as
    /// it is. So a letter is a few hundred bytes longer than its record. [`LetterInJson::read_binary`] reads it.
    ///
    /// # Errors
    /// An error of the serializer, which does not happen for these fields.
    pub fn to_binary(&self) -> Result<Vec<u8>, BoxError> {
        let mut letter = serde_json::to_vec(&self.in_json(String::new()))?;
        letter.reserve_exact(1 + self.record.data.len());
        letter.push(b'\n');
        letter.extend_from_slice(&self.record.data);
        Ok(letter)
    }

    fn in_json(&self, data: String) -> LetterInJson {
        let arrival =
            self.record.approximate_arrival.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        LetterInJson {
            id: self.id(),
            application: self.application.to_string(),
            stream: self.stream.to_string(),
            shard_id: self.shard_id.to_string(),
            sequence_number: self.record.sequence_number.to_string(),
            sub_sequence_number: self.record.sub_sequence_number,
            partition_key: self.record.partition_key.as_deref().map(str::to_owned),
            approximate_arrival_ms: arrival.and_then(|since_1970| u64::try_from(since_1970.as_millis()).ok()),
            attempts: self.attempts,
            error: self.error.clone(),
            causes: self.causes.clone(),
            data,
        }
    }
}

/// The fields of [`DeadLetter::to_json`], for programs that read letters back.
///
/// ```
/// use shard_worker::{DeadLetter, LetterInJson, Record};
///
/// let record = Record::new(7_u128.into(), "payload".into());
/// let letter = DeadLetter::new("billing", "orders", "shardId-000000000000".parse()?, record, "no such customer");
/// let binary = letter.to_binary()?;
/// let (header, payload) = LetterInJson::read_binary(&binary)?;
/// assert_eq!((header.error.as_str(), payload), ("no such customer", &b"payload"[..]));
/// # Ok::<(), shard_worker::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LetterInJson {
    /// See [`DeadLetter::id`].
    pub id: String,
    /// The application that could not process the record.
    pub application: String,
    /// The stream of the record.
    pub stream: String,
    /// The shard of the record.
    pub shard_id: String,
    /// Its sequence number.
    pub sequence_number: String,
    /// Its index inside an aggregate.
    pub sub_sequence_number: u64,
    /// Its partition key, if it has one.
    pub partition_key: Option<String>,
    /// When the stream received it, in milliseconds since 1970.
    pub approximate_arrival_ms: Option<u64>,
    /// The attempts to process it.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: String,
    /// The causes of the error; see [`DeadLetter::causes`]. Left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The payload, in base64; empty in the binary form.
    pub data: String,
}

impl LetterInJson {
    /// Splits a letter in binary form into its fields and the payload.
    ///
    /// # Errors
    /// The letter has no line break, or its first line is not the JSON of a letter.
    pub fn read_binary(letter: &[u8]) -> Result<(Self, &[u8]), BoxError> {
        let end = letter.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("a dead letter in binary form needs a line break after its fields")?;
        Ok((serde_json::from_slice(&letter[..end])?, &letter[end + 1..]))
    }
}
