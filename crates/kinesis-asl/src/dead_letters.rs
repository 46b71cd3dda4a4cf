//! Writes dead letters to a Kinesis stream.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use shard_worker::{BoxError, DeadLetter, DeadLetterSink};

use crate::error::{Destination, source_error};

/// Writes dead letters to a Kinesis stream as JSON. The partition key is that of the record, or the shard id where the record
/// has none.
///
/// Needs `kinesis:PutRecord`. A letter is a third larger than the payload of its record, because it holds the payload as base64.
/// The stream refuses a letter above its record size limit; the shard makes no progress until that limit is raised.
#[derive(Debug, Clone)]
pub struct KinesisDeadLetters {
    client: Client,
    destination: Arc<Destination>,
}

impl KinesisDeadLetters {
    /// Writes letters to this stream through a configured client.
    pub fn from_client(client: Client, stream_name: impl Into<String>) -> Self {
        let region = client.config().region().map(|region| region.as_ref().to_owned());
        let stream_name = stream_name.into();
        let destination = Arc::new(Destination { stream_name, region, endpoint: OnceLock::new() });
        Self { client, destination }
    }
}

#[async_trait]
impl DeadLetterSink for KinesisDeadLetters {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let key = letter.record.partition_key.as_deref().filter(|key| !key.is_empty());
        let request = self
            .client
            .put_record()
            .stream_name(&self.destination.stream_name)
            .partition_key(key.unwrap_or(letter.shard_id.as_str()))
            .data(Blob::new(letter.to_json()?));
        request
            .send()
            .await
            .map_err(|error| source_error("writing a dead letter", &self.destination, error))?;
        Ok(())
    }
}
