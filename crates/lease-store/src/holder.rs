//! What a holder of a lease knows, what it writes next, and what it makes of the answers: pure.
//!
//! [`HeldLease`](crate::HeldLease) carries it out.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::{
    Lease, LeaseChange, LeaseVersion, LeaseWrite, Position, StoreError, StoreErrorKind, Verdict, WorkerId,
};

/// How many writes of unknown outcome one lease may have before further ones are refused.
pub(crate) const MAX_UNSETTLED_WRITES: usize = 8;

/// A lease in the hand of a worker, as data.
///
/// One write at a time: [`next_write`](Self::next_write) says which, and what came of it is told before the next one. A
/// write counts as unsettled from before it is sent; while there are such, the row is read again first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    worker_id: WorkerId,
    lease: Lease,
    unsettled: Vec<UnsettledWrite>,
}

/// A write that may have been applied, or may still be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsettledWrite {
    /// The write.
    pub write: LeaseWrite,
    /// From before the request.
    pub asked_at: Instant,
}

/// What a holder has to do for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextWrite {
    /// Nothing: the row says so already.
    InEffect,
    /// Send this, and tell what came of it.
    Send(Box<LeaseWrite>),
    /// Nothing any more: the lease is given up or lost.
    Fenced,
    /// Nothing now: too many writes of unknown outcome.
    Full,
}

/// What a fresh look at the row says about the writes of unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// None was applied so far; one may still be.
    Unchanged,
    /// One of them was.
    Applied {
        /// From before the request.
        asked_at: Instant,
        /// It is the newest of them.
        is_newest: bool,
    },
    /// None was applied, and none can be any more: a KCL 3.x leader named another owner, for whom this holder is to
    /// finish.
    HandOverBegun,
    /// Somebody else wrote.
    Lost,
}

impl LeaseHolder {
    /// A lease that the worker has just taken.
    pub fn new(worker_id: WorkerId, taken: Lease) -> Self {
        Self::with_unsettled(worker_id, taken, Vec::new())
    }

    /// The same, with writes of unknown outcome.
    pub fn with_unsettled(worker_id: WorkerId, lease: Lease, unsettled: Vec<UnsettledWrite>) -> Self {
        Self { worker_id, lease, unsettled }
    }

    /// The row as far as this holder knows it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Writes against that row that may have been applied, or may still be.
    pub fn unsettled(&self) -> &[UnsettledWrite] {
        &self.unsettled
    }

    /// Whether the row has to be read before anything is written.
    pub fn must_look(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Who asks for the lease, as far as this holder knows.
    pub fn hand_over_target(&self) -> Option<&WorkerId> {
        self.lease.hand_over_target().filter(|target| **target != self.worker_id)
    }

    /// What to send for a change. It is noted as unsettled before it is sent: if the caller goes away in the middle of it, the
    /// next call settles it.
    ///
    /// # Errors
    /// `Invalid` when a position lies behind the stored one; `Conflict` when the worker that is to have the lease no longer
    /// asks for it.
    pub fn next_write(
        &mut self,
        change: &LeaseChange,
        is_fenced: bool,
        asked_at: Instant,
    ) -> Result<NextWrite, StoreError> {
        if is_fenced {
            return Ok(NextWrite::Fenced);
        }
        if is_in_effect(&self.lease, change)? {
            return Ok(NextWrite::InEffect);
        }
        if !self.is_held() {
            // An earlier last write, whose outcome was unknown, turned out to be applied: the row is another's.
            return Ok(NextWrite::Fenced);
        }
        if self.unsettled.len() >= MAX_UNSETTLED_WRITES {
            return Ok(NextWrite::Full);
        }
        let write = update(&self.lease, change.clone());
        self.unsettled.push(UnsettledWrite { write: write.clone(), asked_at });
        Ok(NextWrite::Send(Box::new(write)))
    }

    /// The newest write was applied; this is the row after it.
    pub fn note_applied(&mut self, row: Lease) {
        self.adopt(row);
    }

    /// Nothing came of the newest write, for sure.
    pub fn note_failed(&mut self) {
        self.unsettled.pop();
    }

    /// The condition of the newest write did not hold; this is the row that stood there. An earlier write of this holder may
    /// have arrived late: then the lease is still its own.
    pub fn note_refused(&mut self, row: Option<Lease>) -> Finding {
        self.unsettled.pop();
        self.look(row)
    }

    /// Takes a fresh look at the row into account.
    pub fn look(&mut self, row: Option<Lease>) -> Finding {
        let finding = self.find(row.as_ref());
        match (finding, row) {
            // The version is the same, but a request may have come or gone.
            (Finding::Unchanged, Some(row)) => self.lease = row,
            (Finding::Applied { .. } | Finding::HandOverBegun, Some(row)) => self.adopt(row),
            (Finding::Lost, _) | (_, None) => {}
        }
        finding
    }

    /// A look after the newest write had an unknown outcome: the finding, and whether that write is done. When it was sent does
    /// not tell it from the ones before: two may have been sent at the same instant, as far as a clock can tell.
    pub fn look_for_newest(&mut self, row: Option<Lease>) -> (Finding, bool) {
        let finding = self.look(row);
        (finding, matches!(finding, Finding::Applied { is_newest: true, .. }))
    }

    /// Compares the row with what each unsettled write would have made of it.
    fn find(&self, row: Option<&Lease>) -> Finding {
        let Some(row) = row else { return Finding::Lost };
        let version = self.lease.version();
        if version.matches(row) {
            return Finding::Unchanged;
        }
        if is_being_handed_over(&version, row) {
            return Finding::HandOverBegun;
        }
        let applied =
            self.unsettled.iter().position(|unsettled| match unsettled.write.decide(Some(&self.lease)) {
                Verdict::Applies(Some(result)) => {
                    let version = result.version();
                    let is_result = version.matches(row) || is_being_handed_over(&version, row);
                    is_result && result.checkpoint == row.checkpoint
                }
                Verdict::Applies(None) | Verdict::Refused => false,
            });
        applied.map_or(Finding::Lost, |place| Finding::Applied {
            asked_at: self.unsettled[place].asked_at,
            is_newest: place + 1 == self.unsettled.len(),
        })
    }

    /// Takes a row over that is this holder's.
    fn adopt(&mut self, row: Lease) {
        self.lease = row;
        self.unsettled.clear();
    }

    /// Whether the row is this holder's: it is the owner, or the one still processing in a hand-over of KCL 3.x.
    fn is_held(&self) -> bool {
        let me = Some(&self.worker_id);
        self.lease.owner.as_ref() == me || self.lease.checkpoint_owner.as_ref() == me
    }
}

/// A change of the row as it was seen.
pub(crate) fn update(seen: &Lease, change: LeaseChange) -> LeaseWrite {
    LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change }
}

