//! Conditional writes to a lease as data: the condition, the change, and the pure function that computes the result.

use std::collections::BTreeSet;

use crate::lag_report::LagReport;
use crate::lease::{Lease, LeaseFacts, LeaseVersion, PendingCheckpoint};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::worker_id::WorkerId;

/// One conditional write. There is no unconditional one.
// Creations are rare and writes are short-lived, so boxing the lease would only complicate matching.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseWrite {
    /// Add a row, if the shard has none yet.
    Create(Lease),
    /// Change a row, if it is still at the expected version.
    Update {
        /// The key of the row.
        shard_id: ShardId,
        /// The version that the writer last saw.
        expected: LeaseVersion,
        /// The change to make.
        change: LeaseChange,
    },
    /// Remove a row, if it is still at the expected version.
    Delete {
        /// The key of the row.
        shard_id: ShardId,
        /// The version that the writer last saw.
        expected: LeaseVersion,
    },
}

/// A change of one lease (KCL: renewLease, updateLease, takeLease, evictLease).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseChange {
    /// Heartbeat: increments the counter.
    Renew,
    /// Store a new checkpoint. It is also a heartbeat.
    Checkpoint {
        /// The new position.
        position: Position,
        /// The child shards, if they are known; an empty set keeps the children in the row.
        children: BTreeSet<ShardId>,
    },
    /// Announce a checkpoint, with bytes of the application: the first half of the KCL's two-step checkpoint. It is
    /// also a heartbeat.
    PrepareCheckpoint(PendingCheckpoint),
    /// Make this worker the owner, and add the facts that the row lacks.
    Take {
        /// The new owner.
        owner: WorkerId,
        /// Facts about the shard that the writer knows.
        facts: LeaseFacts,
    },
    /// Make the worker that requests the lease its owner, if the request still stands: the last write of a holder.
    HandOver {
        /// The new owner; see [`Lease::hand_over_target`].
        to: WorkerId,
    },
    /// Ask the owner for the lease. The counter is not changed: it is the owner's heartbeat, and the condition of the
    /// owner's next write (a KCL worker's too) must still hold.
    Request {
        /// The worker that requests the lease.
        by: WorkerId,
        /// The requester in the row, as last seen, which this request replaces.
        instead_of: Option<WorkerId>,
    },
    /// Withdraw a request. The counter is not changed, as for the request.
    Withdraw {
        /// The worker that requested the lease.
        by: WorkerId,
    },
    /// Leave a request of an operator to the owner, or remove one. The counter is not changed, as for [`Request`](Self::Request).
    AskOwner {
        /// The text of the request; `None` removes the one in the row.
        text: Option<String>,
        /// The text in the row, as last seen, which this one replaces.
        instead_of: Option<String>,
    },
    /// Record a pause, or remove one. The counter is not changed, as for [`Request`](Self::Request).
    Pause {
        /// The text of the pause; `None` removes the one in the row.
        text: Option<String>,
        /// The text in the row, as last seen, which this one replaces.
        instead_of: Option<String>,
    },
    /// Store any position, also one before the stored one, and make the lease free. The instant of the position is set or
    /// removed with it. Its owner writes this on request; an operator does when the lease has no live owner.
    Reset {
        /// The new position.
        position: Position,
        /// The new instant; see [`Lease::initial_time_millis`].
        initial_time_millis: Option<u64>,
        /// The child shards, if they are known; an empty set keeps the children in the row.
        children: BTreeSet<ShardId>,
        /// See [`Lease::reset_id`].
        reset_id: u64,
        /// The request in the row, as last seen. The change is its answer, and removes it.
        owner_request: Option<String>,
    },
    /// Offer the lease to other workers. It is also a heartbeat.
    Offer,
    /// A heartbeat of the owner together with a report of its lag. The report has no effect on the change or its condition.
    Reported {
        /// The change: a renewal or a checkpoint.
        change: Box<LeaseChange>,
        /// The report.
        report: LagReport,
    },
    /// Give up the lease, without a successor. The counter is not changed: KCL versions before 2.6 take a lease only
    /// when its counter has not changed for the fail-over time, and a new value would restart that time.
    Release,
}

