//! One conditional change of a row, as data, and the write of the lease store that makes it. Pure.

use std::collections::BTreeSet;
use std::fmt;

use lease_store::{
    HashKeyRange, Lease, LeaseChange, LeaseVersion, LeaseWrite, Position, ShardId, StreamIdentity, WorkerId,
};
use serde::{Deserialize, Serialize};

use crate::request::{OperatorRequest, Pause};

/// One conditional change of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// The shard.
    pub shard_id: ShardId,
    /// What the row must look like; otherwise nothing is changed.
    pub expected: Expected,
    /// The change.
    pub change: Change,
}

/// What a row must look like for a change of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// There is no row.
    Absent,
    /// The row was not written since the look.
    Version {
        /// The counter.
        counter: u64,
        /// The owner.
        owner: Option<WorkerId>,
        /// The previous owner in a hand-over of KCL 3.x.
        checkpoint_owner: Option<WorkerId>,
    },
    /// The same worker owns the lease, which it may have renewed since.
    OwnedBy {
        /// The owner.
        owner: WorkerId,
        /// The counter at the look. The write needs the present one.
        seen_counter: u64,
    },
}

/// A change of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Add a row.
    Create(NewRow),
    /// Store another position in a row without a live owner.
    SetPosition {
        /// The new position.
        #[serde(with = "crate::text::position_text")]
        position: Position,
        /// The new instant of the position.
        initial_time_millis: Option<u64>,
        /// The instant in the row, which the change replaces.
        seen_initial_time_millis: Option<u64>,
        /// The children to record at the end of a shard.
        children: BTreeSet<ShardId>,
    },
    /// Leave a request to the live owner.
    Ask(OperatorRequest),
    /// Ask the live owner to hand the lease over to a worker.
    RequestFor {
        /// The worker.
        worker_id: WorkerId,
        /// The worker whose request this one replaces.
        instead_of: Option<WorkerId>,
    },
    /// Make a worker the owner of a lease without a live owner.
    GiveTo {
        /// The worker.
        worker_id: WorkerId,
    },
    /// Remove the owner, who is not alive.
    Release,
    /// Record a pause.
    Pause(Pause),
    /// Remove a pause.
    Resume,
    /// Delete the row.
    Delete,
}

/// A row to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRow {
    /// Its position.
    #[serde(with = "crate::text::position_text")]
    pub position: Position,
    /// The instant of the position.
    pub initial_time_millis: Option<u64>,
    /// The shards that the shard came from.
    pub parents: BTreeSet<ShardId>,
    /// The shards that came from it.
    pub children: BTreeSet<ShardId>,
    /// The hash keys that it covers.
    #[serde(with = "crate::text::range_text")]
    pub hash_key_range: Option<HashKeyRange>,
    /// The stream.
    pub stream: Option<StreamIdentity>,
}

impl NewRow {
    /// The row as an unowned lease.
    pub fn lease(&self, shard_id: &ShardId) -> Lease {
        let mut lease = Lease::unowned(shard_id.clone(), self.position.clone());
        lease.initial_time_millis = self.initial_time_millis;
        lease.parents.clone_from(&self.parents);
        lease.children.clone_from(&self.children);
        lease.hash_key_range = self.hash_key_range;
        lease.stream.clone_from(&self.stream);
        lease
    }
}

impl Expected {
    /// The row as the look saw it.
    pub(crate) fn unchanged(lease: &Lease) -> Self {
        let LeaseVersion { counter, owner, checkpoint_owner } = lease.version();
        Self::Version { counter, owner, checkpoint_owner }
    }

    /// The same owner; for an unowned lease, the row as the look saw it.
    pub(crate) fn same_owner(lease: &Lease) -> Self {
        match &lease.owner {
            Some(owner) => Self::OwnedBy { owner: owner.clone(), seen_counter: lease.counter },
            None => Self::unchanged(lease),
        }
    }

    fn version(&self) -> Option<LeaseVersion> {
        match self {
            Self::Absent => None,
            Self::Version { counter, owner, checkpoint_owner } => Some(LeaseVersion {
                counter: *counter,
                owner: owner.clone(),
                checkpoint_owner: checkpoint_owner.clone(),
            }),
            Self::OwnedBy { owner, seen_counter } => Some(LeaseVersion {
                counter: *seen_counter,
                owner: Some(owner.clone()),
                checkpoint_owner: None,
            }),
        }
    }

    /// Whether a row, read again, still is as expected.
    pub fn matches(&self, row: Option<&Lease>) -> bool {
        match (self, row) {
            (Self::Absent, None) => true,
            (Self::Version { .. }, Some(row)) => self.version().is_some_and(|version| version.matches(row)),
            (Self::OwnedBy { owner, .. }, Some(row)) => {
                row.is_owned_by(owner) && row.checkpoint_owner.is_none()
            }
            _ => false,
        }
    }
}

/// A change that the lease store has no write for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnsupportedChange {
    /// Removing or replacing the instant of a position.
    Instant,
    /// A request of an operator.
    Request,
    /// A pause.
    Pause,
}

impl fmt::Display for UnsupportedChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Instant => "the lease store cannot replace the instant of a position",
            Self::Request => "the lease store cannot store a request to the owner",
            Self::Pause => "the lease store cannot store a pause",
        })
    }
}

impl std::error::Error for UnsupportedChange {}

impl RowChange {
    /// The write that makes the change. `now` is the row as it was read again, for a change that is conditional on the owner
    /// alone; the write is conditional on its counter.
    ///
    /// # Errors
    /// When the lease store has no such write.
    pub fn write(&self, now: Option<&Lease>) -> Result<LeaseWrite, UnsupportedChange> {
        let change = match &self.change {
            Change::Create(row) => return Ok(LeaseWrite::Create(row.lease(&self.shard_id))),
            Change::SetPosition { initial_time_millis, seen_initial_time_millis, .. }
                if initial_time_millis != seen_initial_time_millis =>
            {
                return Err(UnsupportedChange::Instant);
            }
            Change::SetPosition { position, children, .. } => {
                LeaseChange::Checkpoint { position: position.clone(), children: children.clone() }
            }
            Change::Ask(_) => return Err(UnsupportedChange::Request),
            Change::Pause(_) | Change::Resume => return Err(UnsupportedChange::Pause),
            Change::RequestFor { worker_id, instead_of } => {
                LeaseChange::Request { by: worker_id.clone(), instead_of: instead_of.clone() }
            }
            Change::GiveTo { worker_id } => LeaseChange::take(worker_id.clone()),
            Change::Release => LeaseChange::Release,
            Change::Delete => {
                return Ok(LeaseWrite::Delete {
                    shard_id: self.shard_id.clone(),
                    expected: self.expected_at(now),
                });
            }
        };
        Ok(LeaseWrite::Update { shard_id: self.shard_id.clone(), expected: self.expected_at(now), change })
    }

    /// The version that the write is conditional on.
    fn expected_at(&self, now: Option<&Lease>) -> LeaseVersion {
        let present = match &self.expected {
            Expected::OwnedBy { .. } if self.expected.matches(now) => now.map(Lease::version),
            _ => None,
        };
        let impossible = LeaseVersion { counter: u64::MAX, owner: None, checkpoint_owner: None };
        present.or_else(|| self.expected.version()).unwrap_or(impossible)
    }
}
