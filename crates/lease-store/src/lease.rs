//! A lease: one row of the shared table.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{HashKeyRange, Position, ShardId, StreamIdentity, WorkerId};

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
    /// A worker that asks the owner for the lease. What it means depends on who owns the lease now; see
    /// [`hand_over_target`](Self::hand_over_target).
    pub requested_by: Option<WorkerId>,
    /// The worker that offered the lease to others, or agreed to a request. It counts only while that worker is the
    /// owner; see [`is_offered`](Self::is_offered).
    pub offered_by: Option<WorkerId>,
    /// The stream that the shard belongs to, where a worker of ours noted it.
    pub stream: Option<StreamIdentity>,
    /// What `LATEST` or `AT_TIMESTAMP` in the checkpoint stands for, in milliseconds since 1970: kept from the first
    /// start on, so that whoever reads the shard first, and whenever, starts at the same instant. The child of such a shard
    /// keeps it too, whose checkpoint may be `TRIM_HORIZON`: nothing of it is wanted from before then.
    pub initial_time_millis: Option<u64>,
    /// How much is read from the shard, where a KCL 3.x worker measured it.
    pub throughput_bytes_per_second: Option<u64>,
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
            requested_by: None,
            offered_by: None,
            stream: None,
            initial_time_millis: None,
            throughput_bytes_per_second: None,
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

    /// The worker that the present holder is asked to hand the lease over to, if there is one: the new owner in a
    /// hand-over of KCL 3.x, or else whoever left a request on the row.
    pub fn hand_over_target(&self) -> Option<&WorkerId> {
        match (&self.checkpoint_owner, &self.owner) {
            (Some(_), new_owner) => new_owner.as_ref(),
            (None, Some(owner)) => self.requested_by.as_ref().filter(|requester| *requester != owner),
            (None, None) => None,
        }
    }

    /// Whether the owner is ready to part with the lease. An offer of an earlier owner does not count: the KCL keeps
    /// attributes that it does not know when it takes a lease.
    pub fn is_offered(&self) -> bool {
        self.owner.is_some() && self.offered_by == self.owner
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

/// What a worker knows of a shard and notes in its row where the row lacks it. Rows of KCL workers lack most of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseFacts {
    /// The stream that the shard belongs to.
    pub stream: Option<StreamIdentity>,
    /// See [`Lease::initial_time_millis`].
    pub initial_time_millis: Option<u64>,
    /// The hash keys that the shard covers.
    pub hash_key_range: Option<HashKeyRange>,
}

impl LeaseFacts {
    /// Fills in what the lease lacks.
    pub fn fill_in(&self, lease: &mut Lease) {
        lease.stream = lease.stream.take().or_else(|| self.stream.clone());
        lease.initial_time_millis = lease.initial_time_millis.or(self.initial_time_millis);
        lease.hash_key_range = lease.hash_key_range.or(self.hash_key_range);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &'static str) -> Option<WorkerId> {
        Some(WorkerId::new(name).unwrap())
    }

    #[test]
    fn a_request_is_for_the_owner_it_finds() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.requested_by = worker("b");
        assert_eq!(lease.hand_over_target(), None, "nobody is there to hand anything over");
        lease.owner = worker("a");
        assert_eq!(lease.hand_over_target(), worker("b").as_ref());
        lease.owner = worker("b");
        assert_eq!(lease.hand_over_target(), None, "it got what it asked for");
        lease.checkpoint_owner = worker("a");
        lease.requested_by = worker("c");
        assert_eq!(lease.hand_over_target(), worker("b").as_ref(), "KCL 3.x has decided");
    }

    #[test]
    fn an_offer_of_an_earlier_owner_is_none() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.offered_by = worker("a");
        assert!(!lease.is_offered());
        lease.owner = worker("java");
        assert!(!lease.is_offered());
        lease.owner = worker("a");
        assert!(lease.is_offered());
    }
}
