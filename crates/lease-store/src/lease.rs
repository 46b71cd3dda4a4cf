//! A lease: one row of the shared table.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{HashKeyRange, Position, ShardId, WorkerId};

/// Who reads a shard, and how far it is read.
///
/// The fields are the KCL's lease attributes; see `dynamodb` for their names in the table. A lease is plain data: what
/// may be written over it is decided by [`LeaseWrite`](crate::LeaseWrite).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The shard, and in a single-stream table the key of the row.
    pub shard_id: ShardId,
    /// The worker that reads the shard; `None` when nobody does.
    pub owner: Option<WorkerId>,
    /// Grows with every renewal, checkpoint and change of owner: heartbeat and optimistic lock in one.
    pub counter: u64,
    /// How far the shard is read.
    pub checkpoint: Position,
    /// How often the owner changed since the last checkpoint.
    pub owner_switches_since_checkpoint: u64,
    /// A checkpoint that a KCL application prepared and has not completed. The next checkpoint clears it.
    pub pending_checkpoint: Option<PendingCheckpoint>,
    /// The shards this one came from: none, one (split) or two (merge).
    pub parents: BTreeSet<ShardId>,
    /// The shards that follow, known once this one is read to its end.
    pub children: BTreeSet<ShardId>,
    /// The part of the hash-key space; absent in rows of old KCL versions.
    pub hash_key_range: Option<HashKeyRange>,
    /// Set only during a hand-over led by KCL 3.x: the previous owner, still processing.
    pub checkpoint_owner: Option<WorkerId>,
}

impl Lease {
    /// A new lease that nobody holds: counter 0, no parents, no known range.
    pub fn unowned(shard_id: ShardId, checkpoint: Position) -> Self {
        Self {
            shard_id,
            owner: None,
            counter: 0,
            checkpoint,
            owner_switches_since_checkpoint: 0,
            pending_checkpoint: None,
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
            hash_key_range: None,
            checkpoint_owner: None,
        }
    }

    /// What a write must still find in the row to be applied.
    pub fn version(&self) -> LeaseVersion {
        LeaseVersion {
            counter: self.counter,
            owner: self.owner.clone(),
            checkpoint_owner: self.checkpoint_owner.clone(),
        }
    }

    /// Whether the shard is read to its end, so that nobody needs to hold the lease.
    pub fn is_finished(&self) -> bool {
        self.checkpoint.is_shard_end()
    }

    /// Whether this worker stands in the row as the owner.
    pub fn is_owned_by(&self, worker_id: &WorkerId) -> bool {
        self.owner.as_ref() == Some(worker_id)
    }
}

/// The part of a row that every write is conditional on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseVersion {
    /// The counter last seen.
    pub counter: u64,
    /// The owner last seen.
    pub owner: Option<WorkerId>,
    /// The previous owner in a hand-over of KCL 3.x, as last seen; such a hand-over leaves the counter alone.
    pub checkpoint_owner: Option<WorkerId>,
}

impl LeaseVersion {
    /// Whether a row is still at this version.
    pub fn matches(&self, lease: &Lease) -> bool {
        *self == lease.version()
    }
}

/// The first half of the KCL's two-step checkpoint (`prepareCheckpoint`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingCheckpoint {
    /// The position that was prepared.
    pub position: Position,
    /// Opaque bytes of the application.
    pub state: Option<Vec<u8>>,
}
