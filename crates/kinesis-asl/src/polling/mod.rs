//! Reads one shard with `GetShardIterator` and `GetRecords`.
//!
//! An iterator is disposable, since it expires after five minutes. The source keeps the read position for which the iterator
//! was made. The position moves only after a whole answer was converted, without an await before the batch is returned. So an
//! error or a cancelled call neither loses nor repeats a record.

pub(crate) mod read_pace;

use async_trait::async_trait;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::ShardIteratorType;
use lease_store::ShardId;
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, ShardEnd, ShardFilter, SourceError, SourceErrorKind,
};
use tokio::time::Instant;

use crate::end_proof::EndProof;
use crate::get_records::answer::Answer;
use crate::get_records::call::CallError;
use crate::polling::read_pace::ReadPace;
use crate::read_position::ReadPosition;
use crate::response_metadata::{DATE_RESOLUTION, ResponseMetadata};
use crate::service_time::from_system_time;
use crate::stream_client::StreamClient;

/// How many iterators one read tries before it reports that the service refuses them.
const MAX_ITERATORS_PER_READ: usize = 3;

/// Reads one shard from a position on, by polling.
#[derive(Debug)]
pub(crate) struct PollingSource {
    stream: StreamClient,
    shard_id: ShardId,
    position: ReadPosition,
    /// The iterator for `position`; `None`: not requested yet, or dropped.
    iterator: Option<String>,
    pace: ReadPace,
    proof: EndProof,
    end: Option<ShardEnd>,
}

impl PollingSource {
    pub(crate) fn new(stream: StreamClient, shard_id: ShardId, from: ReadFrom) -> Self {
        Self::at_position(stream, shard_id, from.into())
    }

    /// Resumes from the position of another source.
    pub(crate) fn at_position(stream: StreamClient, shard_id: ShardId, position: ReadPosition) -> Self {
        let pace = ReadPace::new(stream.read_rate());
        Self { stream, shard_id, position, iterator: None, pace, proof: EndProof::default(), end: None }
    }

    pub(crate) fn position(&self) -> &ReadPosition {
        &self.position
    }

    async fn make_iterator(&mut self) -> Result<String, SourceError> {
        let request = self.stream.sdk().get_shard_iterator();
        let request = request.stream_name(self.stream.stream_name()).set_stream_arn(self.stream.stream_arn());
        let request = request.shard_id(self.shard_id.as_str());
        let request = match &self.position {
            ReadPosition::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            ReadPosition::Latest { .. } => request.shard_iterator_type(ShardIteratorType::Latest),
            ReadPosition::AtTimestamp(time) => {
                let timestamp = from_system_time(*time);
                let timestamp =
                    timestamp.ok_or_else(|| self.stream.invalid("the start time is out of range"))?;
                request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(timestamp)
            }
            ReadPosition::AtSequenceNumber(sequence_number) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(sequence_number.as_str()),
            ReadPosition::AfterSequenceNumber(sequence_number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence_number.as_str()),
        };
        let (metadata, called_at) = (ResponseMetadata::default(), Instant::now());
        let answer = request.customize().interceptor(metadata.clone()).send().await;
        self.stream.record_endpoint(&metadata);
        let iterator = match answer {
            Ok(answer) => answer.shard_iterator.filter(|iterator| !iterator.is_empty()),
            Err(error) => return Err(self.failed("getting an iterator", error).await),
        };
        let iterator =
            iterator.ok_or_else(|| self.stream.invalid("GetShardIterator returned no iterator"))?;
        if let ReadPosition::Latest { since } = &mut self.position {
            // The service made the iterator at some time during the call, and the date may be from the call's end.
            *since = metadata.date().and_then(|date| date.checked_sub(called_at.elapsed() + DATE_RESOLUTION));
        }
        Ok(iterator)
    }

    /// Drops an iterator that may be invalid; the next read makes another one for the same position.
    fn drop_iterator(&mut self) {
        if self.iterator.take().is_none() {
            return;
        }
        match self.position {
            ReadPosition::Latest { since: Some(since) } => self.position = ReadPosition::AtTimestamp(since),
            ReadPosition::Latest { since: None } => tracing::warn!(
                shard_id = %self.shard_id,
                "the LATEST iterator was refused before the first record, and its answer had no date; resuming from the \
                 tip, records that arrived in between are not read"
            ),
            ReadPosition::TrimHorizon
            | ReadPosition::AtTimestamp(_)
            | ReadPosition::AtSequenceNumber(_)
            | ReadPosition::AfterSequenceNumber(_) => {}
        }
    }

