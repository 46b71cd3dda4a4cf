//! The intake of a shard: reads it, with memory set aside before each read, and at most one batch ahead.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use lease_store::{Position, ShardId};
use tokio::time::{Duration, timeout};

use crate::{
    ByteBudget, ByteReservation, FetchedBatch, ReadFrom, RecordSource, SourceError, SourceErrorKind,
    StreamSource,
};

/// How long opening a shard, or one read of it, may take. The time-outs of a source itself are shorter; this one is there
/// so that nothing can hang.
const READ_TIME_LIMIT: Duration = Duration::from_secs(120);

/// What a read gave, and the memory it takes.
#[derive(Debug)]
pub(crate) struct Intaken {
    pub(crate) fetched: FetchedBatch,
    pub(crate) reservation: ByteReservation,
}

type Reading = BoxFuture<'static, (Box<dyn RecordSource>, Result<Intaken, SourceError>)>;

/// Reads one shard.
///
/// A read that began is not given up when the one who asked for it goes away, only when all of this is dropped: calls are
/// counted by the service, and a place in the queue for memory is lost.
pub(crate) struct Intake {
    source: Arc<dyn StreamSource>,
    shard_id: ShardId,
    budget: ByteBudget,
    /// A batch is read ahead if it cannot be larger than this.
    read_ahead_bytes: u64,
    /// `None`: not opened yet, or in the hand of `reading`. It is kept over errors: it goes on where its last answer
    /// ended, while a new one at LATEST would skip what arrived in between.
    reader: Option<Box<dyn RecordSource>>,
    reading: Option<Reading>,
    /// What was read ahead.
    ahead: Option<Result<Intaken, SourceError>>,
}

impl fmt::Debug for Intake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Intake")
            .field("shard_id", &self.shard_id)
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl Intake {
    pub(crate) fn new(
        source: Arc<dyn StreamSource>,
        shard_id: ShardId,
        budget: ByteBudget,
        read_ahead_bytes: u64,
    ) -> Self {
        Self { source, shard_id, budget, read_ahead_bytes, reader: None, reading: None, ahead: None }
    }

    /// Whether the next read has to open the shard first.
    pub(crate) fn is_opened(&self) -> bool {
        self.reader.is_some() || self.reading.is_some()
    }

    /// Opens the shard.
    pub(crate) async fn open(&mut self, from: &ReadFrom) -> Result<(), SourceError> {
        let opened = timeout(READ_TIME_LIMIT, self.source.open(&self.shard_id, from)).await;
        self.reader = Some(opened.unwrap_or_else(|_| Err(too_slow("opening", &self.shard_id)))?);
        Ok(())
    }

    /// The next read. Safe to cancel; the next call goes on with the same read.
    pub(crate) async fn next(&mut self) -> Result<Intaken, SourceError> {
        match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.read(false).await,
        }
    }

    /// Tells the source how far the shard is checkpointed, unless a read is under way.
    pub(crate) fn checkpointed(&mut self, position: &Position) {
        if let Some(reader) = &mut self.reader {
            reader.checkpointed(position);
        }
    }

    /// Waits for `other`, and reads ahead meanwhile.
    pub(crate) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = other => done,
            never = self.read_ahead() => match never {},
        }
    }

    async fn read_ahead(&mut self) -> std::convert::Infallible {
        while self.read_ahead_bytes > 0 && self.ahead.is_none() && self.is_opened() {
            let read = self.read(true).await;
            // What holds nothing is not worth the place: the next read tells the lag again.
            let is_empty = read
                .as_ref()
                .is_ok_and(|read| read.fetched.records.is_empty() && read.fetched.shard_end.is_none());
            self.ahead = Some(read).filter(|_| !is_empty);
        }
        std::future::pending().await
    }

    async fn read(&mut self, is_ahead: bool) -> Result<Intaken, SourceError> {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            None => {
                let Some(reader) = &mut self.reader else {
                    return Err(SourceError::new(SourceErrorKind::Invalid, "the shard is not opened"));
                };
                let bytes = reader.ready().await;
                if is_ahead && bytes > self.read_ahead_bytes {
                    // Too large to be read ahead: whoever has the batch before it is waited for first.
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

/// One read: first the memory, then the call.
async fn read(
    mut reader: Box<dyn RecordSource>,
    budget: ByteBudget,
    bytes: u64,
    shard_id: ShardId,
) -> (Box<dyn RecordSource>, Result<Intaken, SourceError>) {
    let mut reservation = budget.reserve(bytes).await;
    let answer = timeout(READ_TIME_LIMIT, reader.next_batch()).await;
    let result = answer.unwrap_or_else(|_| Err(too_slow("reading", &shard_id))).map(|fetched| {
        reservation.resize(fetched.memory_bytes());
        Intaken { fetched, reservation }
    });
    (reader, result)
}

fn too_slow(doing: &str, shard_id: &ShardId) -> SourceError {
    let message = format!("{doing} {shard_id} took longer than {READ_TIME_LIMIT:?} and was given up");
    SourceError::new(SourceErrorKind::Unavailable, message)
}
