//! What a hand-off buffer holds and did, as data.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a [`HandOffBuffer`](super::HandOffBuffer) holds, and what it did so far, over all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandOffUsage {
    /// Bytes of blocks in memory now: waiting, and on their way to the disk.
    pub memory_bytes: u64,
    /// The most bytes in memory so far.
    pub most_memory_bytes: u64,
    /// Bytes of stored blocks of open shards in the first place.
    pub local_bytes: u64,
    /// The same in the second place.
    pub replica_bytes: u64,
    /// Records received from the stream into blocks.
    pub received_records: u64,
    /// Blocks handed over from memory.
    pub from_memory: u64,
    /// Blocks read from the first place.
    pub from_local: u64,
    /// Blocks read from the second place.
    pub from_replica: u64,
    /// Gaps closed by reading the stream again: blocks that were damaged or missing in all places.
    pub from_stream: u64,
    /// Gaps of which the stream had not everything any more.
    pub losses: u64,
    /// Calls of a store that failed.
    pub store_failures: u64,
}

/// The counters of it.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HandOffUsage>);

impl Counts {
    pub(super) fn add(&self, add: impl FnOnce(&mut HandOffUsage)) {
        add(&mut self.lock());
    }

    pub(super) fn get(&self) -> HandOffUsage {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, HandOffUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
