//! The state of a held lease, as pure data: the last known row, the write to send next, and the effect of each answer.
//!
//! [`HeldLease`](crate::HeldLease) does the I/O.

// The items are public through the feature `internals` only.
#![allow(unreachable_pub)]

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::error::{StoreError, StoreErrorKind};
use crate::lease::{Lease, LeaseVersion};
use crate::position::Position;
use crate::worker_id::WorkerId;
use crate::write::{LeaseChange, LeaseWrite, Verdict};

/// The most writes of unknown outcome that one lease may have; further writes are refused.
pub(crate) const MAX_UNSETTLED_WRITES: usize = 8;

/// The state of a lease that a worker holds.
///
/// There is one write at a time: [`next_write`](Self::next_write) returns it, and the caller records its outcome before
/// the next one. A write counts as unsettled from before it is sent. While a write is unsettled, the row must be read
/// before the next write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    worker_id: WorkerId,
    lease: Lease,
    /// The position that this holder took over or stored last. The row has another one after an edit by hand.
    stored: Position,
    pub(crate) unsettled: Vec<UnsettledWrite>,
    /// The newest edit of the position by another writer.
    edited: Option<EditedPosition>,
}

/// A position that another writer, such as an operator, stored in the row of a held lease.
///
/// The holder does not adopt it: it continues from its own position, and its next checkpoint replaces the edit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EditedPosition {
    /// The position that the holder knew to be stored.
    pub stored: Position,
    /// The position that it found in the row instead.
    pub found: Position,
}

/// A write that may have been applied, or may still be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledWrite {
    /// The write.
    pub write: LeaseWrite,
    /// The time right before the request.
    pub asked_at: Instant,
}

impl UnsettledWrite {
    /// The position that the write stores, if it is a checkpoint.
    fn position(&self) -> Option<&Position> {
        let LeaseWrite::Update { change, .. } = &self.write else { return None };
        match change.without_report() {
            LeaseChange::Checkpoint { position, .. } => Some(position),
            _ => None,
        }
    }
}

/// The next step of a holder towards a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextWrite {
    /// Write nothing: the row already has the change.
    InEffect,
    /// Send this write, and record its outcome.
    Send(Box<LeaseWrite>),
    /// Never write again: the lease is released or lost.
    Fenced,
    /// Write nothing now: too many writes have an unknown outcome.
    Full,
}

/// The result of reading the row back: which of the unsettled writes was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBack {
    /// No unsettled write was applied so far; one may still be applied later.
    Unchanged,
    /// One of the unsettled writes was applied.
    Applied {
        /// The time right before its request.
        asked_at: Instant,
        /// Whether it is the newest of them.
        is_newest: bool,
    },
    /// None was applied, and none can be any more: a KCL 3.x leader named a new owner. This holder still finishes its
    /// records and hands the lease over.
    HandOverBegun,
    /// Another worker wrote.
    Lost,
}

impl LeaseState {
    /// The state right after the worker took the lease.
    pub fn new(worker_id: WorkerId, taken: Lease) -> Self {
        Self::with_unsettled(worker_id, taken, Vec::new())
    }

    /// A state with writes of unknown outcome.
    pub fn with_unsettled(worker_id: WorkerId, lease: Lease, unsettled: Vec<UnsettledWrite>) -> Self {
        Self { worker_id, stored: lease.checkpoint.clone(), lease, unsettled, edited: None }
    }

    /// The newest edit of the position by another writer.
    pub fn edited_position(&self) -> Option<&EditedPosition> {
        self.edited.as_ref()
    }

    /// Compares a listed row with the known one, and notes an edit. The version shows whether both are the same write of
    /// the row: each write that changes the position changes the version too, but an edit by hand does not.
    pub fn compare_listed(&mut self, row: &Lease) {
        if self.unsettled.is_empty() && self.lease.version().matches(row) {
            self.note_edit(&self.lease.checkpoint.clone(), row);
        }
    }

    fn note_edit(&mut self, expected: &Position, row: &Lease) {
        if row.checkpoint != *expected {
            let (stored, found) = (expected.clone(), row.checkpoint.clone());
            self.edited = Some(EditedPosition { stored, found });
        }
    }

