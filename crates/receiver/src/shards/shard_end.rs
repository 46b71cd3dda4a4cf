//! How the end of a shard is recorded, as a sequence of questions: a pure state machine.
//!
//! [`ShardEndWriter`](crate::shards::shard_end_writer::ShardEndWriter) answers the questions.

use lease_store::{Lease, ShardId};
use shard_worker::Shard;

use crate::shards::initial_position::{InitialPosition, start_of_child};
use crate::shards::plan::new_lease;

/// After this many listings without children, the next step checks whether the stream still lists the shard.
///
/// The children exist from the moment the parent closes, but a listing may show them late. If the shard ended without
/// them and they were resharded meanwhile, *their* children could start before them. So a shard ends without children
/// only if the stream no longer lists the shard: its children may be past the retention period too.
pub const MAX_CHILD_LOOKUPS: u32 = 5;

/// The next question on the way to the end of a shard. `child` is an index into the list of children, `parent` one into
/// the [other parents](other_parents) of that child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndStep {
    /// Does the stream list children of the shard?
    FindChildren,
    /// It lists none. Does it still list the shard itself?
    FindShard,
    /// Does this child of a merge have a lease?
    LookUpChild {
        /// The index of the child.
        child: usize,
    },
    /// It has none. Does this other parent of the child have a lease? Without one the child would start at once, since a
    /// parent without a row counts as done (KCL: `BlockedOnParentShard`).
    LookUpParent {
        /// The index of the child.
        child: usize,
        /// The index of the other parent.
        parent: usize,
    },
    /// The other parent has no lease. Does the stream still list it?
    FindParent {
        /// The index of the child.
        child: usize,
        /// The index of the other parent.
        parent: usize,
    },
    /// The stream lists the other parent. Does a descendant of the child have a lease? Then all of these shards were read
    /// before and their rows deleted, and this shard is read a second time because its row was created again.
    LookBeyondChild {
        /// The index of the child.
        child: usize,
        /// The index of the other parent.
        parent: usize,
    },
    /// Create the lease of this child. Is the lease known to exist?
    Create {
        /// The index of the child.
        child: usize,
    },
    /// The outcome of the write is unknown. Does the lease exist?
    LookAgain {
        /// The index of the child.
        child: usize,
    },
    /// Write `SHARD_END` with the names of the children: the last step.
    RecordEnd,
}

/// Why the end cannot be recorded now. A later attempt starts with the first question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndObstacle {
    /// The stream lists no children, and may still have the shard.
    NoChildren,
    /// This other parent of this child has no lease.
    ParentWithoutLease {
        /// The index of the child.
        child: usize,
        /// The index of the other parent.
        parent: usize,
    },
    /// The lease of this child does not exist.
    ChildWithoutLease {
        /// The index of the child.
        child: usize,
    },
}

impl EndStep {
    /// The first step. `children` are those that the end of the shard has named, or empty.
    pub fn first(shard_id: &ShardId, children: &[Shard]) -> Self {
        if children.is_empty() { Self::FindChildren } else { Self::child(0, shard_id, children) }
    }

    /// The step that follows the answer to this one. `lookups` counts the listings without children.
    ///
    /// # Errors
    /// Why the end cannot be recorded now.
    pub fn next(
        self,
        answer: bool,
        shard_id: &ShardId,
        children: &[Shard],
        lookups: u32,
    ) -> Result<Self, EndObstacle> {
        match (self, answer) {
            (Self::FindChildren, true) | (Self::FindShard, false) => Ok(Self::child(0, shard_id, children)),
            (Self::FindChildren, false) if lookups < MAX_CHILD_LOOKUPS => Err(EndObstacle::NoChildren),
            (Self::FindChildren, false) => Ok(Self::FindShard),
            (Self::FindShard, true) => Err(EndObstacle::NoChildren),
            (Self::LookUpChild { child }, true) => Ok(Self::Create { child }),
            (Self::LookUpChild { child }, false) => Ok(Self::parent(child, 0, shard_id, children)),
            (Self::LookUpParent { child, parent }, true) | (Self::FindParent { child, parent }, false) => {
                Ok(Self::parent(child, parent + 1, shard_id, children))
            }
            (Self::LookUpParent { child, parent }, false) => Ok(Self::FindParent { child, parent }),
            (Self::FindParent { child, parent }, true) => Ok(Self::LookBeyondChild { child, parent }),
            (Self::LookBeyondChild { child, parent }, false) => {
                Err(EndObstacle::ParentWithoutLease { child, parent })
            }
            (
                Self::Create { child } | Self::LookAgain { child } | Self::LookBeyondChild { child, .. },
                true,
            ) => Ok(Self::child(child + 1, shard_id, children)),
            (Self::Create { child }, false) => Ok(Self::LookAgain { child }),
            (Self::LookAgain { child }, false) => Err(EndObstacle::ChildWithoutLease { child }),
            (Self::RecordEnd, _) => Ok(Self::RecordEnd),
        }
    }

    fn child(child: usize, shard_id: &ShardId, children: &[Shard]) -> Self {
        match children.get(child).map(|child| other_parents(shard_id, child)) {
            None => Self::RecordEnd,
            Some(others) if others.is_empty() => Self::Create { child },
            Some(_) => Self::LookUpChild { child },
        }
    }

    fn parent(child: usize, parent: usize, shard_id: &ShardId, children: &[Shard]) -> Self {
        let others = children.get(child).map(|child| other_parents(shard_id, child)).unwrap_or_default();
        if parent < others.len() { Self::LookUpParent { child, parent } } else { Self::Create { child } }
    }
}

/// The parents of a child other than this shard. Only a child of a merge has one.
pub fn other_parents<'a>(shard_id: &ShardId, child: &'a Shard) -> Vec<&'a ShardId> {
    child.parents.iter().filter(|parent| *parent != shard_id).collect()
}

/// The lease of a child whose parent is read to its end. `has_named_positions`: whether single shards have positions of
/// their own.
pub fn lease_of_child(
    parent: &Lease,
    child: &Shard,
    initial_position: InitialPosition,
    has_named_positions: bool,
) -> Lease {
    let (position, millis) =
        start_of_child(initial_position, has_named_positions, parent.initial_time_millis);
    let mut lease = new_lease(child, position);
    lease.stream.clone_from(&parent.stream);
    lease.application.clone_from(&parent.application);
    lease.initial_time_millis = millis;
    lease
}
