//! Reads one shard with `GetShardIterator` and `GetRecords`.
//!
//! An iterator is disposable: it lives for five minutes, and what counts is the place in the shard it was made for.
//! That place only moves when an answer was converted as a whole and is handed over in the same breath, so an error
//! or a cancelled call loses nothing and repeats nothing.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::ShardIteratorType;
use lease_store::{SequenceNumber, ShardId};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, ShardEnd, ShardFilter, SourceError, SourceErrorKind, StreamSource,
};
use tokio::time::Instant;

use crate::call_notes::CallNotes;
use crate::get_records::{Answer, CallError};
use crate::read_pace::ReadPace;
use crate::service_time::from_system_time;
use crate::stream::KinesisStream;

/// How many iterators one read tries before it reports that the service refuses them.
const MAX_ITERATORS_PER_READ: usize = 3;

/// The service's clock is read from a header that is cut to whole seconds.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// Reads one shard from a position on, by polling.
#[derive(Debug)]
pub(crate) struct PollingSource {
    stream: KinesisStream,
    shard_id: ShardId,
    place: Place,
    /// Made for `place`; `None`: to be made.
    iterator: Option<String>,
    pace: ReadPace,
    end: Option<ShardEnd>,
}

/// How far the shard is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the oldest record.
    Oldest,
    /// At the first record that arrived at this time or later.
    Since(SystemTime),
    /// At this record.
    At(SequenceNumber),
    /// At the tip, as it was when the iterator was made: at this time or later, by the service's clock. An iterator
    /// that is made anew for the tip would skip what arrived in between; this time finds it again.
    Tip { since: Option<SystemTime> },
    /// After this record, which was handed over.
    After(SequenceNumber),
}

impl From<ReadFrom> for Place {
    fn from(from: ReadFrom) -> Self {
        match from {
            ReadFrom::TrimHorizon => Self::Oldest,
            ReadFrom::Latest => Self::Tip { since: None },
            ReadFrom::AtTimestamp(time) => Self::Since(time),
            ReadFrom::At(sequence_number) => Self::At(sequence_number),
        }
    }
}

impl PollingSource {
    pub(crate) fn new(stream: KinesisStream, shard_id: ShardId, from: ReadFrom) -> Self {
        Self::at_place(stream, shard_id, from.into())
    }

    /// Goes on where another source stopped.
    pub(crate) fn at_place(stream: KinesisStream, shard_id: ShardId, place: Place) -> Self {
        let pace = ReadPace::new(stream.read_rate());
        Self { stream, shard_id, place, iterator: None, pace, end: None }
    }

