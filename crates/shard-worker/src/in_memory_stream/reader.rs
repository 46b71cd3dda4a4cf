//! Reads one shard of an in-memory stream.

use async_trait::async_trait;
use lease_store::{SequenceNumber, ShardId};
use tokio::time::{Duration, Instant, timeout_at};

use super::InMemoryStream;
use crate::{FetchedBatch, RecordSource, ShardEnd, SourceError};

/// A reader that waits for records answers at least this often, so that the lag stays current.
const IDLE_ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// Reads one shard from a position on.
#[derive(Debug)]
pub(super) struct InMemoryReader {
    pub(super) stream: InMemoryStream,
    pub(super) shard_id: ShardId,
    /// The newest number that was returned; `None`: none yet, and reading starts at the trim horizon.
    pub(super) after: Option<SequenceNumber>,
}

#[async_trait]
impl RecordSource for InMemoryReader {
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let mut version = self.stream.subscribe();
        let deadline = Instant::now() + IDLE_ANSWER_INTERVAL;
        loop {
            // Marked as seen before the read: a change after it wakes the wait below.
            version.mark_unchanged();
            let batch = self.stream.read(&self.shard_id, self.after.as_ref())?;
            let is_late = Instant::now() >= deadline;
            if !batch.records.is_empty() || batch.end.is_some() || is_late {
                if let Some(last) = batch.records.last() {
                    self.after = Some(last.sequence_number.clone());
                }
                let unread_for = batch.newest_unread.and_then(|newest| {
                    let read_to = batch.records.last()?.approximate_arrival?;
                    newest.duration_since(read_to).ok()
                });
                let millis_behind_latest = unread_for.unwrap_or_default().as_millis();
                return Ok(FetchedBatch {
                    records: batch.records,
                    millis_behind_latest: Some(u64::try_from(millis_behind_latest).unwrap_or(u64::MAX)),
                    shard_end: batch.end.map(|children| ShardEnd { children }),
                });
            }
            // The sender lives in the stream that this reader holds, so only a change or the deadline ends the wait.
            let _ = timeout_at(deadline, version.changed()).await;
        }
    }
}
