//! What a processor knows about its shard: one copy of the data, shared by everything that works on the shard.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use checkpointer::RetryPolicy;
use lease_store::{
    FencingToken, HashKeyRange, PendingCheckpoint, Position, ShardId, StreamIdentity, WorkerId,
};
use tokio_util::sync::CancellationToken;

use crate::checkpoint_access::ExplicitCheckpoints;
use crate::failure::failure_policy::FailurePolicy;

/// The default wait before a retry: from 200 ms up to 30 s.
pub const DEFAULT_PROCESSING_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(200), Duration::from_secs(30));

/// The shard that a processor works on, the application, and the position where reading starts.
///
/// Its fields are those of [`ShardContextData`]. Clones share the data, so a clone costs one counter. Changing a field of a
/// clone copies the data first and leaves the other clones as they are.
///
/// ```
/// use lease_store::{FencingToken, WorkerId};
/// use shard_worker::ShardContext;
///
/// // A test of a processor needs no consumer.
/// let owner = FencingToken::new(WorkerId::new("worker-a")?, 41);
/// let context = ShardContext::new("billing", "orders", "shardId-000000000000".parse()?, owner);
/// assert_eq!((&*context.stream, context.fencing_token.counter), ("orders", 41));
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ShardContext {
    data: Arc<ShardContextData>,
}

/// The fields of a [`ShardContext`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardContextData {
    /// The name of the application.
    pub application: Arc<str>,
    /// The name of the stream.
    pub stream: Arc<str>,
    /// The identity of the stream. `None`: not known. It distinguishes streams of one name that were deleted and created again.
    pub stream_identity: Option<StreamIdentity>,
    /// The shard.
    pub shard_id: ShardId,
    /// This worker.
    pub worker_id: WorkerId,
    /// Proof of ownership for the application's own sinks: the owner with the larger counter is the newer one, also after the
    /// lease table was deleted and created again.
    pub fencing_token: FencingToken,
    /// The position where reading starts.
    pub start: Position,
    /// A checkpoint that an earlier owner, a KCL application, prepared and did not complete. The next checkpoint clears
    /// it.
    pub pending_checkpoint: Option<PendingCheckpoint>,
    /// The known parents of the shard.
    pub parent_shard_ids: BTreeSet<ShardId>,
    /// The hash keys that the shard covers. `None`: not known.
    pub hash_key_range: Option<HashKeyRange>,
    /// What happens to records that cannot be processed, for processors that handle records one by one. The shard worker
    /// sets it from its options.
    pub failure_policy: FailurePolicy,
    /// How long to wait before a retry. The shard worker sets it from its options.
    pub retry: RetryPolicy,
    /// Cancelled when the worker has to finish: its process stops, or the shard is handed over. A processor may return
    /// early then, and [release](crate::RecordAcknowledgement::release) the records that it has not started.
    pub stopping: CancellationToken,
    /// Cancelled when the lease is lost or the work on the shard has ended, for work that runs outside
    /// [`RecordProcessor::process`](crate::RecordProcessor::process). A shard that is cut off at the end of the drain time cancels it
    /// before its lease is released.
    pub lease_lost: CancellationToken,
    pub(crate) checkpoints: ExplicitCheckpoints,
    /// Shared by all clones, also by those whose other fields were changed.
    children: Arc<Mutex<Vec<ShardId>>>,
}

impl ShardContext {
    /// A context with default values for all other fields; change them afterwards.
    pub fn new(
        application: impl Into<Arc<str>>,
        stream: impl Into<Arc<str>>,
        shard_id: ShardId,
        owner: FencingToken,
    ) -> Self {
        let data = ShardContextData {
            application: application.into(),
            stream: stream.into(),
            stream_identity: None,
            shard_id,
            worker_id: owner.owner.clone(),
            fencing_token: owner,
            start: Position::TrimHorizon,
            pending_checkpoint: None,
            parent_shard_ids: BTreeSet::new(),
            hash_key_range: None,
            failure_policy: FailurePolicy::default(),
            retry: DEFAULT_PROCESSING_RETRY,
            stopping: CancellationToken::new(),
            lease_lost: CancellationToken::new(),
            checkpoints: ExplicitCheckpoints::default(),
            children: Arc::default(),
        };
        Self { data: Arc::new(data) }
    }

    /// The shards that follow this one after a reshard, in the order that the stream named them. Known from
    /// [`shard_ended`](crate::RecordProcessor::shard_ended) on. Empty before, and when the stream had no such shard any more.
    pub fn children(&self) -> Vec<ShardId> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the children, for the worker of the shard and for tests.
    pub fn set_children(&self, children: impl IntoIterator<Item = ShardId>) {
        *self.children.lock().unwrap_or_else(PoisonError::into_inner) = children.into_iter().collect();
    }
}

impl Deref for ShardContext {
    type Target = ShardContextData;

    fn deref(&self) -> &ShardContextData {
        &self.data
    }
}

impl DerefMut for ShardContext {
    fn deref_mut(&mut self) -> &mut ShardContextData {
        Arc::make_mut(&mut self.data)
    }
}
