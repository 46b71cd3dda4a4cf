//! Whether the stream is still the one that the lease table belongs to. A stream can be deleted and created again under the
//! same name while workers run, and its positions then mean nothing.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use lease_store::{Position, SequenceNumber, ShardId, StreamIdentity};
use shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardFilter, SourceError, SourceErrorKind,
    StreamDescription, StreamSource,
};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{ConsumerError, ConsumerErrorKind};
use crate::shards::table_identity::recreated_stream;

/// How long a description of the stream is trusted when a shard is opened. It bounds the calls of one process.
const VERIFIED_FOR: Duration = Duration::from_secs(5);

/// How long a description may hold up the opening of shards. After that they are opened without it: a refused position or the
/// next audit still shows another stream.
const VERIFY_PATIENCE: Duration = Duration::from_secs(1);

/// The stream that a worker reads, and whether it or the table was found to be another one. Once that is found, the worker
/// reads and writes nothing more.
#[derive(Debug)]
pub(crate) struct Border {
    table: String,
    identity: StreamIdentity,
    crossed: CancellationToken,
    error: StdMutex<Option<ConsumerError>>,
    /// When the stream was last known to be the same. The lock is held during a description, so that readers share one.
    verified: Mutex<Verified>,
}

#[derive(Debug)]
struct Verified {
    at: Instant,
    /// A call failed in a way that another stream would explain, and the stream could not be described since.
    is_doubtful: bool,
}

impl Border {
    /// The border of a stream that was described at `verified_at`.
    pub(crate) fn new(table: &str, identity: StreamIdentity, verified_at: Instant) -> Self {
        Self {
            table: table.to_owned(),
            identity,
            crossed: CancellationToken::new(),
            error: StdMutex::new(None),
            verified: Mutex::new(Verified { at: verified_at, is_doubtful: false }),
        }
    }

    /// Records that the table does not belong to the stream or the application. Only the first error counts.
    pub(crate) fn cross(&self, error: ConsumerError) {
        tracing::error!(%error, "stopping: the lease table belongs to another stream or application");
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.crossed.cancel();
    }

    /// As [`cross`](Self::cross), if the error says so. Returns whether it does.
    pub(crate) fn cross_if_foreign(&self, error: ConsumerError) -> Option<ConsumerError> {
        if matches!(error.kind(), ConsumerErrorKind::WrongStream | ConsumerErrorKind::WrongApplication) {
            self.cross(error);
            return None;
        }
        Some(error)
    }

    /// Waits until the border is crossed.
    pub(crate) async fn crossed(&self) {
        self.crossed.cancelled().await;
    }

    /// The error of the worker that found the border crossed.
    pub(crate) fn error(&self) -> ConsumerError {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The error is stored before the token is cancelled.
        error.unwrap_or_else(|| recreated_stream(&self.table, &self.identity, &self.identity))
    }

    fn refusal(&self) -> SourceError {
        let why = format!("the stream is not {} any more; nothing is read from it", self.identity);
        SourceError::new(SourceErrorKind::StreamNotFound, why)
    }

    /// Compares a description with the stream of this worker.
    ///
    /// # Errors
    /// `StreamNotFound` when it is another stream.
    fn compare(&self, description: &StreamDescription) -> Result<(), SourceError> {
        if description.identity == self.identity {
            return Ok(());
        }
        self.cross(recreated_stream(&self.table, &self.identity, &description.identity));
        Err(self.refusal())
    }

    /// Describes the stream, unless that was done since `since`.
    async fn verify(
        &self,
        source: &dyn StreamSource,
        since: Instant,
        is_doubtful: bool,
    ) -> Result<(), SourceError> {
        let mut verified = self.verified.lock().await;
        if self.crossed.is_cancelled() {
            return Err(self.refusal());
        }
        if verified.at >= since && !verified.is_doubtful {
            return Ok(());
        }
        verified.is_doubtful |= is_doubtful;
        let called_at = Instant::now();
        let described = match verified.is_doubtful {
            true => source.describe().await,
            false => match timeout(VERIFY_PATIENCE, source.describe()).await {
                Ok(described) => described,
                Err(_) => {
                    tracing::debug!("describing the stream again was not answered in time, reading goes on");
                    verified.at = Instant::now();
                    return Ok(());
                }
            },
        };
        match described {
            Ok(description) => {
                self.compare(&description)?;
                *verified = Verified { at: called_at, is_doubtful: false };
                Ok(())
            }
            Err(error) if verified.is_doubtful || error.kind() == SourceErrorKind::StreamNotFound => {
                verified.is_doubtful = true;
                Err(error)
            }
            Err(error) => {
                tracing::debug!(%error, "describing the stream again failed, reading goes on");
                Ok(())
            }
        }
    }

    /// Verifies the stream before a call that another stream could answer.
    async fn verify_recently(&self, source: &dyn StreamSource) -> Result<(), SourceError> {
        let now = Instant::now();
        self.verify(source, now.checked_sub(VERIFIED_FOR).unwrap_or(now), false).await
    }

    /// Verifies the stream after a failed call. Returns the error to report.
    async fn explain(
        &self,
        source: &dyn StreamSource,
        called_at: Instant,
        error: SourceError,
    ) -> SourceError {
        let may_be_another_stream = matches!(
            error.kind(),
            SourceErrorKind::StreamNotFound | SourceErrorKind::ShardNotFound | SourceErrorKind::Invalid
        );
        if !may_be_another_stream {
            return error;
        }
        match self.verify(source, called_at, true).await {
            Ok(()) => error,
            Err(unverified) => unverified,
        }
    }
}

/// A stream that is read only while it is the one that the worker started with.
#[derive(Debug, Clone)]
pub(crate) struct VerifiedStream {
    source: Arc<dyn StreamSource>,
    border: Arc<Border>,
}

impl VerifiedStream {
    pub(crate) fn new(source: Arc<dyn StreamSource>, border: Arc<Border>) -> Self {
        Self { source, border }
    }
}

#[async_trait]
impl StreamSource for VerifiedStream {
    fn stream_name(&self) -> &str {
        self.source.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        let description = self.source.describe().await?;
        self.border.compare(&description)?;
        Ok(description)
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.border.verify_recently(self.source.as_ref()).await?;
        let called_at = Instant::now();
        match self.source.list_shards(filter).await {
            Ok(shards) => Ok(shards),
            Err(error) => Err(self.border.explain(self.source.as_ref(), called_at, error).await),
        }
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        self.border.verify_recently(self.source.as_ref()).await?;
        let called_at = Instant::now();
        match self.source.open(shard_id, from).await {
            Ok(reader) => Ok(Box::new(VerifiedReader { reader, stream: self.clone() })),
            Err(error) => Err(self.border.explain(self.source.as_ref(), called_at, error).await),
        }
    }

    fn shard_started_at(&self, shard_id: &ShardId, record: &SequenceNumber) -> Option<SystemTime> {
        self.source.shard_started_at(shard_id, record)
    }
}

#[derive(Debug)]
struct VerifiedReader {
    reader: Box<dyn RecordSource>,
    stream: VerifiedStream,
}

#[async_trait]
impl RecordSource for VerifiedReader {
    async fn ready(&mut self) -> u64 {
        self.reader.ready().await
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let called_at = Instant::now();
        match self.reader.next_batch().await {
            Ok(batch) => Ok(batch),
            Err(error) => {
                let VerifiedStream { source, border } = &self.stream;
                Err(border.explain(source.as_ref(), called_at, error).await)
            }
        }
    }

    fn checkpointed(&mut self, position: &Position) {
        self.reader.checkpointed(position);
    }
}
