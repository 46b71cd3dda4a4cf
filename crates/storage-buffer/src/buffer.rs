//! The storage buffer as a stream: settings, the listing of stored blocks, and the opening of a shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use fastrand::Rng;
use lease_store::{SequenceNumber, ShardId};
use object_store::path::Path;
use shard_worker::{
    ReadFrom, RecordSource, RetryPolicy, Shard, ShardFilter, SourceError, StreamDescription, StreamSource,
};
use tokio::sync::{OnceCell, watch};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::block::Owner;
use crate::block_edge::Edge;
use crate::block_name::{BlockName, Parsed, identity_tag};
use crate::block_queue::{BlockQueue, Copies};
use crate::block_stores::BlockStores;
use crate::capacity::{Capacity, StoreReservation};
use crate::error::{StorageError, StorageErrorKind};
use crate::reader::{BufferedReader, refused};
use crate::settings::StorageSettings;
use crate::shard_buffer::{BlockFolder, ShardBuffer, State};
use crate::usage::{Counts, StorageUsage};
use crate::writer;

/// The shortest and the longest wait before a failed call of a store is retried.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

/// A stream that is received into blocks, ahead of processing. Clones share one buffer.
///
/// ```
/// use std::num::NonZeroUsize;
/// use shard_worker::InMemoryStream;
/// use storage_buffer::{BlockStores, StorageBuffer, StorageLevel, StorageSettings};
///
/// # fn main() -> Result<(), storage_buffer::StorageError> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # let _guard = runtime.enter();
/// let stream = InMemoryStream::new("clicks", NonZeroUsize::MIN);
/// let settings = StorageSettings::new("count-clicks", StorageLevel::MemoryOnly);
/// let buffer = StorageBuffer::new(stream, settings, BlockStores::none())?;
/// // Consumer::builder().application("count-clicks").source(buffer) ...
/// # let _ = buffer;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct StorageBuffer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<dyn StreamSource>,
    settings: StorageSettings,
    stores: BlockStores,
    capacity: Capacity,
    retry: RetryPolicy,
    rng: Mutex<Rng>,
    counts: Arc<Counts>,
    /// The identity of the stream, read once.
    description: OnceCell<StreamDescription>,
}

impl StorageBuffer {
    /// Wraps a stream.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults.
    pub fn new(
        source: impl StreamSource,
        settings: StorageSettings,
        stores: BlockStores,
    ) -> Result<Self, StorageError> {
        Self::shared(Arc::new(source), settings, stores)
    }

    /// Wraps a stream that has other users.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(
        source: Arc<dyn StreamSource>,
        settings: StorageSettings,
        stores: BlockStores,
    ) -> Result<Self, StorageError> {
        let faults = settings.faults(&stores);
        if !faults.is_empty() {
            let message = format!("the storage buffer cannot be built:\n- {}", faults.join("\n- "));
            return Err(StorageError::new(StorageErrorKind::InvalidSettings, message));
        }
        let shared = Shared {
            source,
            capacity: Capacity::new(&settings),
            settings,
            stores,
            retry: RetryPolicy::exponential(RETRY_WAITS[0], RETRY_WAITS[1]),
            rng: Mutex::new(fresh_rng()),
            counts: Arc::default(),
            description: OnceCell::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets the seed of the random waits.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        *self.shared.rng.lock().unwrap_or_else(PoisonError::into_inner) = Rng::with_seed(seed);
        self
    }

    /// The bytes that the buffer holds and the counters of its work.
    pub fn usage(&self) -> StorageUsage {
        let [memory_bytes, local_bytes, replica_bytes] = self.shared.capacity.used();
        let most_memory_bytes = self.shared.capacity.most_memory();
        StorageUsage {
            memory_bytes,
            most_memory_bytes,
            local_bytes,
            replica_bytes,
            ..self.shared.counts.get()
        }
    }
}

/// The only random seed of this crate that is not an argument; [`StorageBuffer::seeded`] replaces it.
#[allow(clippy::disallowed_methods)]
fn fresh_rng() -> Rng {
    Rng::new()
}

