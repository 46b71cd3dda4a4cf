//! What this process last knew of each row of the lease table, so that a row that vanishes keeps its position.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{Lease, Position, ShardId, StreamIdentity};
use shard_worker::Shard;
use tokio::time::Instant;

use crate::shards::descendants::{least_below, with_descendant_in};

/// Whether reading the shard has begun, by the rule that decides when the rows of its parents can be deleted.
pub(crate) fn has_begun(lease: &Lease) -> bool {
    lease.checkpoint > Position::TrimHorizon
}

/// Whether records of the shard are done.
fn has_progress(lease: &Lease) -> bool {
    matches!(lease.checkpoint, Position::After(_) | Position::ShardEnd)
}

/// A known row. Observations are numbered by the listings.
#[derive(Debug)]
struct Known {
    lease: Lease,
    /// The observation in which the row appeared.
    since: u64,
    /// The first observation in which an owner had read records of the shard; `None` if there was none. An owner reads
    /// a shard after its parents only. A position alone proves nothing: it may come from the settings.
    read_since: Option<u64>,
    /// When the row was listed or written last. Later writes of others are unknown.
    seen_at: Instant,
}

/// The last known row of each shard, as this process saw it in a listing or held it.
///
/// A known row that is not listed has *vanished*, unless a descendant of its shard has begun: then the shard was read to its
/// end and its row deleted.
#[derive(Debug, Default)]
pub(crate) struct LastKnownLeases {
    rows: BTreeMap<ShardId, Known>,
    observations: u64,
}

impl LastKnownLeases {
    /// Records a listing that was requested at this time. An eventually consistent one may show a row as it was before; a
    /// row that was created again keeps the known position here.
    pub(crate) fn observe(&mut self, leases: &[Lease], is_strong: bool, requested_at: Instant) {
        self.observations += 1;
        for lease in leases {
            if let Some(known) = self.rows.get_mut(&lease.shard_id) {
                known.seen_at = known.seen_at.max(requested_at);
            }
            match self.rows.get(&lease.shard_id).map(|known| &known.lease) {
                Some(known) if known.counter > lease.counter && !is_strong => {}
                Some(known) if is_set_back(known, lease) => {}
                Some(known) if known == lease => {}
                _ => self.set(lease.clone(), lease.owner.is_some(), requested_at),
            }
        }
        if self.rows.len() > leases.len() {
            self.forget_ended(leases, &[]);
        }
    }

    /// Records a row that this worker held and wrote last at this time.
    pub(crate) fn record(&mut self, lease: Lease, written_at: Instant) {
        if self.get(&lease.shard_id).is_none_or(|known| known.counter <= lease.counter) {
            self.set(lease, true, written_at);
        }
    }

    fn set(&mut self, lease: Lease, is_owned: bool, seen_at: Instant) {
        let now = self.observations;
        let before = self.rows.get(&lease.shard_id);
        let since = before.map_or(now, |known| known.since);
        let read_since = before.and_then(|known| known.read_since).or(is_owned.then_some(now));
        let read_since = read_since.filter(|_| has_progress(&lease));
        let seen_at = before.map_or(seen_at, |known| known.seen_at.max(seen_at));
        self.rows.insert(lease.shard_id.clone(), Known { lease, since, read_since, seen_at });
    }

