//! One conditional change of a row, as data, and the write of the lease store that makes it. Pure.

use std::collections::BTreeSet;

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
    /// Store another position in a row without a live owner, and make the lease free.
    SetPosition {
        /// The new position.
        #[serde(with = "crate::text::position_text")]
        position: Position,
        /// The new instant of the position, which replaces the one in the row.
        initial_time_millis: Option<u64>,
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
    Pause {
        /// The pause.
        pause: Pause,
        /// The pause that this one replaces.
        instead_of: Option<Pause>,
    },
    /// Remove a pause.
    Resume {
        /// The pause that the look saw.
        pause: Pause,
    },
    /// Delete the row.
    Delete,
}

/// How far a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The row does not show it.
    NotMade,
    /// The owner is asked for it.
    Asked,
    /// The row shows it.
    Made,
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

impl RowChange {
    /// The write that makes the change. `now` is the row as it was read again: the write is conditional on its notes, and for
    /// a change that is conditional on the owner alone, on its counter. `operation_id` is the same for all changes of one
    /// operation; rows and requests of a reset carry it.
    pub fn write(&self, now: Option<&Lease>, operation_id: u64) -> LeaseWrite {
        let request_in_row = || now.and_then(|row| row.owner_request_text.clone());
        let pause = |text: Option<String>| LeaseChange::Pause {
            text,
            instead_of: now.and_then(|row| row.pause_text.clone()),
        };
        let change = match &self.change {
            Change::Create(row) => {
                let lease = Lease { reset_id: Some(operation_id), ..row.lease(&self.shard_id) };
                return LeaseWrite::Create(lease);
            }
            Change::SetPosition { position, initial_time_millis, children } => LeaseChange::Reset {
                position: position.clone(),
                initial_time_millis: *initial_time_millis,
                children: children.clone(),
                reset_id: operation_id,
                owner_request: request_in_row(),
            },
            Change::Ask(request) => LeaseChange::AskOwner {
                text: self.owner().map(|owner| request.to(owner, operation_id).to_string()),
                instead_of: request_in_row(),
            },
            Change::Pause { pause: asked, .. } => pause(Some(asked.to_row().to_string())),
            Change::Resume { .. } => pause(None),
            Change::RequestFor { worker_id, instead_of } => {
                LeaseChange::Request { by: worker_id.clone(), instead_of: instead_of.clone() }
            }
            Change::GiveTo { worker_id } => LeaseChange::take(worker_id.clone()),
            Change::Release => LeaseChange::Release,
            Change::Delete => {
                return LeaseWrite::Delete {
                    shard_id: self.shard_id.clone(),
                    expected: self.expected_at(now),
                };
            }
        };
        LeaseWrite::Update { shard_id: self.shard_id.clone(), expected: self.expected_at(now), change }
    }

    /// How far the change is made, by the row as it was read again.
    pub fn progress(&self, now: Option<&Lease>, operation_id: u64) -> Progress {
        let made = |is_made: bool| if is_made { Progress::Made } else { Progress::NotMade };
        let asked = |is_asked: bool| if is_asked { Progress::Asked } else { Progress::NotMade };
        let Some(row) = now else { return made(matches!(self.change, Change::Delete)) };
        let is_reset = row.reset_id == Some(operation_id);
        match &self.change {
            Change::Create(_) | Change::SetPosition { .. } => made(is_reset),
            Change::Ask(_) if row.owner_request().is_some_and(|request| request.id == operation_id) => {
                Progress::Asked
            }
            Change::Ask(OperatorRequest::Reset { .. }) => made(is_reset),
            Change::Ask(OperatorRequest::Release) | Change::Release => {
                made(row.owner.as_ref() != self.owner())
            }
            Change::RequestFor { worker_id, .. } if !row.is_owned_by(worker_id) => {
                asked(row.hand_over_target() == Some(worker_id))
            }
            Change::RequestFor { .. } => Progress::Made,
            Change::GiveTo { worker_id } => made(row.is_owned_by(worker_id)),
            Change::Pause { pause, .. } => made(Pause::of(row).as_ref() == Some(pause)),
            Change::Resume { .. } => made(row.pause_text.is_none()),
            Change::Delete => Progress::NotMade,
        }
    }

    /// Whether the owner makes the change, once it is asked.
    pub fn asks_owner(&self) -> bool {
        matches!(self.change, Change::Ask(_) | Change::RequestFor { .. })
    }

    /// The worker in whose name the owner is asked to hand the lease over.
    pub fn requester(&self) -> Option<&WorkerId> {
        match &self.change {
            Change::RequestFor { worker_id, .. } => Some(worker_id),
            _ => None,
        }
    }

    /// Whether a row, read again, still is as expected, and the change of a use. A shard that ended meanwhile has no owner that
    /// could carry a request out. What another operator left in the row after the look is not replaced: neither a request nor a
    /// pause.
    pub fn is_possible_on(&self, now: Option<&Lease>) -> bool {
        let is_void = |row: &Lease| match &self.change {
            Change::Ask(_) | Change::RequestFor { .. } => row.is_finished() || row.owner_request().is_some(),
            Change::Pause { instead_of, .. } => Pause::of(row) != *instead_of,
            Change::Resume { pause } => Pause::of(row).as_ref() != Some(pause),
            _ => false,
        };
        self.expected.matches(now) && !now.is_some_and(is_void)
    }

    /// The owner that the row must have.
    pub fn owner(&self) -> Option<&WorkerId> {
        match &self.expected {
            Expected::OwnedBy { owner, .. } => Some(owner),
            Expected::Version { owner, .. } => owner.as_ref(),
            Expected::Absent => None,
        }
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
