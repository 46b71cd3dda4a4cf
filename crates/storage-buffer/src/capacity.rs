//! Capacity for blocks, in memory and in both stores, over all shards: reserved before the stream is read.

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::FutureExt as _;
use shard_worker::{ByteBudget, ByteReservation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::block_queue::Copies;
use crate::settings::StorageSettings;
use crate::storage_level::StorageLevel;

/// Levels with memory and disk reserve one part in this many of the memory for blocks that are being written to disk. So
/// writes to disk continue while blocks in memory wait for their processor.
const TRANSIT_DIVISOR: u64 = 4;

/// The capacity of one buffer.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    level: StorageLevel,
    /// For blocks that wait in memory.
    memory: ByteBudget,
    /// For blocks in memory that are being written to disk.
    transit: ByteBudget,
    local: ByteBudget,
    replica: ByteBudget,
    /// One permit to exceed all limits by one block. It goes to a shard without blocks whose worker waits for records.
    /// Without it, a shard whose processor hangs could keep all other shards from receiving.
    overflow: Arc<Semaphore>,
}

/// The capacity reserved for the stored copies of a block.
#[derive(Debug, Default)]
pub(crate) struct StoreReservation {
    local: Option<ByteReservation>,
    replica: Option<ByteReservation>,
    overflow: Option<OwnedSemaphorePermit>,
}

impl StoreReservation {
    /// Corrects the reservations to the actual size of the copies, in bytes.
    pub(crate) fn resize(&mut self, bytes: u64) {
        for reservation in [&mut self.local, &mut self.replica].into_iter().flatten() {
            reservation.resize(bytes);
        }
    }

    /// Returns the overflow permit, once every record of the block is processed.
    pub(crate) fn release_overflow(&mut self) {
        self.overflow = None;
    }
}

/// Capacity for one block.
#[derive(Debug)]
pub(crate) struct Grant {
    /// The memory in which the block waits or is written to disk.
    pub(crate) memory: ByteReservation,
    /// Whether the block waits in memory.
    pub(crate) stays_in_memory: bool,
    /// Whether the block is written to the local store.
    pub(crate) goes_to_disk: bool,
    pub(crate) stored: StoreReservation,
    /// The overflow permit, if the block is in no store.
    pub(crate) overflow: Option<OwnedSemaphorePermit>,
}

impl Capacity {
    pub(crate) fn new(settings: &StorageSettings) -> Self {
        let level = settings.level;
        let all = settings.max_memory_bytes;
        let transit = match (level.uses_memory(), level.uses_disk()) {
            (true, true) => all / TRANSIT_DIVISOR,
            (false, _) => all,
            (true, false) => 0,
        };
        let budget = |bytes: u64| ByteBudget::new(NonZeroU64::new(bytes).unwrap_or(NonZeroU64::MIN));
        Self {
            level,
            memory: budget(all - transit),
            transit: budget(transit),
            local: budget(settings.max_stored_bytes),
            replica: budget(settings.max_stored_bytes),
            overflow: Arc::new(Semaphore::new(1)),
        }
    }

    pub(crate) fn level(&self) -> StorageLevel {
        self.level
    }

    /// Bytes in use: in memory, in the local store and in the replica store.
    pub(crate) fn used(&self) -> [u64; 3] {
        let used = |budget: &ByteBudget| budget.usage().buffered_bytes;
        [used(&self.memory) + used(&self.transit), used(&self.local), used(&self.replica)]
    }

    /// The most bytes in memory so far, waiting or being written to disk.
    pub(crate) fn most_memory(&self) -> u64 {
        self.memory.usage().most_buffered_bytes + self.transit.usage().most_buffered_bytes
    }

    /// Counts a block that is stored already, by the sizes of its copies in bytes.
    pub(crate) fn count_stored(&self, local: Option<u64>, replica: Option<u64>) -> Copies<StoreReservation> {
        let reservation = StoreReservation {
            local: local.map(|bytes| self.local.count(bytes)),
            replica: replica.map(|bytes| self.replica.count(bytes)),
            overflow: None,
        };
        Copies { local, replica, reservation }
    }

    /// Waits for the capacity for a block of at most `bytes`, or for the overflow permit once `starving` returns because
    /// the shard has no block. Dropping the future returns all reservations.
    pub(crate) async fn grant(&self, bytes: u64, starving: impl Future<Output = ()>) -> Grant {
        let overflow = async {
            starving.await;
            // The semaphore is never closed.
            self.overflow.clone().acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            grant = self.grant_within(bytes) => grant,
            overflow = overflow => self.grant_overflow(bytes, overflow),
        }
    }

    /// Corrects a grant to the actual size of its block, in bytes. A block that was granted disk because of its announced
    /// size stays in memory if its actual size fits there.
    pub(crate) fn resize(&self, grant: &mut Grant, bytes: u64) {
        grant.memory.resize(bytes);
        if grant.goes_to_disk
            && self.level.uses_memory()
            && let Some(memory) = self.memory.reserve(bytes).now_or_never()
        {
            grant.memory = memory;
            (grant.stays_in_memory, grant.goes_to_disk) = (true, false);
            grant.stored.local = None;
        }
    }

    async fn grant_within(&self, bytes: u64) -> Grant {
        let replica = match self.level.is_replicated() {
            true => Some(self.replica.reserve(bytes).await),
            false => None,
        };
        let in_memory = self.memory.reserve(bytes);
        let on_disk = async { (self.local.reserve(bytes).await, self.transit.reserve(bytes).await) };
        let (memory, local) = match (self.level.uses_memory(), self.level.uses_disk()) {
            (true, false) => (in_memory.await, None),
            (false, _) => {
                let (local, memory) = on_disk.await;
                (memory, Some(local))
            }
            (true, true) => tokio::select! {
                biased;
                memory = in_memory => (memory, None),
                (local, memory) = on_disk => (memory, Some(local)),
            },
        };
        Grant {
            memory,
            stays_in_memory: local.is_none(),
            goes_to_disk: local.is_some(),
            stored: StoreReservation { local, replica, overflow: None },
            overflow: None,
        }
    }

    fn grant_overflow(&self, bytes: u64, mut overflow: Option<OwnedSemaphorePermit>) -> Grant {
        let stays_in_memory = self.level.uses_memory();
        let goes_to_disk = !stays_in_memory;
        let is_stored = goes_to_disk || self.level.is_replicated();
        let memory = if stays_in_memory { &self.memory } else { &self.transit };
        Grant {
            memory: memory.count(bytes),
            stays_in_memory,
            goes_to_disk,
            stored: StoreReservation {
                local: goes_to_disk.then(|| self.local.count(bytes)),
                replica: self.level.is_replicated().then(|| self.replica.count(bytes)),
                overflow: overflow.take_if(|_| is_stored),
            },
            overflow,
        }
    }
}
