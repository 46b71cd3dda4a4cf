//! What can be written to a lease, as data: the condition, the change, and the pure result.

use std::collections::BTreeSet;

use crate::{Lease, LeaseFacts, LeaseVersion, PendingCheckpoint, Position, ShardId, WorkerId};

/// One conditional write. There is no unconditional one.
// Creations are rare, and no write is kept for long: a box would only be in the way of those who match.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseWrite {
    /// Add a row, if the shard has none yet.
    Create(Lease),
    /// Change a row, if it is still at the expected version.
    Update {
        /// The row.
        shard_id: ShardId,
        /// What the writer last saw.
        expected: LeaseVersion,
        /// What shall become of it.
        change: LeaseChange,
    },
    /// Remove a row, if it is still at the expected version.
    Delete {
        /// The row.
        shard_id: ShardId,
        /// What the writer last saw.
        expected: LeaseVersion,
    },
}

/// A change of one lease (KCL: renewLease, updateLease, takeLease, evictLease).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseChange {
    /// Heartbeat: the counter grows.
    Renew,
    /// Store how far the shard is read. It is also a heartbeat.
    Checkpoint {
        /// The new position.
        position: Position,
        /// The shards that follow, when they are known; empty leaves those in the row.
        children: BTreeSet<ShardId>,
    },
    /// Note that a position is about to be stored, with bytes of the application: the first half of the KCL's two-step
    /// checkpoint. It is also a heartbeat.
    Prepare(PendingCheckpoint),
    /// Make this worker the owner, and note what the row lacks.
    Take {
        /// The new owner.
        owner: WorkerId,
        /// What the writer knows of the shard.
        facts: LeaseFacts,
    },
    /// Make the worker that asks for the lease its owner, if it still asks: the last write of a holder.
    HandOver {
        /// The new owner; see [`Lease::hand_over_target`].
        to: WorkerId,
    },
    /// Ask the owner for the lease. The counter stays, since it is the owner's heartbeat, and so that whatever the owner
    /// writes next (a KCL worker too) finds its condition unharmed.
    Request {
        /// The worker that asks.
        by: WorkerId,
        /// The request that stands there, as last seen, and is replaced.
        instead_of: Option<WorkerId>,
    },
    /// Take a request back. The counter stays, as for the request.
    Withdraw {
        /// The worker that asked.
        by: WorkerId,
    },
    /// Tell others that the owner is ready to part with the lease. It is also a heartbeat.
    Offer,
    /// Give the lease up. The counter stays: KCL versions before 2.6 see a lease as available only when its counter
    /// has stood still for the fail-over time, and a new count would start that time again.
    Release,
}

impl LeaseChange {
    /// A take that notes nothing besides.
    pub fn take(owner: WorkerId) -> Self {
        Self::Take { owner, facts: LeaseFacts::default() }
    }

    /// The row after the change. Every store yields exactly this.
    #[must_use]
    pub fn apply(&self, lease: &Lease) -> Lease {
        let mut next = lease.clone();
        match self {
            Self::Renew => next.counter += 1,
            Self::Checkpoint { position, children } => {
                next.counter += 1;
                next.checkpoint = position.clone();
                next.owner_switches_since_checkpoint = 0;
                next.pending_checkpoint = None;
                if !children.is_empty() {
                    next.children.clone_from(children);
                }
            }
            Self::Prepare(pending) => {
                next.counter += 1;
                next.pending_checkpoint = Some(pending.clone());
            }
            Self::Take { owner, facts } => {
                Self::give_to(owner, &mut next);
                facts.fill_in(&mut next);
            }
            Self::HandOver { to } => Self::give_to(to, &mut next),
            Self::Request { by, .. } => next.requested_by = Some(by.clone()),
            Self::Withdraw { .. } => next.requested_by = None,
            Self::Offer => {
                next.counter += 1;
                next.offered_by.clone_from(&lease.owner);
            }
            Self::Release => {
                next.owner = None;
                next.requested_by = None;
                next.offered_by = None;
            }
        }
        next
    }

    fn give_to(owner: &WorkerId, lease: &mut Lease) {
        if Self::counts_as_owner_switch(&lease.version(), owner) {
            lease.owner_switches_since_checkpoint += 1;
        }
        lease.counter += 1;
        lease.owner = Some(owner.clone());
        lease.checkpoint_owner = None;
        lease.requested_by = None;
        lease.offered_by = None;
    }

