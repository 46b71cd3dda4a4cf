//! Acknowledged positions that may not be stored: those of leases that were lost while no other worker was known to own them.

use std::collections::BTreeMap;

use lease_store::{Lease, Position, ShardId, WorkerId};

/// The acknowledged positions of lost leases that no row is known to contain. A record before such a position may be
/// delivered again.
#[derive(Debug, Default)]
pub(crate) struct UnwrittenPositions {
    positions: BTreeMap<ShardId, Position>,
}

impl UnwrittenPositions {
    /// Records the acknowledged position of a lease that was lost.
    pub(crate) fn record(&mut self, shard_id: ShardId, position: Position) {
        let known = self.positions.entry(shard_id).or_insert_with(|| position.clone());
        if *known < position {
            *known = position;
        }
    }

    /// Forgets the positions that these rows settle: another worker owns the lease, or the position is stored after all.
    pub(crate) fn settle(&mut self, leases: &[Lease], worker_id: &WorkerId) {
        if self.positions.is_empty() {
            return;
        }
        for lease in leases {
            let is_stored = self.positions.get(&lease.shard_id).is_some_and(|at| lease.checkpoint >= *at);
            let has_other_owner = lease.owner.as_ref().is_some_and(|owner| owner != worker_id);
            if is_stored || has_other_owner {
                self.positions.remove(&lease.shard_id);
            }
        }
    }

    /// Whether every acknowledged position is settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The shards of the unsettled positions, in order.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        self.positions.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_owner_or_a_stored_position_settles() {
        let worker = |name: &'static str| WorkerId::new(name).unwrap();
        let (me, at) = (worker("me"), |number: u128| Position::after(number.into(), 0));
        let row = |owner: Option<&'static str>, checkpoint: Position| {
            let mut lease = Lease::unowned(ShardId::numbered(0), checkpoint);
            lease.owner = owner.map(worker);
            lease
        };
        let settles = |row: Lease| {
            let mut unwritten = UnwrittenPositions::default();
            unwritten.record(ShardId::numbered(0), at(7));
            unwritten.record(ShardId::numbered(0), at(5));
            unwritten.settle(&[row], &me);
            unwritten.is_empty()
        };
        assert!(!settles(row(None, at(5))));
        assert!(!settles(row(Some("me"), at(5))), "read again by this worker, and not stored");
        assert!(settles(row(Some("other"), Position::TrimHorizon)));
        assert!(settles(row(None, at(7))));
    }
}