impl Shared {
    /// The folder of a shard's blocks; `None` without a store.
    async fn folder(&self, shard_id: &ShardId) -> Result<Option<BlockFolder>, SourceError> {
        if self.stores.local.is_none() && self.stores.replica.is_none() {
            return Ok(None);
        }
        let description = self.description.get_or_try_init(|| self.source.describe()).await?;
        let application = self.settings.application.clone();
        let identity = description.identity.clone();
        let parts = [application.as_str(), self.source.stream_name(), shard_id.as_str()];
        let path = Path::from_iter(parts);
        let tag = identity_tag(&application, &identity);
        Ok(Some(BlockFolder {
            owner: Owner { application, identity, shard_id: shard_id.clone() },
            path,
            tag,
        }))
    }

    /// The stored blocks of a shard, in both stores.
    async fn stored_blocks(
        &self,
        folder: &BlockFolder,
    ) -> Result<Vec<(BlockName, Copies<StoreReservation>)>, SourceError> {
        let mut found: BTreeMap<BlockName, [Option<u64>; 2]> = BTreeMap::new();
        for (index, store) in [&self.stores.local, &self.stores.replica].into_iter().enumerate() {
            let Some(store) = store else { continue };
            for (path, bytes) in store.list(&folder.path).await? {
                match BlockName::parse(path.filename().unwrap_or_default()) {
                    Parsed::Block { name, tag } if tag == folder.tag => {
                        found.entry(name).or_default()[index] = Some(bytes);
                    }
                    Parsed::Block { .. } => {
                        return Err(refused(&format!(
                            "{path} is a block of another application or stream than {:?} and {}",
                            folder.owner.application, folder.owner.identity
                        )));
                    }
                    Parsed::OtherVersion(version) => {
                        return Err(refused(&format!(
                            "{path} is a block of format {version}, which this version cannot read"
                        )));
                    }
                    Parsed::Unknown => {
                        tracing::warn!(%path, "skipping a file in the block store that is no block");
                    }
                }
            }
        }
        let counted =
            |(name, [local, replica]): (_, [_; 2])| (name, self.capacity.count_stored(local, replica));
        Ok(found.into_iter().map(counted).collect())
    }
}

#[async_trait]
impl StreamSource for StorageBuffer {
    fn stream_name(&self) -> &str {
        self.shared.source.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.shared.source.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.shared.source.list_shards(filter).await
    }

    fn shard_started_at(&self, shard_id: &ShardId, record: &SequenceNumber) -> Option<SystemTime> {
        self.shared.source.shard_started_at(shard_id, record)
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let shared = &self.shared;
        let folder = shared.folder(shard_id).await?;
        let stored = match &folder {
            Some(folder) => shared.stored_blocks(folder).await?,
            None => Vec::new(),
        };
        let queue = BlockQueue::new(Edge::from(from), stored);
        let span = tracing::info_span!(
            "storage_buffer",
            application = shared.settings.application,
            stream = self.stream_name(),
            %shard_id
        );
        if queue.waiting() > 0 {
            tracing::info!(parent: &span, blocks = queue.waiting(), "serving stored blocks first");
        }
        let shard = Arc::new(ShardBuffer {
            source: shared.source.clone(),
            shard_id: shard_id.clone(),
            stores: shared.stores.clone(),
            folder,
            capacity: shared.capacity.clone(),
            retry: shared.retry,
            counts: shared.counts.clone(),
            state: Mutex::new(State {
                queue,
                unreported: None,
                halted: None,
                is_reader_waiting: false,
                lag: None,
                newest_arrival: None,
            }),
            version: watch::channel(0).0,
        });
        let closing = CancellationToken::new();
        let rng = shared.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        tokio::spawn(writer::run(shard.clone(), rng, closing.clone()).instrument(span));
        Ok(Box::new(BufferedReader::new(shard, closing.drop_guard())))
    }
}
