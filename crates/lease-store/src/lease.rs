//! A lease: one row of the shared table.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::hash_key_range::HashKeyRange;
use crate::lag_report::LagReport;
use crate::operator::{OwnerRequest, Pause};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::stream_identity::StreamIdentity;
use crate::worker_id::WorkerId;

/// The owner of a shard and its checkpoint.
///
/// The fields are the KCL's lease attributes; see `dynamodb` for their names in the table. A lease is plain data;
/// [`LeaseWrite`](crate::LeaseWrite) decides which writes apply to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The shard, and in a single-stream table the key of the row.
    pub shard_id: ShardId,
    /// The worker that reads the shard; `None` for an unowned lease.
    pub owner: Option<WorkerId>,
    /// Grows with every renewal, checkpoint and change of owner: heartbeat and optimistic lock in one.
    pub counter: u64,
    /// The position up to which the shard is processed.
    pub checkpoint: Position,
    /// Changes of owner since the last checkpoint.
    pub owner_switches_since_checkpoint: u64,
    /// A checkpoint that an application prepared and has not completed. The next checkpoint clears it.
    pub pending_checkpoint: Option<PendingCheckpoint>,
    /// The parent shards: none, one (split) or two (merge).
    pub parents: BTreeSet<ShardId>,
    /// The child shards; empty until this shard is read to its end.
    pub children: BTreeSet<ShardId>,
    /// The part of the hash-key space that the shard covers; `None` in rows of old KCL versions.
    pub hash_key_range: Option<HashKeyRange>,
    /// The previous owner, which is still processing; set only during a hand-over led by KCL 3.x.
    pub checkpoint_owner: Option<WorkerId>,
    /// A worker that asks the owner for the lease. Its meaning depends on the present owner; see
    /// [`hand_over_target`](Self::hand_over_target).
    pub requested_by: Option<WorkerId>,
    /// The worker that offered the lease to others, or agreed to a request. It counts only while that worker is the
    /// owner; see [`is_offered`](Self::is_offered).
    pub offered_by: Option<WorkerId>,
    /// The process that took the lease last, as the text of a [`ProcessIdentity`](crate::ProcessIdentity). Stores only compare it: two processes may run
    /// under one worker id. KCL workers keep it, so it may be that of an earlier owner.
    pub owner_process: Option<String>,
    /// The stream that the shard belongs to; `None` until a worker of this library records it.
    pub stream: Option<StreamIdentity>,
    /// The application that the table belongs to; `None` until a worker of this library records it.
    pub application: Option<String>,
    /// A number of the row from its first take by a worker of this library on. A row that is deleted and created again gets
    /// another one, and a row that is edited by hand keeps it.
    pub row_id: Option<u64>,
    /// The instant that `LATEST` or `AT_TIMESTAMP` in the checkpoint stands for, in milliseconds since 1970.
    ///
    /// It is recorded at the first start, so every worker that opens the shard starts at the same instant. A child of
    /// such a shard keeps the instant, although its checkpoint may be `TRIM_HORIZON`: older records are not wanted.
    pub initial_time_millis: Option<u64>,
    /// The text of a request that an operator left to the owner; see [`owner_request`](Self::owner_request).
    #[serde(default)]
    pub owner_request_text: Option<String>,
    /// The number of the newest reset by an operator. It explains a position that went back, or a row that appeared again.
    #[serde(default)]
    pub reset_id: Option<u64>,
    /// The text of the pause that an operator recorded; see [`pause`](Self::pause).
    #[serde(default)]
    pub pause_text: Option<String>,
    /// What the owner reported of its lag with its newest write, as a text; see [`lag_report`](Self::lag_report).
    #[serde(default)]
    pub lag_report_text: Option<String>,
    /// The read throughput of the shard; `None` unless a KCL 3.x worker measured it.
    pub throughput_bytes_per_second: Option<u64>,
}

impl Lease {
    /// A new lease without an owner: counter 0, no parents, no known range.
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
            owner_process: None,
            stream: None,
            application: None,
            row_id: None,
            initial_time_millis: None,
            owner_request_text: None,
            reset_id: None,
            pause_text: None,
            lag_report_text: None,
            throughput_bytes_per_second: None,
        }
    }

    /// The part of the row that must be unchanged for a write to be applied.
    pub fn version(&self) -> LeaseVersion {
        LeaseVersion {
            counter: self.counter,
            owner: self.owner.clone(),
            checkpoint_owner: self.checkpoint_owner.clone(),
        }
    }

    /// Whether the shard is read to its end, so that no worker needs to hold the lease.
    pub fn is_finished(&self) -> bool {
        self.checkpoint.is_shard_end()
    }

    /// The worker to which the present holder should hand the lease over; `None` when there is no such worker. In a
    /// hand-over of KCL 3.x it is the new owner, otherwise the worker that left a request in the row.
    pub fn hand_over_target(&self) -> Option<&WorkerId> {
        match (&self.checkpoint_owner, &self.owner) {
            (Some(_), new_owner) => new_owner.as_ref(),
            (None, Some(owner)) => self.requested_by.as_ref().filter(|requester| *requester != owner),
            (None, None) => None,
        }
    }

    /// Whether the owner offers the lease to other workers. An offer of an earlier owner does not count: when a KCL
    /// worker takes a lease, it leaves attributes that it does not know in the row.
    pub fn is_offered(&self) -> bool {
        self.owner.is_some() && self.offered_by == self.owner
    }

    /// The request of an operator to the present owner. Requests to an earlier owner do not count: when a KCL worker takes a
    /// lease, it leaves attributes that it does not know in the row. Neither do requests about an ended shard.
    pub fn owner_request(&self) -> Option<OwnerRequest> {
        let request = OwnerRequest::parse(self.owner_request_text.as_deref()?)?;
        (self.is_owned_by(&request.owner) && !self.is_finished()).then_some(request)
    }

    /// The pause of the shard, whether or not it is over.
    pub fn pause(&self) -> Option<Pause> {
        self.pause_text.as_deref().map(Pause::parse)
    }

    /// Whether the shard is paused at a time, in milliseconds since 1970.
    pub fn is_paused(&self, now_millis: Option<u64>) -> bool {
        self.pause().is_some_and(|pause| pause.is_in_force(now_millis))
    }

    /// The lag that the owner reported with the newest write of the row. `None` after any other write: a KCL worker that takes
    /// or renews the lease leaves attributes that it does not know in the row.
    pub fn lag_report(&self) -> Option<LagReport> {
        let report = LagReport::parse(self.lag_report_text.as_deref()?, self.counter)?;
        (self.owner.is_some() && !self.is_finished()).then_some(report)
    }

    /// Whether the row names this worker as the owner.
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
    /// The previous owner in a hand-over of KCL 3.x, as last seen. Such a hand-over does not change the counter.
    pub checkpoint_owner: Option<WorkerId>,
}

