//! Reads one shard: reserves memory before each read, and prefetches at most one batch.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use lease_store::{Position, ShardId};
use tokio::time::{Duration, timeout};

use crate::error::{SourceError, SourceErrorKind};
use crate::memory::byte_budget::{ByteBudget, ByteReservation};
use crate::source::{FetchedBatch, ReadFrom, RecordSource, StreamSource};

/// The time limit for opening a shard, and for one read of it. Sources have shorter time-outs of their own; this one
/// makes sure that no source can hang the worker.
const READ_TIME_LIMIT: Duration = Duration::from_secs(120);

/// A fetched batch and the memory reserved for it, or an error.
type ReadResult = Result<(FetchedBatch, ByteReservation), SourceError>;

type Reading = BoxFuture<'static, (Box<dyn RecordSource>, ReadResult)>;

/// Reads one shard.
///
/// Dropping the future of [`next`](Self::next) does not cancel the read that it started; only dropping this value does.
/// The service counts calls, and a cancelled read would have to queue for memory again.
pub(crate) struct Prefetch {
    source: Arc<dyn StreamSource>,
    shard_id: ShardId,
    budget: ByteBudget,
    /// A batch is prefetched if it cannot be larger than this.
    read_ahead_bytes: u64,
    /// `None`: not opened yet, or owned by `reading`. It is kept after an error: it resumes where its last answer ended,
    /// while a new reader at LATEST would skip the records that arrived in between.
    reader: Option<Box<dyn RecordSource>>,
    reading: Option<Reading>,
    prefetched: Option<ReadResult>,
}

impl fmt::Debug for Prefetch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Prefetch")
            .field("shard_id", &self.shard_id)
            .field("prefetched", &self.prefetched)
            .finish_non_exhaustive()
    }
}

impl Prefetch {
    pub(crate) fn new(
        source: Arc<dyn StreamSource>,
        shard_id: ShardId,
        budget: ByteBudget,
        read_ahead_bytes: u64,
    ) -> Self {
        Self { source, shard_id, budget, read_ahead_bytes, reader: None, reading: None, prefetched: None }
    }

    /// Whether the shard is open. If it is not, the next read has to open it first.
    pub(crate) fn is_opened(&self) -> bool {
        self.reader.is_some() || self.reading.is_some()
    }

    /// Opens the shard.
    pub(crate) async fn open(&mut self, from: &ReadFrom) -> Result<(), SourceError> {
        let opened = timeout(READ_TIME_LIMIT, self.source.open(&self.shard_id, from)).await;
        self.reader = Some(opened.unwrap_or_else(|_| Err(too_slow("opening", &self.shard_id)))?);
        Ok(())
    }

    /// The next read. Safe to cancel; the next call continues the same read.
    pub(crate) async fn next(&mut self) -> ReadResult {
        match self.prefetched.take() {
            Some(prefetched) => prefetched,
            None => self.read(false).await,
        }
    }

    /// Reports the checkpoint of the shard to the source, unless a read is in flight.
    pub(crate) fn checkpointed(&mut self, position: &Position) {
        if let Some(reader) = &mut self.reader {
            reader.checkpointed(position);
        }
    }

    /// Waits for `other`, and prefetches meanwhile.
    pub(crate) async fn prefetch_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = other => done,
            never = self.prefetch() => match never {},
        }
    }

    async fn prefetch(&mut self) -> std::convert::Infallible {
        while self.read_ahead_bytes > 0 && self.prefetched.is_none() && self.is_opened() {
            let read = self.read(true).await;
            // An empty answer is dropped: the next read reports a newer lag.
            let is_empty = read
                .as_ref()
                .is_ok_and(|(fetched, _)| fetched.records.is_empty() && fetched.shard_end.is_none());
            self.prefetched = Some(read).filter(|_| !is_empty);
        }
        std::future::pending().await
    }

    async fn read(&mut self, is_prefetch: bool) -> ReadResult {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            None => {
                let Some(reader) = &mut self.reader else {
                    return Err(SourceError::new(SourceErrorKind::Invalid, "the shard is not opened"));
                };
                let bytes = reader.ready().await;
                if is_prefetch && bytes > self.read_ahead_bytes {
                    // Too large to prefetch: wait until the application has processed its batch.
                    std::future::pending::<()>().await;
                }
                let Some(reader) = self.reader.take() else {
                    return Err(SourceError::new(SourceErrorKind::Invalid, "the shard is not opened"));
                };
                self.reading.insert(Box::pin(read(reader, self.budget.clone(), bytes, self.shard_id.clone())))
            }
        };
        let (reader, result) = reading.await;
        self.reading = None;
        self.reader = Some(reader);
        result
    }
}

/// One read: reserves the memory, then makes the call.
async fn read(
    mut reader: Box<dyn RecordSource>,
    budget: ByteBudget,
    bytes: u64,
    shard_id: ShardId,
) -> (Box<dyn RecordSource>, ReadResult) {
    let mut reservation = budget.reserve(bytes).await;
    let answer = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
    let result = answer.unwrap_or_else(|_| Err(too_slow("reading", &shard_id))).map(|fetched| {
        reservation.resize(fetched.memory_bytes());
        (fetched, reservation)
    });
    (reader, result)
}

fn too_slow(action: &str, shard_id: &ShardId) -> SourceError {
    let message = format!("{action} {shard_id} took longer than {READ_TIME_LIMIT:?} and was cancelled");
    SourceError::new(SourceErrorKind::Unavailable, message)
}