    /// The listed rows of shards that were read to their ends before: a worker that did not know them created their rows
    /// again. An owner had read a descendant before the row appeared.
    pub(crate) fn read_again<'a>(&self, leases: &'a [Lease], shards: &[Shard]) -> Vec<&'a Lease> {
        let appeared = self.appeared(leases);
        if appeared.is_empty() {
            return appeared;
        }
        let read = self.rows.iter().filter_map(|(shard_id, known)| Some((known.read_since?, shard_id)));
        let read_below = least_below(read, shards, self.rows());
        let is_read = |lease: &&Lease| {
            let since = self.rows.get(&lease.shard_id).map(|known| known.since);
            read_below
                .get(&lease.shard_id)
                .copied()
                .is_some_and(|read| since.is_some_and(|since| read < since))
        };
        appeared.into_iter().filter(is_read).collect()
    }

    /// Whether the newest listing has a new row whose place in the history of the stream is unknown: neither a parent of it
    /// has a known row, nor do these shards contain it.
    pub(crate) fn has_appeared_unplaced(&self, leases: &[Lease], shards: &[Shard]) -> bool {
        let is_placed = |lease: &Lease| {
            let known = self.rows.get(&lease.shard_id);
            known.is_some_and(|known| known.since < self.observations)
                || lease.parents.iter().any(|parent| self.rows.contains_key(parent))
                || shards.iter().any(|shard| shard.shard_id == lease.shard_id)
        };
        !self.appeared(leases).into_iter().all(is_placed)
    }

    /// The unfinished rows that appeared after an owner had read another shard, apart from those that a reset created.
    fn appeared<'a>(&self, leases: &'a [Lease]) -> Vec<&'a Lease> {
        let Some(first_read) = self.rows.values().filter_map(|known| known.read_since).min() else {
            return Vec::new();
        };
        let has_appeared = |lease: &&Lease| {
            let known = self.rows.get(&lease.shard_id);
            let is_wanted = lease.reset_id.is_some();
            !lease.is_finished() && !is_wanted && known.is_some_and(|known| known.since > first_read)
        };
        leases.iter().filter(has_appeared).collect()
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
        self.rows.get(shard_id).map(|known| &known.lease)
    }

    /// When the row of a shard was listed or written last.
    pub(crate) fn seen_at(&self, shard_id: &ShardId) -> Option<Instant> {
        self.rows.get(shard_id).map(|known| known.seen_at)
    }

    /// All known rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Lease> {
        self.rows.values().map(|known| &known.lease)
    }

    /// The rows that are missing among `leases`, apart from those in `present`.
    pub(crate) fn vanished(&self, leases: &[Lease], present: &BTreeSet<ShardId>) -> Vec<&Lease> {
        let listed: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).chain(present).collect();
        self.rows().filter(|known| !listed.contains(&known.shard_id)).collect()
    }

    /// The listed rows that were deleted and created again before their known position, each with its known row.
    pub(crate) fn set_back<'a>(&'a self, leases: &'a [Lease]) -> Vec<(&'a Lease, &'a Lease)> {
        let known = leases.iter().filter_map(|lease| Some((lease, self.get(&lease.shard_id)?)));
        known.filter(|(lease, known)| is_set_back(known, lease)).collect()
    }

    /// Forgets the known rows that are not listed and whose shards were read to their ends: a descendant has begun. Only the
    /// stream knows the generations between them whose rows came and went between two listings.
    pub(crate) fn forget_ended(&mut self, leases: &[Lease], shards: &[Shard]) {
        let listed: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).collect();
        let all = || self.rows().chain(leases);
        let begun = all().filter(|lease| has_begun(lease)).map(|lease| &lease.shard_id);
        let ancestors_of_begun = with_descendant_in(begun, shards, all());
        let is_ended =
            |shard_id: &&ShardId| !listed.contains(*shard_id) && ancestors_of_begun.contains(*shard_id);
        let ended: Vec<ShardId> = self.rows.keys().filter(is_ended).cloned().collect();
        for shard_id in ended {
            self.rows.remove(&shard_id);
        }
    }
}