impl LeaseChange {
    /// A take that adds no facts.
    pub fn take(owner: WorkerId) -> Self {
        Self::Take { owner, facts: LeaseFacts::default() }
    }

    /// The change without the report that comes with it.
    #[must_use]
    pub fn without_report(&self) -> &Self {
        match self {
            Self::Reported { change, .. } => change.without_report(),
            other => other,
        }
    }

    /// The row after the change. Every store must produce exactly this row.
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
            Self::PrepareCheckpoint(pending) => {
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
            Self::AskOwner { text, .. } => next.owner_request_text.clone_from(text),
            Self::Pause { text, .. } => next.pause_text.clone_from(text),
            Self::Reset { position, initial_time_millis, children, reset_id, .. } => {
                next.counter += 1;
                next.checkpoint = position.clone();
                next.initial_time_millis = *initial_time_millis;
                next.owner_switches_since_checkpoint = 0;
                next.pending_checkpoint = None;
                if !children.is_empty() {
                    next.children.clone_from(children);
                }
                next.reset_id = Some(*reset_id);
                next.checkpoint_owner = None;
                Self::free(&mut next);
            }
            Self::Offer => {
                next.counter += 1;
                next.offered_by.clone_from(&lease.owner);
            }
            Self::Reported { change, report } => {
                next = change.apply(lease);
                next.lag_report_text = Some(report.text(lease.counter.saturating_add(1)));
            }
            Self::Release => Self::free(&mut next),
        }
        next
    }

    fn free(lease: &mut Lease) {
        lease.owner = None;
        lease.requested_by = None;
        lease.offered_by = None;
        lease.owner_process = None;
        lease.owner_request_text = None;
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
        lease.owner_process = None;
        lease.owner_request_text = None;
    }

    /// The condition on the row in addition to its version.
    fn is_possible_on(&self, lease: &Lease) -> bool {
        match self {
            Self::Request { instead_of, .. } => lease.requested_by == *instead_of,
            Self::HandOver { to } => lease.hand_over_target() == Some(to),
            Self::Withdraw { by } => lease.requested_by.as_ref() == Some(by),
            Self::AskOwner { instead_of, .. } => lease.owner_request_text == *instead_of,
            Self::Pause { instead_of, .. } => lease.pause_text == *instead_of,
            Self::Reset { owner_request, .. } => lease.owner_request_text == *owner_request,
            Self::Reported { change, .. } => change.is_possible_on(lease),
            _ => true,
        }
    }

    /// The KCL's rule: a take counts as a switch when another worker owned the lease, or when the new owner is the
    /// checkpoint owner of an unfinished hand-over. Taking an unowned lease does not count.
    pub(crate) fn counts_as_owner_switch(seen: &LeaseVersion, new_owner: &WorkerId) -> bool {
        seen.owner.as_ref().is_some_and(|old_owner| old_owner != new_owner)
            || seen.checkpoint_owner.as_ref() == Some(new_owner)
    }
}

impl LeaseWrite {
    /// The shard whose row is written.
    pub fn shard_id(&self) -> &ShardId {
        match self {
            Self::Create(lease) => &lease.shard_id,
            Self::Update { shard_id, .. } | Self::Delete { shard_id, .. } => shard_id,
        }
    }