    /// How far the shard is read.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    async fn make_iterator(&mut self) -> Result<String, SourceError> {
        let request = self.stream.client().get_shard_iterator();
        let request = request.stream_name(self.stream.stream_name()).shard_id(self.shard_id.as_str());
        let request = match &self.place {
            Place::Oldest => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Place::Tip { .. } => request.shard_iterator_type(ShardIteratorType::Latest),
            Place::Since(time) => {
                let timestamp = from_system_time(*time);
                let timestamp =
                    timestamp.ok_or_else(|| self.stream.invalid("the time to start at is too far away"))?;
                request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(timestamp)
            }
            Place::At(sequence_number) => request
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(sequence_number.as_str()),
            Place::After(sequence_number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence_number.as_str()),
        };
        let (notes, asked_at) = (CallNotes::default(), Instant::now());
        let answer = request.customize().interceptor(notes.clone()).send().await;
        self.stream.note_endpoint(&notes);
        let iterator = match answer {
            Ok(answer) => answer.shard_iterator.filter(|iterator| !iterator.is_empty()),
            Err(error) => return Err(self.failed("making an iterator", error).await),
        };
        let iterator = iterator.ok_or_else(|| self.stream.invalid("GetShardIterator gave no iterator"))?;
        if let Place::Tip { since } = &mut self.place {
            // The iterator was made somewhere during the call, and the date is from its end.
            *since = notes.date().and_then(|date| date.checked_sub(asked_at.elapsed() + DATE_RESOLUTION));
        }
        Ok(iterator)
    }

    /// The iterator is not to be trusted any more: another one is made for the same place.
    fn drop_iterator(&mut self) {
        if self.iterator.take().is_none() {
            return;
        }
        match self.place {
            Place::Tip { since: Some(since) } => self.place = Place::Since(since),
            Place::Tip { since: None } => tracing::warn!(
                shard_id = %self.shard_id,
                "the iterator of LATEST is gone before the first record, and the service did not say when it was made; \
                 reading goes on at the tip, and records that arrived in between are not read"
            ),
            Place::Oldest | Place::Since(_) | Place::At(_) | Place::After(_) => {}
        }
    }

    /// The error of a call for this shard. The service says "not found" about the shard and about the stream with the
    /// same code, and a shard that is gone counts as read to its end: so only a listing without it is believed.
    async fn failed<E>(&mut self, doing: &str, error: SdkError<E>) -> SourceError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let error = self.stream.error(&format!("{doing} of {}", self.shard_id), error);
        match error.kind() {
            // These say nothing about the iterator. It is kept, for it may stand further on than the place, behind a
            // stretch without records.
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
        let (kind, what) = if shards.iter().any(|shard| shard.shard_id == self.shard_id) {
            (SourceErrorKind::Unavailable, "the stream lists it, but does not let it be read yet")
        } else {
            (SourceErrorKind::ShardNotFound, "the stream has no such shard")
        };
        SourceError::new(kind, format!("{what}: {error}")).with_source(error)
    }

    /// Takes an answer over and moves on; a faulty one changes nothing.
    fn take(&mut self, answer: Answer) -> Result<FetchedBatch, SourceError> {
        let millis_behind_latest =
            answer.millis_behind_latest.map(|millis| u64::try_from(millis).unwrap_or(0));
        let mut records = answer.records;
        let iterator = answer.next_iterator.filter(|iterator| !iterator.is_empty());
        let end = match &iterator {
            Some(_) => None,
            None => Some(self.stream.shard_end(answer.children)?),
        };

        if let Some(last) = records.last_mut() {
            // This number outlives the batch, here and in checkpoints: as a slice it would keep all of the answer alive.
            if let Ok(detached) = last.sequence_number.as_str().parse() {
                last.sequence_number = detached;
            }
            self.place = Place::After(last.sequence_number.clone());
        }
        self.iterator = iterator;
        self.end.clone_from(&end);
        let payload_bytes = records.iter().map(|record| record.data.len() as u64).sum();
        self.pace.answered(records.len(), payload_bytes, millis_behind_latest);
        Ok(FetchedBatch { records, millis_behind_latest, shard_end: end })
    }
}

#[async_trait]
impl RecordSource for PollingSource {
    async fn ready(&mut self) -> u64 {
        if self.end.is_some() {
            return 0;
        }
        self.pace.turn().await;
        self.pace.memory_at_most(Instant::now())
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        if let Some(end) = &self.end {
            return Ok(FetchedBatch {
                records: Vec::new(),
                millis_behind_latest: Some(0),
                shard_end: Some(end.clone()),
            });
        }
        for _ in 0..MAX_ITERATORS_PER_READ {
            self.pace.turn().await;
            // What is rare is kept out of this future, which is made anew for each read, whatever it is.
            if self.iterator.is_none() {
                self.iterator = Some(Box::pin(self.make_iterator()).await?);
            }
            let iterator = self.iterator.as_deref().unwrap_or_default();
            match self.stream.get_records().call(iterator, &mut self.pace).await {
                Ok(answer) => return self.take(answer),
                Err(CallError::SequenceNumber(error)) => {
                    let what = format!("a record of {}: {error}", self.shard_id);
                    return Err(self.stream.invalid(&what).with_source(error));
                }
                Err(error) if error.refused_iterator().is_some() => {
                    let (shard_id, code) = (&self.shard_id, error.refused_iterator());
                    tracing::debug!(%shard_id, code, "the iterator is refused; making another");
                    self.drop_iterator();
                }
                Err(CallError::Sdk(error)) => return Err(Box::pin(self.failed("reading", *error)).await),
            }
        }
        Err(self.stream.unavailable(&format!(
            "{MAX_ITERATORS_PER_READ} iterators of {} were refused, each right after it was made",
            self.shard_id
        )))
    }
}
