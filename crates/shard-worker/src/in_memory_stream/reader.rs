//! A reader of one shard of an in-memory stream.

use async_trait::async_trait;
use lease_store::{SequenceNumber, ShardId};
use tokio::time::{Duration, Instant, timeout_at};

use super::InMemoryStream;
use crate::error::SourceError;
use crate::source::{FetchedBatch, RecordSource, ShardEnd};

/// A reader that waits for records answers at least this often, so that the lag stays current.
const IDLE_ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// Reads one shard, starting after a sequence number.
#[derive(Debug)]
pub(super) struct InMemoryReader {
    pub(super) stream: InMemoryStream,
    pub(super) shard_id: ShardId,
    /// The newest returned number; `None`: reading starts at the trim horizon.
    pub(super) after: Option<SequenceNumber>,
    /// The announced memory of the next read, in bytes.
    pub(super) announced: Option<u64>,
}

#[async_trait]
impl RecordSource for InMemoryReader {
    async fn ready(&mut self) -> u64 {
        if let Some(bytes) = self.announced {
            return bytes;
        }
        let mut version = self.stream.subscribe();
        let deadline = Instant::now() + IDLE_ANSWER_INTERVAL;
        loop {
            // Marked as seen before the check: a later change ends the wait below.
            version.mark_unchanged();
            let found = self.stream.next_read_bytes(&self.shard_id, self.after.as_ref());
            if found.is_some() || Instant::now() >= deadline {
                let bytes = found.unwrap_or(0);
                self.announced = Some(bytes);
                return bytes;
            }
            // The sender belongs to the stream that this reader owns, so only a change or the deadline ends the wait.
            let _ = timeout_at(deadline, version.changed()).await;
        }
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let announced = self.ready().await;
        self.announced = None;
        // Records that arrived since the announcement wait for the next read, which reserves memory for them.
        let batch = self.stream.read(&self.shard_id, self.after.as_ref(), announced)?;
        if let Some(last) = batch.records.last() {
            self.after = Some(last.sequence_number.clone());
        }
        let unread_for = batch.newest_unread.and_then(|newest| {
            let read_to = batch.records.last()?.approximate_arrival?;
            newest.duration_since(read_to).ok()
        });
        let millis_behind_latest = unread_for.unwrap_or_default().as_millis();
        Ok(FetchedBatch {
            records: batch.records,
            millis_behind_latest: Some(u64::try_from(millis_behind_latest).unwrap_or(u64::MAX)),
            shard_end: batch.end.map(|children| ShardEnd { children }),
        })
    }
}
