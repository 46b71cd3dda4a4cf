//! Writes dead letters to a Kinesis stream.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use shard_worker::{BoxError, DeadLetter, DeadLetterSink, SourceErrorKind};

use crate::error::{Destination, source_error};
use crate::response_metadata::ResponseMetadata;
use crate::stream_client::with_stream_region;

/// The size limit of the records of every stream, in bytes: payload and partition key (AWS default). A stream may have a larger
/// one.
const LEAST_RECORD_LIMIT: usize = 1024 * 1024;

/// The largest size limit that a stream can have, in bytes (AWS).
const LARGEST_RECORD_LIMIT: usize = 10 * 1024 * 1024;

/// Writes dead letters to a Kinesis stream in binary form ([`DeadLetter::to_binary`]). The partition key is that of the record, or
/// the shard id where the record has none.
///
/// Needs `kinesis:PutRecord`. A letter is a few hundred bytes longer than its record. The stream refuses a letter above its size
/// limit; with an [overflow sink](Self::with_overflow) such a letter goes there, otherwise the shard makes no progress until the
/// limit is raised.
///
/// ```
/// use kinesis_asl::{AslError, KinesisAsl};
/// use shard_worker::{FailurePolicy, FileDeadLetters};
///
/// /// Failed records go to another stream, and those that are too large for it to a file.
/// fn policy(connection: &KinesisAsl) -> Result<FailurePolicy, AslError> {
///     let letters = connection.dead_letters("orders-dead-letters")?;
///     Ok(FailurePolicy::dead_letters(letters.with_overflow(FileDeadLetters::new("too-large.jsonl"))))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct KinesisDeadLetters {
    client: Client,
    destination: Arc<Destination>,
    overflow: Option<Arc<dyn DeadLetterSink>>,
}

/// The destination of a letter, by its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Every stream accepts a letter of this size.
    Stream,
    /// The size limit of the stream may be large enough.
    StreamThenOverflow,
    /// No stream accepts a letter of this size.
    Overflow,
}

fn route(bytes: usize) -> Route {
    if bytes <= LEAST_RECORD_LIMIT {
        Route::Stream
    } else if bytes <= LARGEST_RECORD_LIMIT {
        Route::StreamThenOverflow
    } else {
        Route::Overflow
    }
}

impl KinesisDeadLetters {
    /// Writes letters to this stream, given by its name or its ARN, through a configured client. With an ARN that is not valid,
    /// or not in the region of the client, no letter can be written.
    pub fn from_client(client: Client, stream: impl Into<String>) -> Self {
        let stream = stream.into();
        let client = with_stream_region(client, &stream);
        let region = client.config().region().map(|region| region.as_ref().to_owned());
        Self { client, destination: Arc::new(Destination::new(stream, region)), overflow: None }
    }

    /// Stores letters that are too large for the stream in another sink, for example in a
    /// [`FileDeadLetters`](shard_worker::FileDeadLetters).
    #[must_use]
    pub fn with_overflow(self, sink: impl DeadLetterSink) -> Self {
        Self { overflow: Some(Arc::new(sink)), ..self }
    }
}

#[async_trait]
impl DeadLetterSink for KinesisDeadLetters {
    async fn put(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        self.destination.check()?;
        let key = letter.record.partition_key.as_deref().filter(|key| !key.is_empty());
        let key = key.unwrap_or(letter.shard_id.as_str());
        let data = letter.to_binary()?;
        let route = route(data.len() + key.len());
        if let (Route::Overflow, Some(overflow)) = (route, &self.overflow) {
            return overflow.put(letter).await;
        }
        let request = self.client.put_record().stream_name(&self.destination.stream.name);
        let request = request.set_stream_arn(self.destination.arn());
        let request = request.partition_key(key).data(Blob::new(data)).customize();
        let Err(error) = request.interceptor(ResponseMetadata::default()).send().await else { return Ok(()) };
        let error = source_error("writing a dead letter", &self.destination, error);
        match &self.overflow {
            // A record that is too large is refused as an invalid request, without a code of its own.
            Some(overflow) if route != Route::Stream && error.kind() == SourceErrorKind::Invalid => {
                tracing::debug!(letter = letter.id(), %error, "the stream refused a large dead letter");
                overflow.put(letter).await
            }
            _ => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_decides_where_a_letter_goes() {
        for (bytes, expected) in [
            (0, Route::Stream),
            (1024 * 1024, Route::Stream),
            (1024 * 1024 + 1, Route::StreamThenOverflow),
            (10 * 1024 * 1024, Route::StreamThenOverflow),
            (10 * 1024 * 1024 + 1, Route::Overflow),
        ] {
            assert_eq!(route(bytes), expected, "{bytes}");
        }
    }
}