    /// Converts the error of a call for this shard. The service's "not found" does not distinguish a missing shard from a missing
    /// stream. The worker treats a missing shard as read to its end, so only a listing without the shard is proof.
    async fn failed<E>(&mut self, action: &str, error: SdkError<E>) -> SourceError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let error = self.stream.error(&format!("{action} of {}", self.shard_id), error);
        match error.kind() {
            // These errors are not about the iterator. Keep it: it may be ahead of `position`, after a range without
            // records.
            SourceErrorKind::Throttled
            | SourceErrorKind::Unavailable
            | SourceErrorKind::Denied
            | SourceErrorKind::KeyUnavailable => return error,
            SourceErrorKind::StreamNotFound => self.drop_iterator(),
            _ => {
                self.drop_iterator();
                return error;
            }
        }
        let shards = match self.stream.list_shards(&ShardFilter::All).await {
            Ok(shards) => shards,
            Err(error) => return error,
        };
        let (kind, finding) = if shards.iter().any(|shard| shard.shard_id == self.shard_id) {
            (SourceErrorKind::Unavailable, "the stream lists the shard, but it cannot be read yet")
        } else {
            (SourceErrorKind::ShardNotFound, "the stream does not list the shard")
        };
        SourceError::new(kind, format!("{finding}: {error}")).caused_by(error)
    }

    /// Asks the listing whether the shard is closed, after an answer without a next iterator and without children.
    async fn prove_closed(&mut self) -> Result<(), SourceError> {
        let is_closed = self.stream.is_closed(&self.shard_id).await?;
        self.proof.listed(is_closed);
        if is_closed {
            return Ok(());
        }
        Err(self.stream.unavailable(&format!(
            "an answer of {} had neither a next iterator nor children, but the stream lists the shard as open; reading resumes \
             after the last record",
            self.shard_id
        )))
    }

    /// Turns an answer into a batch and moves the position; a faulty answer changes nothing.
    fn accept(&mut self, answer: Answer) -> Result<FetchedBatch, SourceError> {
        let millis_behind_latest =
            answer.millis_behind_latest.map(|millis| u64::try_from(millis).unwrap_or(0));
        let mut records = answer.records;
        let iterator = answer.next_iterator.filter(|iterator| !iterator.is_empty());
        let end = if iterator.is_some() {
            self.proof.continued();
            None
        } else if answer.children.is_empty() {
            let is_end = self.proof.unproven_end(!records.is_empty());
            if !is_end {
                tracing::info!(
                    shard_id = %self.shard_id, records = records.len(),
                    "an answer has neither a next iterator nor children, asking the listing whether the shard is closed"
                );
                // The next read gets a new iterator at the read position.
                self.drop_iterator();
            }
            is_end.then(|| ShardEnd::new(Vec::new()))
        } else {
            Some(self.stream.shard_end(answer.children)?)
        };

        if let Some(last) = records.last_mut() {
            // Copy this number, since the position and checkpoints keep it longer than the batch: a slice would keep the
            // whole answer in memory.
            if let Ok(detached) = last.sequence_number.as_str().parse() {
                last.sequence_number = detached;
            }
            self.position = ReadPosition::AfterSequenceNumber(last.sequence_number.clone());
        }
        self.iterator = iterator;
        self.end.clone_from(&end);
        let payload_bytes = records.iter().map(|record| record.data.len() as u64).sum();
        // Some servers always report no lag: a full answer is not the tip.
        let is_full = self.pace.is_full(records.len());
        self.pace.answered(records.len(), payload_bytes, millis_behind_latest);
        let millis_behind_latest = millis_behind_latest.filter(|millis| *millis > 0 || !is_full);
        Ok(FetchedBatch::new(records, millis_behind_latest).with_end(end))
    }
}

#[async_trait]
impl RecordSource for PollingSource {
    async fn ready(&mut self) -> u64 {
        if self.end.is_some() {
            return 0;
        }
        self.pace.wait_until_due().await;
        let is_direct = self.stream.get_records().is_direct();
        self.pace.max_memory_bytes(Instant::now(), self.stream.largest_record_bytes(), is_direct)
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        if let Some(end) = &self.end {
            return Ok(FetchedBatch::new(Vec::new(), Some(0)).with_end(Some(end.clone())));
        }
        for _ in 0..MAX_ITERATORS_PER_READ {
            self.pace.wait_until_due().await;
            // Box the rare branches: this future is built for every read, and would contain them otherwise.
            if self.proof.needs_listing() {
                Box::pin(self.prove_closed()).await?;
            }
            if self.iterator.is_none() {
                self.iterator = Some(Box::pin(self.make_iterator()).await?);
            }
            let iterator = self.iterator.as_deref().unwrap_or_default();
            match self.stream.get_records().call(iterator, &mut self.pace).await {
                Ok(answer) => return self.accept(answer),
                Err(CallError::SequenceNumber(error)) => {
                    let fault = format!("a record of {}: {error}", self.shard_id);
                    return Err(self.stream.invalid(&fault).with_source(error));
                }
                Err(error) if error.refused_iterator().is_some() => {
                    let (shard_id, code) = (&self.shard_id, error.refused_iterator());
                    tracing::debug!(%shard_id, code, "the iterator was refused, getting another one");
                    self.drop_iterator();
                }
                Err(CallError::Sdk(error)) => return Err(Box::pin(self.failed("reading", *error)).await),
            }
        }
        Err(self.stream.unavailable(&format!(
            "{MAX_ITERATORS_PER_READ} new iterators of {} were refused one after the other",
            self.shard_id
        )))
    }
}