    /// The row, as far as this holder knows it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether the row must be read before the next write.
    pub fn must_read_back(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// The worker that requests the lease, as far as this holder knows.
    pub fn hand_over_target(&self) -> Option<&WorkerId> {
        self.lease.hand_over_target().filter(|target| **target != self.worker_id)
    }

    /// Returns the write that makes a change. It counts as unsettled before it is sent, so if the caller is cancelled
    /// during the write, the next call settles it.
    ///
    /// # Errors
    /// `Invalid` when a position is behind the stored one; `Conflict` when the new owner no longer requests the lease.
    pub fn next_write(
        &mut self,
        change: &LeaseChange,
        is_fenced: bool,
        asked_at: Instant,
    ) -> Result<NextWrite, StoreError> {
        if is_fenced {
            return Ok(NextWrite::Fenced);
        }
        if self.is_in_effect(change)? {
            return Ok(NextWrite::InEffect);
        }
        if !self.is_held() {
            // An earlier release or hand-over of unknown outcome was applied: this worker no longer holds the lease.
            return Ok(NextWrite::Fenced);
        }
        if self.unsettled.len() >= MAX_UNSETTLED_WRITES {
            return Ok(NextWrite::Full);
        }
        let write = update(&self.lease, change.clone());
        self.unsettled.push(UnsettledWrite { write: write.clone(), asked_at });
        Ok(NextWrite::Send(Box::new(write)))
    }

    /// Whether the row already has the change. An edit of the position by hand does not count: checkpoints move forward
    /// from the position of this holder, and the next one replaces the edit.
    fn is_in_effect(&self, change: &LeaseChange) -> Result<bool, StoreError> {
        if self.lease.checkpoint == self.stored {
            return is_in_effect(&self.lease, change);
        }
        let unedited = Lease { checkpoint: self.stored.clone(), ..self.lease.clone() };
        let is_in_effect = is_in_effect(&unedited, change)?;
        Ok(is_in_effect && !matches!(change.without_report(), LeaseChange::Checkpoint { .. }))
    }

    /// Records that the newest write was applied; `row` is the row after it.
    pub fn record_applied(&mut self, row: Lease) {
        if let Some(position) = self.unsettled.last().and_then(UnsettledWrite::position) {
            self.stored.clone_from(position);
        }
        let result = self.unsettled.last().map(|newest| newest.write.decide(Some(&self.lease)));
        if let Some(Verdict::Applies(Some(expected))) = result {
            self.note_edit(&expected.checkpoint, &row);
        }
        self.adopt(row);
    }

    /// Records that the newest write failed and can never be applied.
    pub fn record_failed(&mut self) {
        self.unsettled.pop();
    }

    /// Records that the condition of the newest write did not hold; `row` is the row that made it fail. If an earlier
    /// write of this holder was applied late, the lease is still its own.
    pub fn record_refused(&mut self, row: Option<Lease>) -> ReadBack {
        self.unsettled.pop();
        self.read_back(row)
    }

    /// Compares a freshly read row with the unsettled writes, and adopts it if it is still this holder's.
    pub fn read_back(&mut self, row: Option<Lease>) -> ReadBack {
        let applied = row.as_ref().and_then(|row| self.applied(row));
        let found = self.compare(row.as_ref(), applied);
        let position = applied.and_then(|index| self.unsettled.get(index)?.position().cloned());
        if let (ReadBack::Applied { .. }, Some(position)) = (found, position) {
            self.stored = position;
        }
        match (found, row) {
            // The version is the same, but a request may have been added or withdrawn.
            (ReadBack::Unchanged, Some(row)) => {
                self.note_edit(&self.lease.checkpoint.clone(), &row);
                self.lease = row;
            }
            (ReadBack::Applied { .. } | ReadBack::HandOverBegun, Some(row)) => self.adopt(row),
            (ReadBack::Lost, _) | (_, None) => {}
        }
        found
    }

    /// Reads the row back after the newest write had an unknown outcome. The second value is whether that write was
    /// applied. The send time does not decide that, because two writes may have the same one within the resolution of the clock.
    pub fn read_back_newest(&mut self, row: Option<Lease>) -> (ReadBack, bool) {
        let found = self.read_back(row);
        (found, matches!(found, ReadBack::Applied { is_newest: true, .. }))
    }

    /// Compares the row with the known one. `applied` is the index of the unsettled write with this result.
    fn compare(&self, row: Option<&Lease>, applied: Option<usize>) -> ReadBack {
        let Some(row) = row else { return ReadBack::Lost };
        let version = self.lease.version();
        if version.matches(row) {
            return ReadBack::Unchanged;
        }
        if is_being_handed_over(&version, row) {
            return ReadBack::HandOverBegun;
        }
        applied.map_or(ReadBack::Lost, |index| ReadBack::Applied {
            asked_at: self.unsettled[index].asked_at,
            is_newest: index + 1 == self.unsettled.len(),
        })
    }

    /// The unsettled write that has this row as its result.
    fn applied(&self, row: &Lease) -> Option<usize> {
        self.unsettled.iter().position(|unsettled| match unsettled.write.decide(Some(&self.lease)) {
            Verdict::Applies(Some(result)) => {
                let version = result.version();
                let is_result = version.matches(row) || is_being_handed_over(&version, row);
                // A take by another process of the same name leads to the same version, so the processes are
                // compared too.
                let is_same_process = result.owner_process == row.owner_process;
                is_result && is_same_process && result.checkpoint == row.checkpoint
            }
            Verdict::Applies(None) | Verdict::Refused => false,
        })
    }

    /// Replaces the known row with a newer one that is still this holder's. No older write can be applied any more.
    fn adopt(&mut self, row: Lease) {
        self.lease = row;
        self.unsettled.clear();
    }

    /// Whether this worker holds the lease: it is the owner, or the checkpoint owner in a hand-over of KCL 3.x.
    fn is_held(&self) -> bool {
        let me = Some(&self.worker_id);
        self.lease.owner.as_ref() == me || self.lease.checkpoint_owner.as_ref() == me
    }
}

/// A write that changes the row if it is still as it was seen.
pub(crate) fn update(seen: &Lease, change: LeaseChange) -> LeaseWrite {
    LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change }
}

