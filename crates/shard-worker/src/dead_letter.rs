//! Records that the application could not process, and where they go.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use lease_store::{BoxError, ShardId};
use serde::{Deserialize, Serialize};

use crate::{InMemoryStream, Record, ShardContext};

/// Takes records that the application could not process; see [`FailurePolicy::dead_letters`](crate::FailurePolicy::dead_letters).
#[async_trait]
pub trait DeadLetterSink: fmt::Debug + Send + Sync + 'static {
    /// Stores a record. `Ok` means that it is stored: the position passes it from then on.
    ///
    /// Can be called again with the same record, after an error or on another worker; [`DeadLetter::id`] tells them apart.
    ///
    /// # Errors
    /// Any error is logged, and the call is made again after a wait. Until it succeeds the shard stands still.
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError>;
}

/// A record that could not be processed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The application that could not process it.
    pub application: Arc<str>,
    /// The stream it is from.
    pub stream: Arc<str>,
    /// The shard it is from.
    pub shard_id: ShardId,
    /// The record.
    pub record: Record,
    /// How often it was tried, alone or in a batch that was not divided.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: String,
}

impl DeadLetter {
    pub(crate) fn new(context: &ShardContext, record: Record, attempts: u32, error: String) -> Self {
        Self {
            application: context.application.clone(),
            stream: context.stream.clone(),
            shard_id: context.shard_id.clone(),
            record,
            attempts,
            error,
        }
    }

    /// The same for the same record, whoever reads it and however often: stream, shard, sequence and sub-sequence number.
    pub fn id(&self) -> String {
        self.record.id(&self.stream, &self.shard_id).to_string()
    }

    /// The letter as one line of JSON, without the line break. The payload stands in it in base64.
    ///
    /// # Errors
    /// Never for letters as they are made; the signature is that of the serializer.
    pub fn to_json(&self) -> Result<Vec<u8>, BoxError> {
        let arrival =
            self.record.approximate_arrival.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(serde_json::to_vec(&LetterInJson {
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
            data: base64_simd::STANDARD.encode_to_string(&self.record.data),
        })?)
    }
}

/// The fields of [`DeadLetter::to_json`], for programs that read letters back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LetterInJson {
    /// See [`DeadLetter::id`].
    pub id: String,
    /// The application that could not process the record.
    pub application: String,
    /// The stream it is from.
    pub stream: String,
    /// The shard it is from.
    pub shard_id: String,
    /// Its sequence number.
    pub sequence_number: String,
    /// Its place inside an aggregate.
    pub sub_sequence_number: u64,
    /// Its partition key, if it has one.
    pub partition_key: Option<String>,
    /// When the stream received it, in milliseconds since 1970.
    pub approximate_arrival_ms: Option<u64>,
    /// How often it was tried.
    pub attempts: u32,
    /// The error of the last attempt.
    pub error: String,
    /// The payload, in base64.
    pub data: String,
}

/// Letters go into a stream in memory, each as its JSON, under the partition key of the record.
#[async_trait]
impl DeadLetterSink for InMemoryStream {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let key = letter.record.partition_key.as_deref().unwrap_or(letter.shard_id.as_str());
        InMemoryStream::put(self, key.to_owned(), letter.to_json()?)?;
        Ok(())
    }
}
