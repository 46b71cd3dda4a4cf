//! The usage of a storage buffer: bytes it holds and counters of its work.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bytes that a [`StorageBuffer`](crate::StorageBuffer) holds and counters of its work, over all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageUsage {
    /// Bytes of blocks in memory now: waiting for their reader, or being written to a store.
    pub memory_bytes: u64,
    /// The highest value of `memory_bytes` so far.
    pub most_memory_bytes: u64,
    /// Bytes of blocks of open shards in the local store.
    pub local_bytes: u64,
    /// Bytes of blocks of open shards in the replica store.
    pub replica_bytes: u64,
    /// Records received from the stream into blocks.
    pub received_records: u64,
    /// Blocks served from memory.
    pub from_memory: u64,
    /// Blocks read from the local store.
    pub from_local: u64,
    /// Blocks read from the replica store.
    pub from_replica: u64,
    /// Gaps backfilled from the stream, where a block was damaged in or missing from all stores.
    pub from_stream: u64,
    /// Gaps that the stream could no longer backfill completely.
    pub losses: u64,
    /// Failed calls of a store.
    pub store_failures: u64,
}

/// The counters of a [`StorageUsage`], shared by all shards of a buffer.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<StorageUsage>);

impl Counts {
    pub(crate) fn add(&self, add: impl FnOnce(&mut StorageUsage)) {
        add(&mut self.lock());
    }

    pub(crate) fn get(&self) -> StorageUsage {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, StorageUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
