//! The hand-off buffer: receiving is decoupled from processing, at one of Spark's storage levels.
//!
//! A [`HandOffBuffer`] goes around a stream. Each shard that is opened through it is received in the background, ahead of
//! processing, into blocks that wait in memory, on disk, and in a second place; its reader hands them over in order. What
//! is acknowledged, retried and checkpointed is decided above it, as without: the position of a shard follows what was
//! processed, never what was received, so nothing depends on the survival of a block. What is gone is read again from the
//! stream by its range.
//!
//! `ledger` decides what comes next, `healing` what of a re-read belongs to a gap, both without I/O; `receiving` and `reader`
//! are the two sides of a shard; `block` and `name` are the format.

mod block;
mod edge;
mod healing;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod level;
mod name;
mod reader;
mod receiving;
mod room;
mod settings;
mod shard;
mod stores;
mod usage;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use fastrand::Rng;
use lease_store::ShardId;
use object_store::path::Path;
use shard_worker::{
    ReadFrom, RecordSource, RetryPolicy, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};
use tokio::sync::{OnceCell, watch};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use self::block::{BlockError, HandOffBlock};
pub use self::level::StorageLevel;
pub use self::settings::HandOffSettings;
pub use self::stores::BlockStores;
pub use self::usage::HandOffUsage;

use self::block::Owner;
use self::edge::Edge;
use self::ledger::{Kept, Ledger};
use self::name::{BlockName, Parsed, identity_tag};
use self::reader::{BufferedReader, refused};
use self::room::{Hold, Room};
use self::shard::{OpenShard, State, Storing};
use self::usage::Counts;
use crate::builder::fresh_rng;
use crate::{ReceiverError, ReceiverErrorKind};

/// Waits before a store is tried again grow from the first to the second.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// A stream that is received ahead of processing into blocks. Clones are the same buffer.
///
/// ```
/// use std::num::NonZeroUsize;
/// use receiver::{BlockStores, HandOffBuffer, HandOffSettings, Receiver, StorageLevel};
/// use shard_worker::InMemoryStream;
///
/// # fn main() -> Result<(), receiver::ReceiverError> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # let _guard = runtime.enter();
/// let stream = InMemoryStream::new("clicks", NonZeroUsize::MIN);
/// let settings = HandOffSettings::new("count-clicks", StorageLevel::MemoryOnly);
/// let buffer = HandOffBuffer::new(stream, settings, BlockStores::none())?;
/// let receiver = Receiver::builder().application("count-clicks").source(buffer);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct HandOffBuffer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<dyn StreamSource>,
    settings: HandOffSettings,
    stores: BlockStores,
    room: Room,
    retry: RetryPolicy,
    rng: Mutex<Rng>,
    counts: Arc<Counts>,
    /// Who the stream is, asked once.
    description: OnceCell<StreamDescription>,
}

impl HandOffBuffer {
    /// A buffer around a stream.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn new(
        source: impl StreamSource,
        settings: HandOffSettings,
        stores: BlockStores,
    ) -> Result<Self, ReceiverError> {
        Self::shared(Arc::new(source), settings, stores)
    }

    /// A buffer around a stream that is shared with others.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(
        source: Arc<dyn StreamSource>,
        settings: HandOffSettings,
        stores: BlockStores,
    ) -> Result<Self, ReceiverError> {
        let faults = settings.faults(&stores);
        if !faults.is_empty() {
            let message = format!("the hand-off buffer cannot be built:\n- {}", faults.join("\n- "));
            return Err(ReceiverError::new(ReceiverErrorKind::InvalidSettings, message));
        }
        let shared = Shared {
            source,
            room: Room::new(&settings),
            settings,
            stores,
            retry: RetryPolicy::exponential(RETRY_WAITS[0], RETRY_WAITS[1]),
            rng: Mutex::new(fresh_rng()),
            counts: Arc::default(),
            description: OnceCell::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same, with the seed of its random waits.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        *self.shared.rng.lock().unwrap_or_else(PoisonError::into_inner) = Rng::with_seed(seed);
        self
    }

    /// What it holds, and what it did so far.
    pub fn usage(&self) -> HandOffUsage {
        let [memory_bytes, local_bytes, replica_bytes] = self.shared.room.used();
        let most_memory_bytes = self.shared.room.most_memory();
        HandOffUsage {
            memory_bytes,
            most_memory_bytes,
            local_bytes,
            replica_bytes,
            ..self.shared.counts.get()
        }
    }
}

