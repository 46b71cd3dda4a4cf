//! The buffer of one open shard: the state that its writer and its reader share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lease_store::ShardId;
use object_store::path::Path;
use shard_worker::{ByteReservation, Record, RetryPolicy, SourceError, SourceErrorKind, StreamSource};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Duration;

use crate::block::{Content, Owner};
use crate::block_name::BlockName;
use crate::block_queue::{BlockQueue, Next};
use crate::block_stores::BlockStores;
use crate::capacity::{Capacity, StoreReservation};
use crate::usage::Counts;

/// Time limit for opening a shard of the stream, and for one read of it, so that nothing can hang. A source's own time-outs
/// are shorter.
pub(crate) const READ_TIME_LIMIT: Duration = Duration::from_secs(120);

/// A block in memory.
#[derive(Debug)]
pub(crate) struct InMemory {
    pub(crate) content: Content,
    pub(crate) millis_behind_latest: Option<u64>,
    /// The block's share of the buffer's memory; `None` for a stored block that was read to be served at once.
    pub(crate) _memory: Option<ByteReservation>,
    pub(crate) _overflow: Option<OwnedSemaphorePermit>,
}

impl InMemory {
    /// The memory of its records, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        match &self.content {
            Content::Records(records) => records.iter().map(Record::memory_bytes).sum(),
            Content::End(_) => 0,
        }
    }
}

/// The folder of a shard's blocks, the same in each store, and the owner that each block in it names.
#[derive(Debug)]
pub(crate) struct BlockFolder {
    pub(crate) owner: Owner,
    pub(crate) path: Path,
    /// Distinguishes blocks of other applications and streams by their names.
    pub(crate) tag: u32,
}

impl BlockFolder {
    pub(crate) fn block_path(&self, name: &BlockName) -> Path {
        self.path.clone().join(name.file_name(self.tag))
    }
}

/// The buffer of one open shard.
#[derive(Debug)]
pub(crate) struct ShardBuffer {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) shard_id: ShardId,
    pub(crate) stores: BlockStores,
    /// `None` without a store.
    pub(crate) folder: Option<BlockFolder>,
    pub(crate) capacity: Capacity,
    pub(crate) retry: RetryPolicy,
    pub(crate) counts: Arc<Counts>,
    pub(crate) state: Mutex<State>,
    /// Counts the changes of the state, and wakes tasks that wait for one.
    pub(crate) version: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: BlockQueue<InMemory, StoreReservation>,
    /// The last error, until the worker receives it.
    pub(crate) unreported: Option<SourceError>,
    /// The error that receiving is halted by. The worker receives it again with each read that has no records.
    pub(crate) halted: Option<(SourceErrorKind, String)>,
    /// Whether the reader waits for records.
    pub(crate) is_reader_waiting: bool,
    /// The lag in the last answer of the stream, in milliseconds.
    pub(crate) lag: Option<u64>,
    /// The arrival of the newest record in the shard, computed from the answers of the stream.
    pub(crate) newest_arrival: Option<SystemTime>,
}

impl ShardBuffer {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the tasks that wait for a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.version.send_modify(|version| *version += 1);
        changed
    }

    /// Waits until the state meets a condition.
    pub(crate) async fn wait_until(&self, mut condition: impl FnMut(&mut State) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            // Marked as seen before the check, so that a later change wakes the wait below.
            version.mark_unchanged();
            if condition(&mut self.state()) {
                return;
            }
            // The sender lives as long as `self`.
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The error for a call of the stream that exceeded the time limit.
    pub(crate) fn too_slow(&self, action: &str) -> SourceError {
        let message =
            format!("{action} {} was cancelled: no answer within {READ_TIME_LIMIT:?}", self.shard_id);
        SourceError::new(SourceErrorKind::Unavailable, message)
    }

    /// Records that receiving works again, and logs an error that the worker has not received.
    pub(crate) fn resume(&self) {
        let unreported = self.change(|state| {
            state.halted = None;
            state.unreported.take()
        });
        if let Some(error) = unreported {
            tracing::warn!(%error, "the storage buffer receives again after an error");
        }
    }

    /// Records an error that halts receiving. The worker receives it when there is no record to serve; an earlier error
    /// that it has not received is logged.
    pub(crate) fn report(&self, error: SourceError) {
        let unreported = self.change(|state| {
            state.halted = Some((error.kind(), error.to_string()));
            state.unreported.replace(error)
        });
        if let Some(error) = unreported {
            tracing::warn!(%error, "the storage buffer receives nothing and retries");
        }
    }
}

impl State {
    /// Whether the reader has something to return.
    pub(crate) fn has_answer(&mut self) -> bool {
        self.queue.next() != Next::Wait || self.unreported.is_some()
    }
}
