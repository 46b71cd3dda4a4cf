//! Puts single records into a stream, for programs that repair or replay.
//!
//! Each record is a call of its own, so a record that the service refuses does not overtake an earlier one of the same key.

use std::sync::Arc;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use bytes::Bytes;
use shard_worker::SourceError;

use crate::connect::KinesisAsl;
use crate::error::{AslError, Destination, source_error};
use crate::response_metadata::ResponseMetadata;

/// Puts records into one stream. Needs `kinesis:PutRecord`. Clones share the client.
#[derive(Debug, Clone)]
pub struct RecordWriter {
    client: Client,
    destination: Arc<Destination>,
}

impl KinesisAsl {
    /// A writer of records to a stream: by name one of the same account and region, by ARN also one of another account or region.
    ///
    /// # Errors
    /// `InvalidSettings` when that is neither a valid name nor the ARN of a stream.
    pub fn record_writer(&self, stream: &str) -> Result<RecordWriter, AslError> {
        let client = self.client_of("the stream to write to", stream)?;
        let region = client.config().region().map(|region| region.as_ref().to_owned());
        let destination = Arc::new(Destination::new(stream.to_owned(), region));
        Ok(RecordWriter { client, destination })
    }
}

impl RecordWriter {
    /// The name of the stream.
    pub fn stream_name(&self) -> &str {
        &self.destination.stream.name
    }

    /// Puts one record, and returns when the stream has it. After an error it may have it too.
    ///
    /// # Errors
    /// `StreamNotFound`, `Denied`, `KeyUnavailable`, `Throttled` or `Unavailable`; `Invalid` when the stream refuses the record, such
    /// as one above its size limit.
    pub async fn put(&self, partition_key: &str, data: &Bytes) -> Result<(), SourceError> {
        self.destination.check()?;
        let request = self.client.put_record().stream_name(&self.destination.stream.name);
        let request = request.set_stream_arn(self.destination.arn()).partition_key(partition_key);
        let metadata = ResponseMetadata::default();
        let request = request.data(Blob::new(data.to_vec())).customize().interceptor(metadata.clone());
        let answer = request.send().await;
        if let Some(endpoint) = metadata.endpoint() {
            self.destination.endpoint.get_or_init(|| endpoint.clone());
        }
        answer.map(drop).map_err(|error| source_error("putting a record", &self.destination, error))
    }
}