/// Whether a KCL 3.x leader gave the lease of this holder to another worker and left everything else to the holder: the
/// counter stands, and the holder stands in the row as the one still processing (`initiateGracefulLeaseHandoff`).
fn is_being_handed_over(held: &LeaseVersion, row: &Lease) -> bool {
    held.checkpoint_owner.is_none()
        && held.counter == row.counter
        && held.owner.is_some()
        && held.owner == row.checkpoint_owner
        && row.owner.is_some()
}

/// Whether the row already says what the change would make it say, so that nothing needs to be written.
fn is_in_effect(lease: &Lease, change: &LeaseChange) -> Result<bool, StoreError> {
    match change {
        LeaseChange::Checkpoint { position, children } => {
            check_forward(lease, position)?;
            Ok(position == &lease.checkpoint && BTreeSet::is_subset(children, &lease.children))
        }
        LeaseChange::Prepare(pending) => {
            check_forward(lease, &pending.position)?;
            Ok(lease.pending_checkpoint.as_ref() == Some(pending))
        }
        LeaseChange::Release if lease.checkpoint_owner.is_some() => Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!("the lease of {} was given to another worker; hand it over, or keep it", lease.shard_id),
        )),
        LeaseChange::Release => Ok(lease.owner.is_none()),
        LeaseChange::HandOver { to } if lease.is_owned_by(to) && lease.checkpoint_owner.is_none() => Ok(true),
        LeaseChange::HandOver { to } if lease.hand_over_target() != Some(to) => Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!("{to} no longer asks for the lease of {}; release it, or keep it", lease.shard_id),
        )),
        LeaseChange::HandOver { .. } => Ok(false),
        LeaseChange::Renew
        | LeaseChange::Offer
        | LeaseChange::Take { .. }
        | LeaseChange::Request { .. }
        | LeaseChange::Withdraw { .. } => Ok(false),
    }
}

fn check_forward(lease: &Lease, position: &Position) -> Result<(), StoreError> {
    if position < &lease.checkpoint {
        return Err(StoreError::invalid(format!(
            "checkpoint {position} of {} lies behind the stored {}; checkpoints only move forward",
            lease.shard_id, lease.checkpoint
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;

    #[test]
    fn a_write_is_told_from_an_earlier_one_of_the_same_instant() {
        let me = WorkerId::new("a").unwrap();
        let lease = Lease::unowned(ShardId::numbered(0), Position::TrimHorizon);
        let taken = LeaseChange::take(me.clone()).apply(&lease);
        let mut holder = LeaseHolder::new(me, taken.clone());
        let now = Instant::now();
        assert!(matches!(holder.next_write(&LeaseChange::Renew, false, now), Ok(NextWrite::Send(_))));
        assert_eq!(holder.look(Some(taken.clone())), Finding::Unchanged, "it is still on its way");
        let position = Position::after(1u128.into(), 0);
        let checkpoint = LeaseChange::Checkpoint { position, children: BTreeSet::new() };
        assert!(matches!(holder.next_write(&checkpoint, false, now), Ok(NextWrite::Send(_))));
        let renewed = LeaseChange::Renew.apply(&taken);
        let (finding, is_done) = holder.look_for_newest(Some(renewed));
        assert_eq!(finding, Finding::Applied { asked_at: now, is_newest: false });
        assert!(!is_done, "the renewal arrived late, and the checkpoint is not written");
    }
}
