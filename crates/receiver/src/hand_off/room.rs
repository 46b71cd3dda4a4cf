//! Room for blocks, in memory and in both places, over all shards: set aside before anything is read.

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::FutureExt as _;
use shard_worker::{ByteBudget, ByteReservation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ledger::Kept;
use super::{HandOffSettings, StorageLevel};

/// Of a level with memory and a disk, this part of the memory is for blocks on their way to the disk: so they always get
/// there, however long those in memory wait to be processed.
const TRANSIT_DIVISOR: u64 = 4;

/// The room of one process.
#[derive(Debug, Clone)]
pub(super) struct Room {
    level: StorageLevel,
    /// For blocks that wait in memory.
    memory: ByteBudget,
    /// For blocks on their way to the disk.
    transit: ByteBudget,
    local: ByteBudget,
    replica: ByteBudget,
    /// One block may go beyond all limits at a time: that of a shard that has nothing, and whose worker waits. Without it a
    /// shard whose processor hangs could keep all others from receiving.
    spare: Arc<Semaphore>,
}

/// What is held for the stored copies of a block.
#[derive(Debug, Default)]
pub(super) struct Hold {
    local: Option<ByteReservation>,
    replica: Option<ByteReservation>,
    spare: Option<OwnedSemaphorePermit>,
}

impl Hold {
    /// Corrects what was set aside to the size of the copies, in bytes.
    pub(super) fn resize(&mut self, bytes: u64) {
        for reservation in [&mut self.local, &mut self.replica].into_iter().flatten() {
            reservation.resize(bytes);
        }
    }

    /// Gives the spare place back: everything in the block is processed.
    pub(super) fn release_spare(&mut self) {
        self.spare = None;
    }
}

/// Room for one block.
#[derive(Debug)]
pub(super) struct Granted {
    /// Its memory: where it waits, or on the way to the disk.
    pub(super) memory: ByteReservation,
    /// Whether it waits in memory.
    pub(super) stays_in_memory: bool,
    /// Whether it is to be written to the first place.
    pub(super) goes_to_disk: bool,
    pub(super) hold: Hold,
    /// The spare place, of a block that is stored nowhere.
    pub(super) spare: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(settings: &HandOffSettings) -> Self {
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
            spare: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) fn level(&self) -> StorageLevel {
        self.level
    }

    /// Bytes in memory, in the first place and in the second.
    pub(super) fn used(&self) -> [u64; 3] {
        let used = |budget: &ByteBudget| budget.usage().buffered_bytes;
        [used(&self.memory) + used(&self.transit), used(&self.local), used(&self.replica)]
    }

    /// The most bytes that were in memory at a time, waiting and on their way.
    pub(super) fn most_memory(&self) -> u64 {
        self.memory.usage().most_buffered_bytes + self.transit.usage().most_buffered_bytes
    }

    /// Counts a block that is stored already; the sizes of its copies, in bytes.
    pub(super) fn count(&self, local: Option<u64>, replica: Option<u64>) -> Kept<Hold> {
        let hold = Hold {
            local: local.map(|bytes| self.local.count(bytes)),
            replica: replica.map(|bytes| self.replica.count(bytes)),
            spare: None,
        };
        Kept { local, replica, hold }
    }

    /// Room for a block of so many bytes at most; waits until it is there, or until `starving` says that the shard has
    /// nothing and the spare place is free. Dropping the future gives everything back.
    pub(super) async fn grant(&self, bytes: u64, starving: impl Future<Output = ()>) -> Granted {
        let spare = async {
            starving.await;
            // The semaphore is never closed.
            self.spare.clone().acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            granted = self.grant_within(bytes) => granted,
            spare = spare => self.grant_beyond(bytes, spare),
        }
    }

    /// Corrects room to the block that it turned out to be for, in bytes. One that was to go to the disk, since a larger one
    /// would have found no room in memory, stays there if it does.
    pub(super) fn settle(&self, granted: &mut Granted, bytes: u64) {
        granted.memory.resize(bytes);
        if granted.goes_to_disk
            && self.level.uses_memory()
            && let Some(memory) = self.memory.reserve(bytes).now_or_never()
        {
            granted.memory = memory;
            (granted.stays_in_memory, granted.goes_to_disk) = (true, false);
            granted.hold.local = None;
        }
    }

    async fn grant_within(&self, bytes: u64) -> Granted {
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
        Granted {
            memory,
            stays_in_memory: local.is_none(),
            goes_to_disk: local.is_some(),
            hold: Hold { local, replica, spare: None },
            spare: None,
        }
    }

    fn grant_beyond(&self, bytes: u64, mut spare: Option<OwnedSemaphorePermit>) -> Granted {
        let stays_in_memory = self.level.uses_memory();
        let goes_to_disk = !stays_in_memory;
        let is_stored = goes_to_disk || self.level.is_replicated();
        let memory = if stays_in_memory { &self.memory } else { &self.transit };
        Granted {
            memory: memory.count(bytes),
            stays_in_memory,
            goes_to_disk,
            hold: Hold {
                local: goes_to_disk.then(|| self.local.count(bytes)),
                replica: self.level.is_replicated().then(|| self.replica.count(bytes)),
                spare: spare.take_if(|_| is_stored),
            },
            spare,
        }
    }
}