/// Whether a KCL 3.x leader began a hand-over of this holder's lease (`initiateGracefulLeaseHandoff`). The row then has
/// a new owner and the same counter, and names the holder as the checkpoint owner, which still processes records.
fn is_being_handed_over(held: &LeaseVersion, row: &Lease) -> bool {
    held.checkpoint_owner.is_none()
        && held.counter == row.counter
        && held.owner.is_some()
        && held.owner == row.checkpoint_owner
        && row.owner.is_some()
}

/// Whether the row already has the change, so that no write is needed.
fn is_in_effect(lease: &Lease, change: &LeaseChange) -> Result<bool, StoreError> {
    match change {
        LeaseChange::Checkpoint { position, children } => {
            check_forward(lease, position)?;
            Ok(position == &lease.checkpoint && BTreeSet::is_subset(children, &lease.children))
        }
        LeaseChange::PrepareCheckpoint(pending) => {
            check_forward(lease, &pending.position)?;
            Ok(lease.pending_checkpoint.as_ref() == Some(pending))
        }
        LeaseChange::Release if lease.checkpoint_owner.is_some() => Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!(
                "a KCL 3.x leader assigned the lease of {} to another worker; hand it over, or keep it",
                lease.shard_id
            ),
        )),
        LeaseChange::Release => Ok(lease.owner.is_none()),
        LeaseChange::Reset { owner_request, .. }
            if lease.checkpoint_owner.is_some() || lease.owner_request_text != *owner_request =>
        {
            Err(StoreError::new(
                StoreErrorKind::Conflict,
                format!(
                    "the request to reset {} was withdrawn or replaced; release it, or keep it",
                    lease.shard_id
                ),
            ))
        }
        LeaseChange::HandOver { to } if lease.is_owned_by(to) && lease.checkpoint_owner.is_none() => Ok(true),
        LeaseChange::HandOver { to } if lease.hand_over_target() != Some(to) => Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!("{to} no longer requests the lease of {}; release it, or keep it", lease.shard_id),
        )),
        LeaseChange::HandOver { .. } => Ok(false),
        // A report alone is no reason to write.
        LeaseChange::Reported { change, .. } => is_in_effect(lease, change),
        LeaseChange::Renew
        | LeaseChange::Offer
        | LeaseChange::Take { .. }
        | LeaseChange::Request { .. }
        | LeaseChange::Withdraw { .. }
        | LeaseChange::AskOwner { .. }
        | LeaseChange::Pause { .. }
        | LeaseChange::Reset { .. } => Ok(false),
    }
}