    /// Decides whether the write applies to the present row. Every store must decide exactly like this.
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

/// The result of [`LeaseWrite::decide`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The condition holds. The value is the row after the write; `None` after a delete.
    Applies(Option<Box<Lease>>),
    /// The condition does not hold; the row is not changed.
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
        assert_eq!(first.owner_switches_since_checkpoint, 0, "the lease was unowned");
        assert_eq!(take(&first, "a").owner_switches_since_checkpoint, 0, "the owner took its own lease");
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
    fn take_renew_and_checkpoint_increment_the_counter() {
        let owned = LeaseChange::take(worker("a")).apply(&lease());
        assert_eq!(owned.counter, 1);
        assert_eq!(LeaseChange::Renew.apply(&owned).counter, 2);
        let position = Position::ShardEnd;
        assert_eq!(LeaseChange::Checkpoint { position, children: BTreeSet::new() }.apply(&owned).counter, 2);
        let released = LeaseChange::Release.apply(&owned);
        assert_eq!((released.counter, released.owner), (1, None));
    }

    #[test]
    fn reset_frees_the_lease_and_replaces_the_instant() {
        let mut row = LeaseChange::take(worker("a")).apply(&lease());
        row.checkpoint = Position::after(9.into(), 0);
        row.initial_time_millis = Some(5);
        row.owner_request_text = Some("reset TRIM_HORIZON #7 to a".to_owned());
        let reset = |owner_request| LeaseChange::Reset {
            position: Position::TrimHorizon,
            initial_time_millis: None,
            children: BTreeSet::new(),
            reset_id: 7,
            owner_request,
        };
        let next = reset(None).apply(&row);
        assert_eq!(
            (next.owner, next.counter, next.checkpoint),
            (None, row.counter + 1, Position::TrimHorizon)
        );
        assert_eq!((next.initial_time_millis, next.reset_id, next.owner_request_text), (None, Some(7), None));
        let write =
            |change| LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
        assert_eq!(
            write(reset(None)).decide(Some(&row)),
            Verdict::Refused,
            "a request that it does not answer"
        );
        let answered = write(reset(row.owner_request_text.clone()));
        assert!(matches!(answered.decide(Some(&row)), Verdict::Applies(_)));
    }

    #[test]
    fn requests_end_with_the_ownership_and_pauses_do_not() {
        let mut row = LeaseChange::take(worker("a")).apply(&lease());
        row.owner_request_text = Some("release #7 to a".to_owned());
        row.pause_text = Some("by me".to_owned());
        row.requested_by = Some(worker("b"));
        for change in
            [LeaseChange::take(worker("a")), LeaseChange::HandOver { to: worker("b") }, LeaseChange::Release]
        {
            let next = change.apply(&row);
            assert_eq!(
                (next.owner_request_text, next.pause_text),
                (None, row.pause_text.clone()),
                "{change:?}"
            );
        }
        let renewed = LeaseChange::Renew.apply(&row);
        assert_eq!(renewed.owner_request_text, row.owner_request_text);
    }

    #[test]
    fn report_comes_with_a_heartbeat_and_ends_with_the_next_one() {
        let row = LeaseChange::take(worker("a")).apply(&lease());
        let report = LagReport { behind_millis: 5, measured_at_millis: 9, processed_bytes_per_second: None };
        let renewed = LeaseChange::Reported { change: Box::new(LeaseChange::Renew), report }.apply(&row);
        assert_eq!((renewed.counter, renewed.lag_report()), (row.counter + 1, Some(report)));
        assert_eq!(LeaseChange::Renew.apply(&renewed).lag_report(), None, "a worker that reports nothing");
        assert_eq!(LeaseChange::take(worker("b")).apply(&renewed).lag_report(), None);
    }

    #[test]
    fn a_take_raises_the_counter_to_the_floor() {
        let take = |lease: &Lease, counter_floor| {
            let facts = LeaseFacts { counter_floor, ..LeaseFacts::default() };
            LeaseChange::Take { owner: worker("a"), facts }.apply(lease).counter
        };
        let mut row = lease();
        assert_eq!((take(&row, 0), take(&row, 1), take(&row, 1_700)), (1, 1, 1_700));
        row.counter = 1_700;
        assert_eq!((take(&row, 1_700), take(&row, 9)), (1_701, 1_701), "the counter always grows");
    }

    #[test]
    fn a_changed_version_refuses_the_write() {
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
