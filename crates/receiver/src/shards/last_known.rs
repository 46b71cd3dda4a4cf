//! What this process last knew of each row of the lease table, so that a row that vanishes keeps its position.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{Lease, Position, ShardId, StreamIdentity};
use shard_worker::Shard;

use crate::shards::descendants::with_descendant_in;

/// Whether reading the shard has begun, by the rule that decides when the rows of its parents can be deleted.
pub(crate) fn has_begun(lease: &Lease) -> bool {
    lease.checkpoint > Position::TrimHorizon
}

/// The last known row of each shard, as this process saw it in a listing or held it.
///
/// A known row that is not listed has *vanished*, unless a descendant of its shard has begun: then the shard was read to its
/// end and its row deleted.
#[derive(Debug, Default)]
pub(crate) struct LastKnownLeases {
    rows: BTreeMap<ShardId, Lease>,
}

impl LastKnownLeases {
    /// Records a listing. An eventually consistent one may show a row as it was before; a row that was created again keeps
    /// the known position here.
    pub(crate) fn observe(&mut self, leases: &[Lease], is_strong: bool) {
        for lease in leases {
            match self.rows.get_mut(&lease.shard_id) {
                Some(known) if known.counter > lease.counter && !is_strong => {}
                Some(known) if is_set_back(known, lease) => {}
                Some(known) if known == lease => {}
                Some(known) => lease.clone_into(known),
                None => drop(self.rows.insert(lease.shard_id.clone(), lease.clone())),
            }
        }
        if self.rows.len() > leases.len() {
            self.forget_ended(leases);
        }
    }

    /// Records a row that this worker held.
    pub(crate) fn record(&mut self, lease: Lease) {
        if self.rows.get(&lease.shard_id).is_none_or(|known| known.counter <= lease.counter) {
            self.rows.insert(lease.shard_id.clone(), lease);
        }
    }

    /// Forgets a shard that was read to its end.
    pub(crate) fn forget(&mut self, shard_id: &ShardId) {
        self.rows.remove(shard_id);
    }

    /// Forgets the shards that the stream does not list: there is nothing left to read.
    pub(crate) fn keep_listed(&mut self, shards: &[Shard], leases: &[Lease]) {
        let listed = shards.iter().map(|shard| &shard.shard_id);
        let known: BTreeSet<&ShardId> = listed.chain(leases.iter().map(|lease| &lease.shard_id)).collect();
        self.rows.retain(|shard_id, _| known.contains(shard_id));
    }

    /// The last known row of a shard.
    pub(crate) fn get(&self, shard_id: &ShardId) -> Option<&Lease> {
        self.rows.get(shard_id)
    }

    /// All known rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Lease> {
        self.rows.values()
    }

    /// The rows that are missing among `leases`, apart from those in `present`.
    pub(crate) fn vanished(&self, leases: &[Lease], present: &BTreeSet<ShardId>) -> Vec<&Lease> {
        let listed: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).chain(present).collect();
        self.rows.values().filter(|known| !listed.contains(&known.shard_id)).collect()
    }

    /// The listed rows that were deleted and created again before their known position, each with its known row.
    pub(crate) fn set_back<'a>(&'a self, leases: &'a [Lease]) -> Vec<(&'a Lease, &'a Lease)> {
        let known = leases.iter().filter_map(|lease| Some((lease, self.rows.get(&lease.shard_id)?)));
        known.filter(|(lease, known)| is_set_back(known, lease)).collect()
    }

    fn forget_ended(&mut self, leases: &[Lease]) {
        let listed: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).collect();
        let all = || self.rows.values().chain(leases);
        let begun = all().filter(|lease| has_begun(lease)).map(|lease| &lease.shard_id);
        let ancestors_of_begun = with_descendant_in(begun, &[], all());
        let is_ended =
            |shard_id: &&ShardId| !listed.contains(*shard_id) && ancestors_of_begun.contains(*shard_id);
        let ended: Vec<ShardId> = self.rows.keys().filter(is_ended).cloned().collect();
        for shard_id in ended {
            self.rows.remove(&shard_id);
        }
    }
}

/// Whether a row was deleted and created again before its known position. The counter of a row never decreases otherwise, and
/// a take of the new row raises it above the known one. An edit by hand does not change it. A holder that reads from a known
/// position that is only a little older is left alone: fencing it would repeat more records than it does.
fn is_set_back(known: &Lease, row: &Lease) -> bool {
    let is_initial = |lease: &Lease| !matches!(lease.checkpoint, Position::After(_) | Position::ShardEnd);
    if is_initial(known) || row.checkpoint >= known.checkpoint {
        return false;
    }
    row.counter != known.counter && (is_initial(row) || row.counter > known.counter && row.owner.is_none())
}