fn check_forward(lease: &Lease, position: &Position) -> Result<(), StoreError> {
    if position < &lease.checkpoint {
        return Err(StoreError::invalid(format!(
            "checkpoint {position} of {} is behind the stored {}; checkpoints only move forward",
            lease.shard_id, lease.checkpoint
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_id::ShardId;

    #[test]
    fn writes_of_the_same_instant_are_distinguished() {
        let me = WorkerId::new("a").unwrap();
        let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        let taken = LeaseChange::take(me.clone()).apply(&lease);
        let mut state = LeaseState::new(me, taken.clone());
        let now = Instant::now();
        assert!(matches!(state.next_write(&LeaseChange::Renew, false, now), Ok(NextWrite::Send(_))));
        assert_eq!(
            state.read_back(Some(taken.clone())),
            ReadBack::Unchanged,
            "the renewal is still in flight"
        );
        let position = Position::after(1u128.into(), 0);
        let checkpoint = LeaseChange::Checkpoint { position, children: BTreeSet::new() };
        assert!(matches!(state.next_write(&checkpoint, false, now), Ok(NextWrite::Send(_))));
        let renewed = LeaseChange::Renew.apply(&taken);
        let (found, is_done) = state.read_back_newest(Some(renewed));
        assert_eq!(found, ReadBack::Applied { asked_at: now, is_newest: false });
        assert!(!is_done, "only the late renewal was applied, not the checkpoint");
    }

    #[test]
    fn edit_of_the_position_is_noted_and_replaced() {
        let me = WorkerId::new("a").unwrap();
        let at = |number: u128| Position::after(number.into(), 0);
        let taken = LeaseChange::take(me.clone()).apply(&Lease::unowned(ShardId::numbered(0), at(9)));
        let mut state = LeaseState::new(me, taken.clone());
        state.compare_listed(&Lease { counter: taken.counter - 1, checkpoint: at(1), ..taken.clone() });
        assert_eq!(state.edited_position(), None, "an older row is no edit");
        let set_back = Lease { checkpoint: at(3), ..taken.clone() };
        state.compare_listed(&set_back);
        let edited = |found| Some(EditedPosition { stored: at(9), found });
        assert_eq!(state.edited_position().cloned(), edited(at(3)));
        // The answer to a renewal shows the row too.
        assert!(matches!(
            state.next_write(&LeaseChange::Renew, false, Instant::now()),
            Ok(NextWrite::Send(_))
        ));
        state.record_applied(LeaseChange::Renew.apply(&Lease { checkpoint: at(2), ..taken }));
        assert_eq!(state.edited_position().cloned(), edited(at(2)));
        let checkpoint = LeaseChange::Checkpoint { position: at(10), children: BTreeSet::new() };
        assert!(matches!(state.next_write(&checkpoint, false, Instant::now()), Ok(NextWrite::Send(_))));
    }

    #[test]
    fn position_moved_forward_by_hand_stops_no_checkpoint() {
        let me = WorkerId::new("a").unwrap();
        let at = |number: u128| Position::after(number.into(), 0);
        let checkpoint = |number| LeaseChange::Checkpoint { position: at(number), children: BTreeSet::new() };
        let taken = LeaseChange::take(me.clone()).apply(&Lease::unowned(ShardId::numbered(0), at(9)));
        let mut state = LeaseState::new(me, taken.clone());
        let next = |state: &mut LeaseState, change: &LeaseChange| match state.next_write(
            change,
            false,
            Instant::now(),
        ) {
            Ok(NextWrite::Send(write)) => Some(write),
            Ok(NextWrite::InEffect) => None,
            other => panic!("{other:?}"),
        };
        assert!(next(&mut state, &LeaseChange::Renew).is_some());
        let moved = LeaseChange::Renew.apply(&Lease { checkpoint: at(50), ..taken });
        state.record_applied(moved.clone());
        for number in [9, 10] {
            assert!(next(&mut state, &checkpoint(number)).is_some(), "{number} replaces the edit");
            state.record_failed();
        }
        assert!(state.next_write(&checkpoint(8), false, Instant::now()).is_err());
        assert!(next(&mut state, &checkpoint(10)).is_some());
        state.record_applied(checkpoint(10).apply(&moved));
        assert!(next(&mut state, &checkpoint(10)).is_none(), "it is stored");
    }
}