impl Shared {
    /// Where blocks of a shard are stored; `None` when there is no place for any.
    async fn storing(&self, shard_id: &ShardId) -> Result<Option<Storing>, SourceError> {
        if self.stores.local.is_none() && self.stores.replica.is_none() {
            return Ok(None);
        }
        let description = self.description.get_or_try_init(|| self.source.describe()).await?;
        let application = self.settings.application.clone();
        let identity = description.identity.clone();
        let parts = [application.as_str(), self.source.stream_name(), shard_id.as_str()];
        let folder = Path::from_iter(parts);
        let tag = identity_tag(&application, &identity);
        Ok(Some(Storing { owner: Owner { application, identity, shard_id: shard_id.clone() }, folder, tag }))
    }

    /// What is stored of a shard, in both places.
    async fn stored(&self, storing: &Storing) -> Result<Vec<(BlockName, Kept<Hold>)>, SourceError> {
        let mut found: BTreeMap<BlockName, [Option<u64>; 2]> = BTreeMap::new();
        for (index, place) in [&self.stores.local, &self.stores.replica].into_iter().enumerate() {
            let Some(place) = place else { continue };
            for (path, bytes) in place.list(&storing.folder).await? {
                match BlockName::parse(path.filename().unwrap_or_default()) {
                    Parsed::Block { name, tag } if tag == storing.tag => {
                        found.entry(name).or_default()[index] = Some(bytes);
                    }
                    Parsed::Block { .. } => {
                        return Err(refused(&format!(
                            "{path} is a block of another application or stream than {:?} and {}",
                            storing.owner.application, storing.owner.identity
                        )));
                    }
                    Parsed::OtherVersion(version) => {
                        return Err(refused(&format!(
                            "{path} is a block of format {version}, which this version cannot read"
                        )));
                    }
                    Parsed::Unknown => {
                        tracing::warn!(%path, "not a block of the hand-off buffer; it is left alone");
                    }
                }
            }
        }
        let counted = |(name, [local, replica]): (_, [_; 2])| (name, self.room.count(local, replica));
        Ok(found.into_iter().map(counted).collect())
    }
}

#[async_trait]
impl StreamSource for HandOffBuffer {
    fn stream_name(&self) -> &str {
        self.shared.source.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.shared.source.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.shared.source.list_shards(filter).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let shared = &self.shared;
        let storing = shared.storing(shard_id).await?;
        let stored = match &storing {
            Some(storing) => shared.stored(storing).await?,
            None => Vec::new(),
        };
        let ledger = Ledger::new(Edge::from(from), stored);
        let span = tracing::info_span!(
            "hand_off",
            application = shared.settings.application,
            stream = self.stream_name(),
            %shard_id
        );
        if ledger.waiting() > 0 {
            tracing::info!(parent: &span, blocks = ledger.waiting(), "stored blocks come first");
        }
        let shard = Arc::new(OpenShard {
            source: shared.source.clone(),
            shard_id: shard_id.clone(),
            stores: shared.stores.clone(),
            storing,
            room: shared.room.clone(),
            retry: shared.retry,
            counts: shared.counts.clone(),
            state: Mutex::new(State {
                ledger,
                trouble: None,
                standstill: None,
                is_asking: false,
                lag: None,
                tip: None,
            }),
            version: watch::channel(0).0,
        });
        let closing = CancellationToken::new();
        let rng = shared.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        tokio::spawn(receiving::run(shard.clone(), rng, closing.clone()).instrument(span));
        Ok(Box::new(BufferedReader { shard, healing: None, announced: None, _closing: closing.drop_guard() }))
    }
}