/// The row to create for a vanished one: unowned, at its last known position.
pub(crate) fn restored(known: &Lease, identity: &StreamIdentity, counter: u64) -> Lease {
    Lease {
        owner: None,
        counter,
        checkpoint_owner: None,
        requested_by: None,
        offered_by: None,
        owner_process: None,
        stream: Some(identity.clone()),
        ..known.clone()
    }
}

#[cfg(test)]
mod tests {
    use lease_store::WorkerId;

    use super::*;

    fn id(number: u64) -> ShardId {
        ShardId::numbered(number)
    }

    fn lease(number: u64, counter: u64, checkpoint: Position, parents: &[u64]) -> Lease {
        let parents = parents.iter().copied().map(id).collect();
        Lease { counter, parents, ..Lease::unowned(id(number), checkpoint) }
    }

    fn at(number: u128) -> Position {
        Position::after(number.into(), 0)
    }

    fn vanished(known: &LastKnownLeases, leases: &[Lease]) -> Vec<(ShardId, Position)> {
        let vanished = known.vanished(leases, &BTreeSet::new()).into_iter();
        vanished.map(|lease| (lease.shard_id.clone(), lease.checkpoint.clone())).collect()
    }

    #[test]
    fn vanished_row_keeps_its_newest_position() {
        let mut known = LastKnownLeases::default();
        known.observe(&[lease(0, 5, at(5), &[]), lease(1, 1, at(1), &[])], true);
        known.observe(&[lease(0, 4, at(4), &[]), lease(1, 2, at(2), &[])], false);
        known.record(lease(1, 9, at(9), &[]));
        known.record(lease(1, 8, at(8), &[]));
        assert_eq!(vanished(&known, &[]), [(id(0), at(5)), (id(1), at(9))]);
        known.observe(&[], true);
        assert_eq!(vanished(&known, &[]).len(), 2, "also when a whole table vanishes");
        known.observe(&[lease(0, 4, at(4), &[])], true);
        assert_eq!(known.get(&id(0)).map(|row| row.counter), Some(4), "a strong listing is right");
    }

    #[test]
    fn row_of_an_ended_shard_has_not_vanished() {
        let mut known = LastKnownLeases::default();
        // 0 and 1 merged into 2. The scans of this process missed that 0 has ended.
        let parents = [lease(0, 5, at(5), &[]), lease(1, 5, Position::ShardEnd, &[])];
        known.observe(&parents, true);
        known.observe(&[lease(2, 1, Position::TrimHorizon, &[0, 1])], true);
        assert_eq!(vanished(&known, &[lease(2, 1, at(6), &[0, 1])]).len(), 2, "2 has not begun");
        known.observe(&[lease(2, 2, at(6), &[0, 1])], true);
        assert_eq!(vanished(&known, &[lease(2, 2, at(6), &[0, 1])]), []);
        known.observe(&[], true);
        assert_eq!(vanished(&known, &[]), [(id(2), at(6))]);
    }

    #[test]
    fn row_created_again_before_its_position_is_set_back() {
        let mut known = LastKnownLeases::default();
        known.observe(&[lease(0, 5, at(5), &[]), lease(1, 5, Position::TrimHorizon, &[])], true);
        let rows = [lease(0, 0, Position::TrimHorizon, &[]), lease(1, 0, Position::TrimHorizon, &[])];
        known.observe(&rows, true);
        let set_back = known.set_back(&rows);
        let positions: Vec<_> =
            set_back.iter().map(|(row, known)| (&row.shard_id, &known.checkpoint)).collect();
        assert_eq!(positions, [(&id(0), &at(5))]);
        let taken = [lease(0, 7, Position::TrimHorizon, &[])];
        known.observe(&taken, true);
        assert_eq!(known.set_back(&taken).len(), 1, "another worker took the new row");
        let restored = [lease(0, 9, at(2), &[])];
        assert_eq!(known.set_back(&restored).len(), 1, "another worker knew less");
        let read_on = [Lease { owner: WorkerId::new("other").ok(), ..restored[0].clone() }];
        assert_eq!(known.set_back(&read_on).len(), 0, "and its holder reads on");
        let rewound_by_hand = [lease(0, 5, Position::TrimHorizon, &[])];
        known.observe(&rewound_by_hand, true);
        assert!(known.set_back(&rewound_by_hand).is_empty());
        assert_eq!(known.get(&id(0)).map(|row| &row.checkpoint), Some(&Position::TrimHorizon));
    }
}