    /// What a row of the expected version must fulfil besides.
    fn is_possible_on(&self, lease: &Lease) -> bool {
        match self {
            Self::Request { instead_of, .. } => lease.requested_by == *instead_of,
            Self::HandOver { to } => lease.hand_over_target() == Some(to),
            Self::Withdraw { by } => lease.requested_by.as_ref() == Some(by),
            _ => true,
        }
    }

    /// The KCL's rule: a take counts as a switch when another worker owned the lease, or when the new owner finishes a
    /// hand-over in which it was the one still processing. Taking an unowned lease does not count.
    pub(crate) fn counts_as_owner_switch(seen: &LeaseVersion, new_owner: &WorkerId) -> bool {
        seen.owner.as_ref().is_some_and(|old_owner| old_owner != new_owner)
            || seen.checkpoint_owner.as_ref() == Some(new_owner)
    }
}

impl LeaseWrite {
    /// The row this write is about.
    pub fn shard_id(&self) -> &ShardId {
        match self {
            Self::Create(lease) => &lease.shard_id,
            Self::Update { shard_id, .. } | Self::Delete { shard_id, .. } => shard_id,
        }
    }

    /// What becomes of the row that stands there now. Every store decides exactly so.
    pub fn decide(&self, row: Option<&Lease>) -> Verdict {
        match (self, row) {
            (Self::Create(lease), None) => Verdict::Applies(Some(Box::new(lease.clone()))),
            (Self::Update { expected, change, .. }, Some(lease))
                if expected.matches(lease) && change.is_possible_on(lease) =>
            {
                Verdict::Applies(Some(Box::new(change.apply(lease))))
            }
            (Self::Delete { expected, .. }, Some(lease)) if expected.matches(lease) => Verdict::Applies(None),
            _ => Verdict::Refused,
        }
    }
}

/// The answer of [`LeaseWrite::decide`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The condition holds; this is the row after the write, `None` after a delete.
    Applies(Option<Box<Lease>>),
    /// The condition does not hold; the row stays.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &'static str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn lease() -> Lease {
        Lease::unowned(ShardId::new("shardId-000000000001").unwrap(), Position::TrimHorizon)
    }

    #[test]
    fn owner_switches_follow_the_kcl_rule() {
        let take = |lease: &Lease, name| LeaseChange::take(worker(name)).apply(lease);
        let first = take(&lease(), "a");
        assert_eq!(first.owner_switches_since_checkpoint, 0, "an unowned lease was taken");
        assert_eq!(take(&first, "a").owner_switches_since_checkpoint, 0, "its own owner took it");
        let second = take(&first, "b");
        assert_eq!(second.owner_switches_since_checkpoint, 1);
        let mut handing_over = first;
        handing_over.checkpoint_owner = Some(worker("b"));
        handing_over.owner = Some(worker("b"));
        assert_eq!(take(&handing_over, "b").owner_switches_since_checkpoint, 1);
        let position = Position::after(7.into(), 0);
        let checkpointed = LeaseChange::Checkpoint { position, children: BTreeSet::new() }.apply(&second);
        assert_eq!(checkpointed.owner_switches_since_checkpoint, 0);
    }

    #[test]
    fn every_change_but_release_moves_the_counter() {
        let owned = LeaseChange::take(worker("a")).apply(&lease());
        assert_eq!(owned.counter, 1);
        assert_eq!(LeaseChange::Renew.apply(&owned).counter, 2);
        let position = Position::ShardEnd;
        assert_eq!(LeaseChange::Checkpoint { position, children: BTreeSet::new() }.apply(&owned).counter, 2);
        let released = LeaseChange::Release.apply(&owned);
        assert_eq!((released.counter, released.owner), (1, None));
    }

    #[test]
    fn a_version_that_moved_refuses_the_write() {
        let row = LeaseChange::take(worker("b")).apply(&lease());
        let stale = LeaseWrite::Update {
            shard_id: row.shard_id.clone(),
            expected: LeaseVersion { counter: 0, owner: None, checkpoint_owner: None },
            change: LeaseChange::Renew,
        };
        assert_eq!(stale.decide(Some(&row)), Verdict::Refused);
        assert_eq!(stale.decide(None), Verdict::Refused);
        let other_owner = LeaseWrite::Delete {
            shard_id: row.shard_id.clone(),
            expected: LeaseVersion { counter: 1, owner: Some(worker("a")), checkpoint_owner: None },
        };
        assert_eq!(other_owner.decide(Some(&row)), Verdict::Refused);
        assert_eq!(LeaseWrite::Create(lease()).decide(Some(&row)), Verdict::Refused);
    }
}