impl LeaseVersion {
    /// Whether a row is still at this version.
    pub fn matches(&self, lease: &Lease) -> bool {
        *self == lease.version()
    }
}

/// Facts that a worker writes together with a take. Facts about the shard are added where they are missing: rows of KCL
/// workers lack most of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaseFacts {
    /// The stream that the shard belongs to.
    pub stream: Option<StreamIdentity>,
    /// The application that the table belongs to.
    pub application: Option<String>,
    /// See [`Lease::row_id`].
    pub row_id: Option<u64>,
    /// See [`Lease::initial_time_millis`].
    pub initial_time_millis: Option<u64>,
    /// The hash keys that the shard covers.
    pub hash_key_range: Option<HashKeyRange>,
    /// The process that takes the lease; see [`Lease::owner_process`]. It replaces the one in the row; `None` removes it.
    pub owner_process: Option<String>,
    /// The counter is at least this after the take. A table that was deleted, or restored from a backup, counts from a
    /// smaller number again; a floor that grows with time keeps fencing tokens above those of the earlier table. 0: the take
    /// only increments the counter.
    pub counter_floor: u64,
}

impl LeaseFacts {
    /// Raises the counter to the floor, and sets the facts that the lease lacks, and the process.
    pub(crate) fn fill_in(&self, lease: &mut Lease) {
        lease.counter = lease.counter.max(self.counter_floor);
        lease.owner_process.clone_from(&self.owner_process);
        lease.stream = lease.stream.take().or_else(|| self.stream.clone());
        lease.application = lease.application.take().or_else(|| self.application.clone());
        lease.row_id = lease.row_id.or(self.row_id);
        lease.initial_time_millis = lease.initial_time_millis.or(self.initial_time_millis);
        lease.hash_key_range = lease.hash_key_range.or(self.hash_key_range);
    }
}

/// The first half of the KCL's two-step checkpoint (`prepareCheckpoint`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PendingCheckpoint {
    /// The prepared position.
    pub position: Position,
    /// Opaque bytes of the application.
    pub state: Option<Vec<u8>>,
}

impl PendingCheckpoint {
    /// A checkpoint that is announced at this position, with bytes of the application.
    pub fn new(position: Position, state: Option<Vec<u8>>) -> Self {
        Self { position, state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &'static str) -> Option<WorkerId> {
        Some(WorkerId::new(name).unwrap())
    }

    #[test]
    fn a_request_addresses_the_present_owner() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.requested_by = worker("b");
        assert_eq!(lease.hand_over_target(), None, "an unowned lease has no holder to hand it over");
        lease.owner = worker("a");
        assert_eq!(lease.hand_over_target(), worker("b").as_ref());
        lease.owner = worker("b");
        assert_eq!(lease.hand_over_target(), None, "the requester owns the lease now");
        lease.checkpoint_owner = worker("a");
        lease.requested_by = worker("c");
        assert_eq!(lease.hand_over_target(), worker("b").as_ref(), "a hand-over of KCL 3.x comes first");
    }

    #[test]
    fn request_of_an_operator_addresses_the_present_owner() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.owner_request_text = Some("release #7 to a".to_owned());
        assert_eq!(lease.owner_request(), None);
        lease.owner = worker("java");
        assert_eq!(lease.owner_request(), None);
        lease.owner = worker("a");
        assert_eq!(lease.owner_request().map(|request| request.id), Some(7));
        lease.checkpoint = Position::ShardEnd;
        assert_eq!(lease.owner_request(), None);
    }

    #[test]
    fn lag_report_counts_for_one_write_of_an_owner() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.counter = 7;
        let report = LagReport { behind_millis: 5, measured_at_millis: 9, processed_bytes_per_second: None };
        lease.lag_report_text = Some(report.text(7));
        assert_eq!(lease.lag_report(), None, "no owner");
        lease.owner = worker("a");
        assert_eq!(lease.lag_report(), Some(report));
        lease.counter = 8;
        assert_eq!(lease.lag_report(), None, "another worker has written since");
        lease.counter = 7;
        lease.checkpoint = Position::ShardEnd;
        assert_eq!(lease.lag_report(), None);
    }

    #[test]
    fn an_offer_of_an_earlier_owner_does_not_count() {
        let mut lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        lease.offered_by = worker("a");
        assert!(!lease.is_offered());
        lease.owner = worker("java");
        assert!(!lease.is_offered());
        lease.owner = worker("a");
        assert!(lease.is_offered());
    }
}
