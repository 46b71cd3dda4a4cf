//! How the end of a shard is recorded, one question after the other: pure.
//!
//! [`ShardEndWriter`](crate::children::ShardEndWriter) asks the questions.

use lease_store::{Lease, ShardId};
use shard_worker::Shard;

use crate::InitialPosition;
use crate::initial_position::start_of_child;
use crate::shard_sync::new_lease;

/// How often the stream is asked for the children of a closed shard before it is asked whether it still has the shard.
/// Children exist from the moment the parent closes, but a listing may show them late. To mark the shard as ended
/// without them would let *their* children start before them, if they are resharded before anybody sees them. So that
/// is done only for a shard that the stream no longer lists: its children may be past the retention period too.
pub const MAX_CHILD_LOOKUPS: u32 = 5;

/// What is asked next on the way to the end of a shard. Children and parents are named by their places in the list of the
/// children, and among the other parents of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndStep {
    /// Does the stream list children of the shard?
    FindChildren,
    /// It lists none: does it still list the shard itself?
    FindShard,
    /// Has this child of a merge a lease?
    LookUpChild {
        /// The child.
        child: usize,
    },
    /// Has this other parent of it a lease? Otherwise the child would start at once, since a parent without a row counts as
    /// done (KCL: `BlockedOnParentShard`).
    LookUpParent {
        /// The child.
        child: usize,
        /// The other parent.
        parent: usize,
    },
    /// It has none: does the stream still list it?
    FindParent {
        /// The child.
        child: usize,
        /// The other parent.
        parent: usize,
    },
    /// The stream lists it: has anything a lease that came out of the child? Then all of them are read, and their rows were
    /// cleaned up: this shard is read a second time, since its row was created again.
    LookBeyondChild {
        /// The child.
        child: usize,
        /// The other parent.
        parent: usize,
    },
    /// Create the lease of this child. Is it known to be there?
    Create {
        /// The child.
        child: usize,
    },
    /// That is open: is it there?
    LookAgain {
        /// The child.
        child: usize,
    },
    /// Write `SHARD_END` with the names of the children: the last step.
    RecordEnd,
}

/// Why the end cannot be recorded now. It is tried again from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndObstacle {
    /// The stream shows no children, and still has the shard.
    NoChildren,
    /// This other parent of this child has no lease.
    ParentWithoutLease {
        /// The child.
        child: usize,
        /// The other parent.
        parent: usize,
    },
    /// The lease of this child is not there.
    ChildWithoutLease {
        /// The child.
        child: usize,
    },
}

impl EndStep {
    /// The first step; `children` are those that the end of the shard has named, if it did.
    pub fn first(shard_id: &ShardId, children: &[Shard]) -> Self {
        if children.is_empty() { Self::FindChildren } else { Self::child(0, shard_id, children) }
    }

    /// The step after this one was answered with yes or no. `lookups` counts how often the stream was asked for the children.
    ///
    /// # Errors
    /// Why it does not go on.
    pub fn next(
        self,
        is_so: bool,
        shard_id: &ShardId,
        children: &[Shard],
        lookups: u32,
    ) -> Result<Self, EndObstacle> {
        match (self, is_so) {
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

/// The other parents of a child of a merge.
pub fn other_parents<'a>(shard_id: &ShardId, child: &'a Shard) -> Vec<&'a ShardId> {
    child.parents.iter().filter(|parent| *parent != shard_id).collect()
}

/// The lease of a child of a shard that is read to its end. `has_named_positions`: single shards have positions of their own.
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
    lease.initial_time_millis = millis;
    lease
}
