//! One open shard of a hand-off buffer: what its two sides, receiving and serving, share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use object_store::path::Path;
use shard_worker::{ByteReservation, Record, RetryPolicy, Shard, SourceError, SourceErrorKind, StreamSource};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Duration;

use super::block::Owner;
use super::ledger::{Ledger, Next};
use super::name::BlockName;
use super::room::{Hold, Room};
use super::stores::BlockStores;
use super::usage::Counts;

/// How long opening a shard of the stream, or one read of it, may take. The time-outs of a source itself are shorter; this
/// one is there so that nothing can hang.
pub(super) const READ_TIME_LIMIT: Duration = Duration::from_secs(120);

/// A block in memory.
#[derive(Debug)]
pub(super) struct InMemory {
    pub(super) content: InMemoryContent,
    pub(super) millis_behind_latest: Option<u64>,
    /// What it takes of the buffer's memory; none of a block that was read for being handed over at once.
    pub(super) _memory: Option<ByteReservation>,
    pub(super) _spare: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) enum InMemoryContent {
    Records(Vec<Record>),
    End(Vec<Shard>),
}

/// Where and as whose blocks of a shard are stored.
#[derive(Debug)]
pub(super) struct Storing {
    pub(super) owner: Owner,
    /// The folder in each store.
    pub(super) folder: Path,
    /// Tells blocks of other owners by their names.
    pub(super) tag: u32,
}

impl Storing {
    pub(super) fn path(&self, name: &BlockName) -> Path {
        self.folder.clone().join(name.file_name(self.tag))
    }
}

/// One open shard.
#[derive(Debug)]
pub(super) struct OpenShard {
    pub(super) source: Arc<dyn StreamSource>,
    pub(super) shard_id: lease_store::ShardId,
    pub(super) stores: BlockStores,
    /// `None`: there is no store, and nothing is stored.
    pub(super) storing: Option<Storing>,
    pub(super) room: Room,
    pub(super) retry: RetryPolicy,
    pub(super) counts: Arc<Counts>,
    pub(super) state: Mutex<State>,
    /// Counts the changes of the state, so that whoever waits for one notices.
    pub(super) version: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger<InMemory, Hold>,
    /// What failed last, until the worker hears of it.
    pub(super) trouble: Option<SourceError>,
    /// Why nothing is received, as long as that is so: the worker hears it again whenever nothing else is there for it.
    pub(super) standstill: Option<(SourceErrorKind, String)>,
    /// The worker waits for records.
    pub(super) is_asking: bool,
    /// The lag that the last answer of the stream told, in milliseconds.
    pub(super) lag: Option<u64>,
    /// The arrival of the newest record in the shard, as far as an answer told.
    pub(super) tip: Option<SystemTime>,
}

impl OpenShard {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.version.send_modify(|version| *version += 1);
        changed
    }

    /// Waits until the state is so.
    pub(super) async fn wait_until(&self, mut is_so: impl FnMut(&mut State) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            // Marked as seen before the look: a change after it wakes the wait below.
            version.mark_unchanged();
            if is_so(&mut self.state()) {
                return;
            }
            // The sender lives as long as this.
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Receiving goes on; an error that the worker has not heard of is told to people here.
    pub(super) fn goes_on(&self) {
        let unheard = self.change(|state| {
            state.standstill = None;
            state.trouble.take()
        });
        if let Some(error) = unheard {
            tracing::warn!(%error, "the hand-off buffer received nothing for a while; now it does again");
        }
    }

    /// Reports an error to the worker, which hears of it when nothing else is there for it.
    pub(super) fn report(&self, error: SourceError) {
        let unheard = self.change(|state| {
            state.standstill = Some((error.kind(), error.to_string()));
            state.trouble.replace(error)
        });
        if let Some(error) = unheard {
            tracing::warn!(%error, "the hand-off buffer does not receive at the moment");
        }
    }
}

impl State {
    /// Whether there is something to tell the worker.
    pub(super) fn has_news(&mut self) -> bool {
        self.ledger.next() != Next::Wait || self.trouble.is_some()
    }
}