/// Whether a row was deleted and created again before its known position. A row with the known number is still the same one:
/// an operator changed its position, as one did who left the number of another reset. Without a number the counter tells: it never decreases otherwise, and a take of the new
/// row raises it above the known one. A holder that reads from a known
/// position that is only a little older is left alone: fencing it would repeat more records than it does.
fn is_set_back(known: &Lease, row: &Lease) -> bool {
    let is_initial = |lease: &Lease| !matches!(lease.checkpoint, Position::After(_) | Position::ShardEnd);
    let is_same_row = known.row_id.is_some() && known.row_id == row.row_id;
    let is_reset = row.reset_id.is_some() && row.reset_id != known.reset_id;
    if is_same_row || is_reset || is_initial(known) || row.checkpoint >= known.checkpoint {
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
        owner_request_text: None,
        row_id: None,
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
        known.observe(&[lease(0, 5, at(5), &[]), lease(1, 1, at(1), &[])], true, Instant::now());
        known.observe(&[lease(0, 4, at(4), &[]), lease(1, 2, at(2), &[])], false, Instant::now());
        known.record(lease(1, 9, at(9), &[]), Instant::now());
        known.record(lease(1, 8, at(8), &[]), Instant::now());
        assert_eq!(vanished(&known, &[]), [(id(0), at(5)), (id(1), at(9))]);
        known.observe(&[], true, Instant::now());
        assert_eq!(vanished(&known, &[]).len(), 2, "also when a whole table vanishes");
        known.observe(&[lease(0, 4, at(4), &[])], true, Instant::now());
        assert_eq!(known.get(&id(0)).map(|row| row.counter), Some(4), "a strong listing is right");
    }

    #[test]
    fn row_of_an_ended_shard_has_not_vanished() {
        let mut known = LastKnownLeases::default();
        // 0 and 1 merged into 2. The scans of this process missed that 0 has ended.
        let parents = [lease(0, 5, at(5), &[]), lease(1, 5, Position::ShardEnd, &[])];
        known.observe(&parents, true, Instant::now());
        known.observe(&[lease(2, 1, Position::TrimHorizon, &[0, 1])], true, Instant::now());
        assert_eq!(vanished(&known, &[lease(2, 1, at(6), &[0, 1])]).len(), 2, "2 has not begun");
        known.observe(&[lease(2, 2, at(6), &[0, 1])], true, Instant::now());
        assert_eq!(vanished(&known, &[lease(2, 2, at(6), &[0, 1])]), []);
        known.observe(&[], true, Instant::now());
        assert_eq!(vanished(&known, &[]), [(id(2), at(6))]);
    }

    #[test]
    fn row_ended_generations_ago_has_not_vanished() {
        let mut known = LastKnownLeases::default();
        known.observe(&[lease(0, 5, at(5), &[])], true, Instant::now());
        // 0 split into 1 and 2, which merged into 3. The rows of 1 and 2 came and went between two listings.
        let rows = [lease(3, 2, at(9), &[1, 2])];
        known.observe(&rows, true, Instant::now());
        assert_eq!(
            vanished(&known, &rows),
            [(id(0), at(5))],
            "the table does not tell who the parents of 1 are"
        );
        let shard = |number, parents: &[u64]| {
            Shard::new(id(number), true).with_parents(parents.iter().copied().map(id).collect())
        };
        let shards = [shard(0, &[]), shard(1, &[0]), shard(2, &[0]), shard(3, &[1, 2])];
        known.forget_ended(&rows, &shards[..1]);
        assert_eq!(vanished(&known, &rows).len(), 1, "nor do these shards");
        known.forget_ended(&rows, &shards);
        assert_eq!(vanished(&known, &rows), []);
    }

    #[test]
    fn row_created_again_before_its_position_is_set_back() {
        let mut known = LastKnownLeases::default();
        known.observe(
            &[lease(0, 5, at(5), &[]), lease(1, 5, Position::TrimHorizon, &[])],
            true,
            Instant::now(),
        );
        let rows = [lease(0, 0, Position::TrimHorizon, &[]), lease(1, 0, Position::TrimHorizon, &[])];
        known.observe(&rows, true, Instant::now());
        let set_back = known.set_back(&rows);
        let positions: Vec<_> =
            set_back.iter().map(|(row, known)| (&row.shard_id, &known.checkpoint)).collect();
        assert_eq!(positions, [(&id(0), &at(5))]);
        let taken = [lease(0, 7, Position::TrimHorizon, &[])];
        known.observe(&taken, true, Instant::now());
        assert_eq!(known.set_back(&taken).len(), 1, "another worker took the new row");
        let restored = [lease(0, 9, at(2), &[])];
        assert_eq!(known.set_back(&restored).len(), 1, "another worker knew less");
        let read_on = [Lease { owner: WorkerId::new("other").ok(), ..restored[0].clone() }];
        assert_eq!(known.set_back(&read_on).len(), 0, "and its holder reads on");
        let rewound_by_hand = [lease(0, 5, Position::TrimHorizon, &[])];
        known.observe(&rewound_by_hand, true, Instant::now());
        assert!(known.set_back(&rewound_by_hand).is_empty());
        assert_eq!(known.get(&id(0)).map(|row| &row.checkpoint), Some(&Position::TrimHorizon));
    }

    fn owned(number: u64, counter: u64, checkpoint: Position, parents: &[u64]) -> Lease {
        Lease { owner: WorkerId::new("other").ok(), ..lease(number, counter, checkpoint, parents) }
    }

    fn read_again(known: &LastKnownLeases, leases: &[Lease], shards: &[Shard]) -> Vec<ShardId> {
        known.read_again(leases, shards).into_iter().map(|lease| lease.shard_id.clone()).collect()
    }

    #[test]
    fn row_of_an_ended_shard_that_appears_again_is_found() {
        // 0 split into 1 and 2, and 1 into 3 and 4.
        let history = [(0, vec![]), (1, vec![0]), (2, vec![0]), (3, vec![1]), (4, vec![1])];
        let shards = history.map(|(number, parents)| {
            Shard::new(id(number), true).with_parents(parents.into_iter().map(id).collect())
        });
        let mut known = LastKnownLeases::default();
        let open = [owned(2, 5, at(9), &[0]), owned(3, 5, at(8), &[1]), lease(4, 0, START, &[1])];
        known.observe(&open, true, Instant::now());
        assert_eq!(read_again(&known, &open, &shards), []);
        // A worker that found an empty table created the row of the oldest shard.
        let created = [lease(0, 0, START, &[])];
        known.observe(&created, true, Instant::now());
        assert_eq!(read_again(&known, &created, &shards), [id(0)]);
        assert_eq!(read_again(&known, &created, &[]), [id(0)], "by the row of 2 alone");
        assert!(
            !known.has_appeared_unplaced(&created, &shards) && known.has_appeared_unplaced(&created, &[])
        );
        let taken = [owned(0, 9, at(3), &[])];
        known.observe(&taken, true, Instant::now());
        assert_eq!(read_again(&known, &taken, &shards), [id(0)], "also while it is read");
        let middle = [open[0].clone(), open[1].clone(), owned(1, 0, START, &[0])];
        known.observe(&middle, true, Instant::now());
        assert_eq!(read_again(&known, &middle, &shards), [id(1)]);
        let children = [open[1].clone(), lease(5, 0, START, &[3])];
        known.observe(&children, true, Instant::now());
        assert_eq!(read_again(&known, &children, &shards), [], "a new child has no descendant");
    }

    const START: Position = Position::TrimHorizon;

    #[test]
    fn row_edited_by_hand_is_not_set_back() {
        let mut known = LastKnownLeases::default();
        let read = Lease { row_id: Some(7), ..lease(0, 5, at(5), &[]) };
        known.observe(std::slice::from_ref(&read), true, Instant::now());
        // Readers took the edited row before this process saw it.
        let edited = [Lease { checkpoint: START, counter: 900, ..read.clone() }];
        known.observe(&edited, true, Instant::now());
        assert!(known.set_back(&edited).is_empty());
        assert_eq!(known.get(&id(0)).map(|row| &row.checkpoint), Some(&START));
        for row_id in [None, Some(8)] {
            let mut known = LastKnownLeases::default();
            known.observe(std::slice::from_ref(&read), true, Instant::now());
            let created_again = [Lease { row_id, ..edited[0].clone() }];
            known.observe(&created_again, true, Instant::now());
            assert_eq!(known.set_back(&created_again).len(), 1, "{row_id:?}");
        }
    }

    #[test]
    fn rows_of_a_reset_are_neither_set_back_nor_read_again() {
        let mut known = LastKnownLeases::default();
        let of_kcl = lease(2, 5, at(5), &[1]);
        known.observe(&[Lease { owner: WorkerId::new("java").ok(), ..of_kcl }], true, Instant::now());
        let reset = |lease: Lease| Lease { reset_id: Some(7), ..lease };
        let rows = [reset(lease(1, 0, START, &[])), reset(lease(2, 6, START, &[1]))];
        known.observe(&rows[..1], true, Instant::now());
        assert_eq!(read_again(&known, &rows[..1], &[]), [], "the parent's row was created for the reset");
        known.observe(&rows, true, Instant::now());
        assert!(known.set_back(&rows).is_empty());
        assert_eq!(known.get(&id(2)).map(|row| &row.checkpoint), Some(&START));
    }

    #[test]
    fn rows_that_were_known_or_never_read_below_are_no_repetition() {
        let mut known = LastKnownLeases::default();
        // An operator created the row of the parent while no worker ran.
        let rows = [lease(0, 0, START, &[]), owned(1, 5, at(9), &[0]), lease(2, 0, START, &[0])];
        known.observe(&rows, true, Instant::now());
        known.observe(&rows, true, Instant::now());
        assert_eq!(read_again(&known, &rows, &[]), []);
        let mut known = LastKnownLeases::default();
        // The position of 1 comes from the settings: its parent has to be read first.
        let named = [lease(1, 0, at(9), &[0])];
        known.observe(&named, true, Instant::now());
        let rows = [lease(0, 0, START, &[]), named[0].clone()];
        known.observe(&rows, true, Instant::now());
        assert_eq!(read_again(&known, &rows, &[]), []);
        let mut known = LastKnownLeases::default();
        known.observe(&[owned(1, 5, at(9), &[0])], true, Instant::now());
        // An operator set 1 back to its beginning and created the row of its parent.
        let rewound = [lease(0, 0, START, &[]), lease(1, 5, START, &[0])];
        known.observe(&rewound, true, Instant::now());
        assert_eq!(read_again(&known, &rewound, &[]), []);
    }
}
