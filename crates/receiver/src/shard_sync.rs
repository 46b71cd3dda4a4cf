//! Which shards need a lease: a pure plan over what the stream lists and what the table holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lease_store::{Lease, Position, ShardId};
use shard_worker::Shard;

use crate::initial_position::{ShardPositions, start_of_child};
use crate::lineage::{any_descendant, children};
use crate::{InitialPosition, ShardPosition};

/// Decides which leases to create, parents before children. The rules are those of the KCL
/// (`HierarchicalShardSyncer`), for an empty and for a filled table alike:
///
/// - An open shard without a lease and without a leased ancestor starts at the initial position: its oldest ancestors that
///   are listed get the leases, and the descendants follow when those end. With a `LATEST` that is no instant it is the
///   shard itself.
/// - A shard with a leased ancestor is reached through that ancestor's end. When a merge joins a leased and an unleased
///   line, the unleased side gets leases of its own.
/// - Beyond the KCL: where the instant is known that `LATEST` stands for, it is a time like any other. A shard that has
///   closed since then may hold records from after it, so a line without leases starts at its oldest shard too, or at the
///   oldest that was open then.
/// - Beyond the KCL: a shard whose leased parents have all ended but which has no lease itself (it was deleted, or the
///   worker that ended the parent crashed) gets one, so that no hole stays.
///
/// `position_of_child` of the initial position is what a shard behind an ended parent starts at. `start_time` is what
/// `LATEST` or `AT_TIMESTAMP` stands for, where that is known.
///
/// `named` are shards with positions of their own. One that is listed gets a lease there, open or closed, unless it or a
/// descendant of it has one: then its line has come further. For the others nothing changes, except for what such a position
/// says of them:
///
/// - A shard that is done up to a *record* is done with whatever it came from. Ancestors of it without a lease count as read
///   to their ends; where they have other children, those start at their beginning, and the ancestor's lease is created as
///   ended, so that nobody has to ask again.
/// - An ancestor that lies behind another named or leased shard is not done: that one leads to it. It gets a lease, so that
///   the descendant waits for it.
/// - A named shard that the stream no longer lists, done up to a record, counts as read to its end: its children start at
///   their beginning, never at `LATEST`.
/// - With `TRIM_HORIZON`, `LATEST` or `AT_TIMESTAMP` the ancestors are what they would be without: if they start
///   earlier, the named shard waits for their end, and so does what lies in between.
pub fn plan_new_leases(
    shards: &[Shard],
    leases: &[Lease],
    initial_position: &InitialPosition,
    start_time: Option<&StartTime>,
    named: &BTreeMap<ShardId, ShardPosition>,
) -> Vec<Lease> {
    let mut sync = ShardSync {
        shards: shards.iter().map(|shard| (&shard.shard_id, shard)).collect(),
        leases: leases.iter().map(|lease| (&lease.shard_id, lease)).collect(),
        children: children(shards, leases),
        initial_position,
        start_time,
        named,
        active: BTreeMap::new(),
        done: BTreeSet::new(),
        visited: HashMap::new(),
        planned: BTreeMap::new(),
    };
    sync.plan_named();
    for shard in shards.iter().filter(|shard| !shard.is_closed) {
        if !sync.visit(shard).is_descendant {
            sync.plan_start(shard);
        }
    }
    sync.plan_holes(shards);
    sync.plan_ways_to_named();
    let mut new_leases: Vec<Lease> = sync.planned.into_values().collect();
    // A parent's lease must stand before its child's: a child whose parent has no lease may start at once.
    let ids: Vec<ShardId> = new_leases.iter().map(|lease| lease.shard_id.clone()).collect();
    new_leases.sort_by_key(|lease| lease.parents.iter().filter(|parent| ids.contains(parent)).count());
    new_leases
}

/// The time that `LATEST` or `AT_TIMESTAMP` stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartTime {
    /// In milliseconds since 1970.
    pub millis_since_1970: u64,
    /// The shards that were open at that time or came later, where they are known. What closed before has nothing to read,
    /// and no line starts there.
    pub open_since: Option<BTreeSet<ShardId>>,
}

impl StartTime {
    /// In milliseconds since 1970. Every shard may have been open then.
    pub fn at_millis(millis_since_1970: u64) -> Self {
        Self { millis_since_1970, open_since: None }
    }
}

/// A new, unowned lease for a shard.
pub(crate) fn new_lease(shard: &Shard, checkpoint: Position) -> Lease {
    let mut lease = Lease::unowned(shard.shard_id.clone(), checkpoint);
    lease.parents.clone_from(&shard.parents);
    lease.hash_key_range = shard.hash_key_range;
    lease
}

/// What the way up from a shard found.
#[derive(Debug, Clone, Copy)]
struct Ancestry {
    /// The shard has a lease, or is reached through an ancestor that has or gets one.
    is_descendant: bool,
    /// The shard is the oldest of a line without leases, and such a line starts at its oldest shard.
    is_oldest_of_line: bool,
}

impl Ancestry {
    const DESCENDANT: Self = Self { is_descendant: true, is_oldest_of_line: false };
}

struct ShardSync<'a> {
    shards: HashMap<&'a ShardId, &'a Shard>,
    leases: HashMap<&'a ShardId, &'a Lease>,
    children: HashMap<&'a ShardId, BTreeSet<&'a ShardId>>,
    initial_position: &'a InitialPosition,
    start_time: Option<&'a StartTime>,
    named: &'a ShardPositions,
    /// The named shards that get a lease.
    active: BTreeMap<&'a ShardId, &'a ShardPosition>,
    /// Shards without a lease that are read to their ends, since a named descendant is done up to a record.
    done: BTreeSet<&'a ShardId>,
    visited: HashMap<&'a ShardId, Ancestry>,
    planned: BTreeMap<&'a ShardId, Lease>,
}

impl<'a> ShardSync<'a> {
    /// Plans the leases of the named shards, and what they say of their ancestors.
    fn plan_named(&mut self) {
        let named = self.named.iter();
        let active = named.filter(|(shard_id, _)| {
            self.shards.contains_key(shard_id)
                && !self.leases.contains_key(shard_id)
                && !self.has_leased_descendant(shard_id)
        });
        self.active = active.collect();
        let mut ancestors = BTreeSet::new();
        for shard_id in self.active.keys().filter(|shard_id| self.is_done_up_to_a_record(shard_id)) {
            self.add_ancestors(shard_id, &mut ancestors);
        }
        let (behind_others, done): (BTreeSet<_>, BTreeSet<_>) = ancestors
            .into_iter()
            .filter(|shard_id| !self.active.contains_key(shard_id) && !self.leases.contains_key(shard_id))
            .partition(|shard_id| self.is_behind_named_or_leased(shard_id));
        self.done = done;
        for shard_id in behind_others {
            if let Some(shard) = self.shards.get(shard_id).copied() {
                self.plan_child(shard, None);
            }
        }
        for shard_id in self.done.clone() {
            let Some(shard) = self.shards.get(shard_id).copied().filter(|_| self.leads_elsewhere(shard_id))
            else {
                continue;
            };
            let mut ended = new_lease(shard, Position::ShardEnd);
            ended.children = self.children_of(shard_id).cloned().collect();
            self.planned.insert(shard_id, ended);
        }
        let active: Vec<(&'a Shard, &'a ShardPosition)> = self
            .active
            .iter()
            .filter_map(|(shard_id, position)| Some((*self.shards.get(shard_id)?, *position)))
            .collect();
        for (shard, position) in &active {
            let mut lease = new_lease(shard, position.position());
            // What `LATEST` stands for is not known here.
            lease.initial_time_millis = position.millis(None);
            self.planned.insert(&shard.shard_id, lease);
        }
        for (shard, _) in active {
            if !self.is_done_up_to_a_record(&shard.shard_id) {
                self.look_above(shard);
            }
        }
    }

    /// What lies between a shard that has or gets a lease and a named descendant of it gets one too: a shard whose parent has
    /// no lease would not wait for it.
    fn plan_ways_to_named(&mut self) {
        let mut ancestors = BTreeSet::new();
        for shard_id in self.active.keys() {
            self.add_ancestors(shard_id, &mut ancestors);
        }
        let leads_on = |shard_id: &&ShardId| {
            let is_read = |lease: &Lease| !lease.is_finished();
            self.leases.contains_key(*shard_id) || self.planned.get(*shard_id).is_some_and(is_read)
        };
        let between: Vec<&'a Shard> = ancestors
            .iter()
            .filter(|shard_id| !leads_on(shard_id) && !self.done.contains(*shard_id))
            .filter(|shard_id| {
                let mut above = BTreeSet::new();
                self.add_ancestors(shard_id, &mut above);
                above.iter().any(leads_on)
            })
            .filter_map(|shard_id| self.shards.get(shard_id).copied())
            .collect();
        for shard in between {
            self.plan_child(shard, None);
        }
    }

    fn is_done_up_to_a_record(&self, shard_id: &ShardId) -> bool {
        matches!(self.named.get(shard_id), Some(ShardPosition::After { .. }))
    }

    /// Whether it is named, done up to a record, and gone from stream and table.
    fn is_named_and_gone(&self, shard_id: &ShardId) -> bool {
        self.is_done_up_to_a_record(shard_id)
            && !self.shards.contains_key(shard_id)
            && !self.leases.contains_key(shard_id)
    }

    fn children_of(&self, shard_id: &ShardId) -> impl Iterator<Item = &'a ShardId> + use<'a> {
        self.children.get(shard_id).cloned().unwrap_or_default().into_iter()
    }

    fn has_leased_descendant(&self, shard_id: &ShardId) -> bool {
        let is_leased = |descendant: &ShardId| self.leases.contains_key(descendant);
        any_descendant(&self.children, shard_id, is_leased)
    }

    /// Adds the ancestors that the stream lists.
    fn add_ancestors(&self, shard_id: &ShardId, found: &mut BTreeSet<&'a ShardId>) {
        let parents = self.shards.get(shard_id).map(|shard| &shard.parents);
        for parent in parents.into_iter().flatten() {
            if let Some(parent) = self.shards.get(parent).copied()
                && found.insert(&parent.shard_id)
            {
                self.add_ancestors(&parent.shard_id, found);
            }
        }
    }

    fn is_behind_named_or_leased(&self, shard_id: &ShardId) -> bool {
        let mut ancestors = BTreeSet::new();
        self.add_ancestors(shard_id, &mut ancestors);
        let leads_on =
            |ancestor: &&ShardId| self.active.contains_key(*ancestor) || self.leases.contains_key(*ancestor);
        ancestors.iter().any(leads_on)
    }

    /// Whether a shard that is done has a child which starts because of that.
    fn leads_elsewhere(&self, shard_id: &ShardId) -> bool {
        self.children_of(shard_id).any(|child| {
            !self.active.contains_key(child)
                && !self.leases.contains_key(child)
                && !self.done.contains(child)
                && !self.planned.contains_key(child)
                && !self.has_leased_descendant(child)
        })
    }

    /// Walks up from a shard. The depth is that of the reshard history which the stream still keeps.
    fn visit(&mut self, shard: &'a Shard) -> Ancestry {
        if let Some(known) = self.visited.get(&shard.shard_id) {
            return *known;
        }
        let ancestry = self.look_up(shard);
        self.visited.insert(&shard.shard_id, ancestry);
        ancestry
    }

    fn look_up(&mut self, shard: &'a Shard) -> Ancestry {
        let shard_id = &shard.shard_id;
        let is_settled = self.leases.contains_key(shard_id)
            || self.planned.contains_key(shard_id)
            || self.done.contains(shard_id);
        if is_settled { Ancestry::DESCENDANT } else { self.look_above(shard) }
    }

    fn look_above(&mut self, shard: &'a Shard) -> Ancestry {
        let mut lines = Vec::new();
        for parent_id in &shard.parents {
            if let Some(parent) = self.shards.get(parent_id).copied() {
                lines.push((Some(parent), self.visit(parent)));
            } else if self.leases.contains_key(parent_id) || self.is_named_and_gone(parent_id) {
                // Gone from the stream, but not from the table, or not from the positions of the application.
                lines.push((None, Ancestry::DESCENDANT));
            }
        }
        let is_followed = |ancestry: &Ancestry| ancestry.is_descendant || ancestry.is_oldest_of_line;
        if !lines.iter().any(|(_, ancestry)| is_followed(ancestry)) {
            let starts_at_oldest = match self.start_time {
                Some(start_time) => {
                    start_time.open_since.as_ref().is_none_or(|open| open.contains(&shard.shard_id))
                }
                None => *self.initial_position != InitialPosition::Latest,
            };
            return Ancestry { is_descendant: false, is_oldest_of_line: starts_at_oldest };
        }
        for (parent, ancestry) in lines {
            // A parent that is reached through its own ancestors gets its lease from them.
            if let (Some(parent), false) = (parent, ancestry.is_descendant) {
                self.plan_start(parent);
            }
        }
        Ancestry::DESCENDANT
    }

    /// Plans the lease of a shard that starts at the initial position.
    fn plan_start(&mut self, shard: &'a Shard) {
        let position = self.initial_position.position();
        let millis = self.start_millis().filter(|_| position != Position::TrimHorizon);
        self.plan(shard, position, millis);
    }

    fn start_millis(&self) -> Option<u64> {
        self.start_time.map(|start_time| start_time.millis_since_1970)
    }

    fn plan(&mut self, shard: &'a Shard, position: Position, millis: Option<u64>) {
        if !self.leases.contains_key(&shard.shard_id) {
            let planned = self.planned.entry(&shard.shard_id);
            planned.or_insert_with(|| Lease { initial_time_millis: millis, ..new_lease(shard, position) });
        }
    }

    /// Plans the lease of a shard whose parents are read to their ends.
    fn plan_child(&mut self, shard: &'a Shard, parent_millis: Option<u64>) {
        let (position, millis) =
            start_of_child(*self.initial_position, !self.named.is_empty(), parent_millis);
        let millis = millis.or_else(|| self.start_millis().filter(|_| position == Position::AtTimestamp));
        self.plan(shard, position, millis);
    }

    /// Shards whose line was read up to them, but which have no lease.
    fn plan_holes(&mut self, shards: &'a [Shard]) {
        for shard in shards {
            let rows: Vec<&Lease> = shard
                .parents
                .iter()
                .filter_map(|parent| {
                    let ended = || self.planned.get(parent).filter(|lease| lease.is_finished());
                    self.leases.get(parent).copied().or_else(ended)
                })
                .collect();
            // Those of which only the application knows.
            let has_gone_parents = shard.parents.iter().any(|parent| self.is_named_and_gone(parent));
            // The other side of a merge may be about to get its lease from its own parents.
            let is_awaited = |parent: &ShardId| {
                !self.leases.contains_key(parent)
                    && !self.planned.contains_key(parent)
                    && !self.done.contains(parent)
                    && self.shards.contains_key(parent)
            };
            if (has_gone_parents || !rows.is_empty())
                && !self.done.contains(&shard.shard_id)
                && rows.iter().all(|parent| parent.is_finished())
                && !shard.parents.iter().any(is_awaited)
                // Otherwise its line has come further: it was read, and its row is deleted, or it is done.
                && !self.has_leased_descendant(&shard.shard_id)
            {
                let kept: Option<Vec<u64>> = rows.iter().map(|parent| parent.initial_time_millis).collect();
                let kept = kept.filter(|_| !has_gone_parents).and_then(|kept| kept.into_iter().min());
                self.plan_child(shard, kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> ShardId {
        ShardId::new(format!("shardId-{number:012}")).unwrap()
    }

    fn shard(number: usize, parents: &[usize], is_closed: bool) -> Shard {
        let parents = parents.iter().copied().map(id).collect();
        Shard { shard_id: id(number), parents, hash_key_range: None, is_closed }
    }

    /// 0 and 1 merge into 6, 2 and 3 into 7, then 6 and 7 into 8; 5 splits into 9 and 10; 4 never changes.
    fn worked_example() -> Vec<Shard> {
        vec![
            shard(0, &[], true),
            shard(1, &[], true),
            shard(2, &[], true),
            shard(3, &[], true),
            shard(4, &[], false),
            shard(5, &[], true),
            shard(6, &[0, 1], true),
            shard(7, &[2, 3], true),
            shard(8, &[6, 7], false),
            shard(9, &[5], false),
            shard(10, &[5], false),
        ]
    }

    fn leases(numbers: &[usize], position: &Position) -> Vec<Lease> {
        let shards = worked_example();
        numbers.iter().map(|number| new_lease(&shards[*number], position.clone())).collect()
    }

    fn planned(shards: &[Shard], leases: &[Lease], initial: InitialPosition) -> BTreeSet<(usize, Position)> {
        planned_with(shards, leases, initial, &[])
    }

    fn planned_with(
        shards: &[Shard],
        leases: &[Lease],
        initial: InitialPosition,
        named: &[(usize, ShardPosition)],
    ) -> BTreeSet<(usize, Position)> {
        let named = named.iter().cloned().map(|(number, position)| (id(number), position)).collect();
        let new_leases = plan_new_leases(shards, leases, &initial, None, &named);
        new_leases.iter().map(|lease| (number_of(lease), lease.checkpoint.clone())).collect()
    }

    fn number_of(lease: &Lease) -> usize {
        lease.shard_id.as_str()["shardId-".len()..].parse().unwrap()
    }

    /// What is planned at `LATEST` as an instant, and the instants that the rows keep.
    fn planned_at(
        shards: &[Shard],
        leases: &[Lease],
        start_time: &StartTime,
    ) -> BTreeSet<(usize, Position, Option<u64>)> {
        let new_leases =
            plan_new_leases(shards, leases, &InitialPosition::Latest, Some(start_time), &BTreeMap::new());
        let row = |lease: &Lease| (number_of(lease), lease.checkpoint.clone(), lease.initial_time_millis);
        new_leases.iter().map(row).collect()
    }

    fn after(number: u128) -> ShardPosition {
        ShardPosition::After { sequence_number: number.into(), sub_sequence_number: 0 }
    }

    const AT_TIMESTAMP: InitialPosition = InitialPosition::AtTimestamp(SystemTime::UNIX_EPOCH);

    #[test]
    fn the_worked_example_of_the_kcl() {
        let (shards, leases) = (worked_example(), leases(&[4, 5, 7], &Position::TrimHorizon));
        let plan = |initial| planned(&shards, &leases, initial);
        assert_eq!(plan(InitialPosition::Latest), BTreeSet::from([(6, Position::Latest)]));
        let from_trim_horizon = BTreeSet::from([(0, Position::TrimHorizon), (1, Position::TrimHorizon)]);
        assert_eq!(plan(InitialPosition::TrimHorizon), from_trim_horizon);
        let at_timestamp = BTreeSet::from([(0, Position::AtTimestamp), (1, Position::AtTimestamp)]);
        assert_eq!(plan(AT_TIMESTAMP), at_timestamp);
    }

    #[test]
    fn an_empty_table_starts_at_the_oldest_or_at_the_open_shards() {
        let shards = worked_example();
        let oldest = planned(&shards, &[], InitialPosition::TrimHorizon);
        assert_eq!(oldest, (0..=5).map(|number| (number, Position::TrimHorizon)).collect());
        let open = planned(&shards, &[], InitialPosition::Latest);
        assert_eq!(open, [4, 8, 9, 10].map(|number| (number, Position::Latest)).into());
    }

    #[test]
    fn a_complete_table_needs_nothing() {
        let shards = worked_example();
        for initial in [InitialPosition::TrimHorizon, InitialPosition::Latest, AT_TIMESTAMP] {
            assert!(planned(&shards, &leases(&[4, 8, 9, 10], &Position::TrimHorizon), initial).is_empty());
        }
    }

    #[test]
    fn a_child_behind_an_ended_parent_gets_its_lease_even_at_latest() {
        let shards = worked_example();
        let mut leases = leases(&[4, 5, 8], &Position::Latest);
        leases[1].checkpoint = Position::ShardEnd;
        let plan = planned(&shards, &leases, InitialPosition::Latest);
        assert_eq!(plan, BTreeSet::from([(9, Position::TrimHorizon), (10, Position::TrimHorizon)]));
    }

    #[test]
    fn at_an_instant_a_line_without_leases_starts_at_its_oldest_shard() {
        // The rows of 5, 9 and 10 were deleted, and 5 may hold records from after the instant.
        let with_leases = leases(&[4, 8], &Position::Latest);
        let oldest = BTreeSet::from([(5, Position::Latest, Some(7))]);
        assert_eq!(planned_at(&worked_example(), &with_leases, &StartTime::at_millis(7)), oldest);
        // Nothing has a lease, and those are listed that were open at the instant or came later.
        let shards =
            [shard(4, &[], false), shard(5, &[3], true), shard(9, &[5], false), shard(10, &[5], false)];
        let at = |number| (number, Position::Latest, Some(7));
        assert_eq!(planned_at(&shards, &[], &StartTime::at_millis(7)), BTreeSet::from([at(4), at(5)]));
    }

    #[test]
    fn at_an_instant_no_line_starts_at_a_shard_that_closed_before() {
        // 0 and 1 merged into 2, which split into 3 and 4 before the instant; 4 was read up to its children.
        let shards = [
            shard(0, &[], true),
            shard(1, &[], true),
            shard(2, &[0, 1], true),
            shard(3, &[2], true),
            shard(4, &[2], true),
            shard(5, &[3], false),
            shard(6, &[4], false),
        ];
        let with_leases = [new_lease(&shards[6], Position::TrimHorizon)];
        let open_since = |numbers: &[usize]| StartTime {
            open_since: Some(numbers.iter().copied().map(id).collect()),
            ..StartTime::at_millis(7)
        };
        let at = |number| BTreeSet::from([(number, Position::Latest, Some(7))]);
        assert_eq!(planned_at(&shards, &with_leases, &open_since(&[3, 4, 5, 6])), at(3));
        assert_eq!(planned_at(&shards, &with_leases, &open_since(&[5, 6])), at(5));
        // Whatever has a lease leads on, however long ago it closed.
        let with_leases = [with_leases[0].clone(), new_lease(&shards[2], Position::TrimHorizon)];
        assert_eq!(planned_at(&shards, &with_leases, &open_since(&[5, 6])), BTreeSet::new());
    }

    #[test]
    fn the_instant_of_a_line_goes_down_the_line() {
        let mut leases = leases(&[4, 5, 8], &Position::Latest);
        leases[1].checkpoint = Position::ShardEnd;
        leases[1].initial_time_millis = Some(7);
        let child = |number| (number, Position::TrimHorizon, Some(7));
        assert_eq!(
            planned_at(&worked_example(), &leases, &StartTime::at_millis(9)),
            BTreeSet::from([child(9), child(10)])
        );
    }

    #[test]
    fn a_parent_that_left_the_stream_still_counts_by_its_lease() {
        let shards = [shard(9, &[5], false)];
        let unfinished = leases(&[5], &Position::TrimHorizon);
        assert!(planned(&shards, &unfinished, InitialPosition::Latest).is_empty());
        let finished = leases(&[5], &Position::ShardEnd);
        let plan = planned(&shards, &finished, InitialPosition::Latest);
        assert_eq!(plan, BTreeSet::from([(9, Position::TrimHorizon)]));
        let plan = planned(&shards, &[], InitialPosition::Latest);
        assert_eq!(plan, BTreeSet::from([(9, Position::Latest)]), "no trace of the parent");
    }

    #[test]
    fn a_named_shard_starts_where_it_is_told_and_the_others_where_they_would() {
        let shards = worked_example();
        let named = [(4, after(7)), (5, ShardPosition::Latest)];
        let plan = planned_with(&shards, &[], InitialPosition::TrimHorizon, &named);
        let mut expected: BTreeSet<_> = (0..=3).map(|number| (number, Position::TrimHorizon)).collect();
        expected.extend([(4, after(7).position()), (5, Position::Latest)]);
        assert_eq!(plan, expected);
    }

    #[test]
    fn what_is_done_up_to_a_record_is_done_with_its_ancestors_and_their_other_children_start_at_their_beginning()
     {
        let shards = worked_example();
        for initial in [InitialPosition::TrimHorizon, InitialPosition::Latest, AT_TIMESTAMP] {
            // 9 came out of 5, and so did 10; 8 out of everything from 0 to 3.
            let named = [(4, after(1)), (8, after(2)), (9, after(3))];
            let plan = planned_with(&shards, &[], initial, &named);
            let expected = BTreeSet::from([
                (4, after(1).position()),
                (5, Position::ShardEnd),
                (8, after(2).position()),
                (9, after(3).position()),
                (10, Position::TrimHorizon),
            ]);
            assert_eq!(plan, expected, "{initial:?}");
        }
    }

    #[test]
    fn the_ended_lease_of_an_ancestor_names_its_children_and_comes_first() {
        let named = BTreeMap::from([(id(9), after(3))]);
        let new_leases = plan_new_leases(&worked_example(), &[], &InitialPosition::TrimHorizon, None, &named);
        let place = |number| new_leases.iter().position(|lease| lease.shard_id == id(number)).unwrap();
        assert!(place(5) < place(9) && place(5) < place(10));
        assert!(new_leases[place(5)].children.iter().eq([&id(9), &id(10)]));
    }

    #[test]
    fn of_a_merge_the_side_that_nobody_named_is_read() {
        let shards = [shard(0, &[], true), shard(1, &[], true), shard(2, &[0, 1], false)];
        for (initial, position) in [
            (InitialPosition::TrimHorizon, Position::TrimHorizon),
            (InitialPosition::Latest, Position::Latest),
        ] {
            let plan = planned_with(&shards, &[], initial, &[(0, after(5))]);
            assert_eq!(plan, BTreeSet::from([(0, after(5).position()), (1, position)]), "{initial:?}");
        }
    }

    #[test]
    fn a_closed_parent_and_its_child_can_both_be_named_and_what_lies_between_is_read() {
        let shards = [shard(0, &[], true), shard(1, &[0], true), shard(2, &[1], false)];
        let plan = |named: &[_]| planned_with(&shards, &[], InitialPosition::Latest, named);
        let [zero, one, two] = [0, 1, 2].map(|number| (number, after(number as u128).position()));
        assert_eq!(plan(&[(0, after(0)), (1, after(1))]), BTreeSet::from([zero.clone(), one]));
        let between = (1, Position::TrimHorizon);
        assert_eq!(plan(&[(0, after(0)), (2, after(2))]), BTreeSet::from([zero, between, two]));
    }

    #[test]
    fn a_sentinel_says_nothing_of_the_ancestors() {
        let shards = [shard(0, &[], true), shard(1, &[0], false), shard(2, &[0], false)];
        let named = [(1, ShardPosition::Latest)];
        let plan = planned_with(&shards, &[], InitialPosition::TrimHorizon, &named);
        assert_eq!(plan, BTreeSet::from([(0, Position::TrimHorizon), (1, Position::Latest)]));
        let named = [(1, ShardPosition::TrimHorizon)];
        let plan = planned_with(&shards, &[], InitialPosition::Latest, &named);
        assert_eq!(plan, BTreeSet::from([(1, Position::TrimHorizon), (2, Position::Latest)]));
    }

    #[test]
    fn a_shard_that_has_a_lease_or_whose_descendants_have_is_not_started_again() {
        let shards = worked_example();
        let named = [(5, after(1)), (4, after(1)), (0, ShardPosition::TrimHorizon)];
        // 5 was read, and its row is deleted; of 0 only the row of 8 is left.
        let complete = leases(&[4, 8, 9, 10], &Position::TrimHorizon);
        let plan = planned_with(&shards, &complete, InitialPosition::TrimHorizon, &named);
        assert_eq!(plan, BTreeSet::new());
    }

    #[test]
    fn the_children_of_a_named_shard_that_is_gone_start_at_their_beginning() {
        let shards =
            [shard(1, &[0], false), shard(2, &[0], true), shard(3, &[2], false), shard(4, &[], false)];
        let named = [(0, after(9))];
        let plan = |leases: &[Lease]| planned_with(&shards, leases, InitialPosition::Latest, &named);
        let beginning = |number| (number, Position::TrimHorizon);
        assert_eq!(plan(&[]), BTreeSet::from([beginning(1), beginning(2), (4, Position::Latest)]));
        // 2 was read to its end, and its row is deleted.
        let leases = [1, 3, 4].map(|number| Lease {
            parents: BTreeSet::from([id(if number == 3 { 2 } else { 0 })]),
            ..Lease::unowned(id(number), Position::TrimHorizon)
        });
        assert_eq!(plan(&leases), BTreeSet::new());
    }

    #[test]
    fn an_instant_of_a_single_shard_is_kept_in_its_row() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(77);
        let named = BTreeMap::from([(id(4), ShardPosition::AtTimestamp(at))]);
        let new_leases = plan_new_leases(&worked_example(), &[], &InitialPosition::Latest, None, &named);
        let kept = |number| new_leases.iter().find(|lease| lease.shard_id == id(number)).unwrap();
        assert_eq!(kept(4).initial_time_millis, Some(77));
        assert_eq!(kept(9).initial_time_millis, None);
    }

    /// A stream that was resharded at random, all of it still listed.
    fn any_history() -> impl Strategy<Value = Vec<Shard>> {
        let steps = prop::collection::vec((any::<bool>(), any::<usize>(), any::<usize>()), 0..12);
        (1..4usize, steps).prop_map(|(roots, steps)| {
            let mut shards: Vec<Shard> = (0..roots).map(|number| shard(number, &[], false)).collect();
            for (is_merge, one, other) in steps {
                let open: Vec<usize> =
                    (0..shards.len()).filter(|number| !shards[*number].is_closed).collect();
                let (one, other) = (open[one % open.len()], open[other % open.len()]);
                shards[one].is_closed = true;
                if is_merge && one != other {
                    shards[other].is_closed = true;
                    shards.push(shard(shards.len(), &[one, other], false));
                } else {
                    let first = shards.len();
                    shards.extend([first, first + 1].map(|number| shard(number, &[one], false)));
                }
            }
            shards
        })
    }

    proptest! {
        /// However a history looks and whatever is named: every named shard gets its position; once the leases are created the
        /// plan is empty; and playing the ends of the shards reaches every open shard, never a child before its parents.
        #[test]
        fn every_line_is_read_to_its_open_shards_and_never_twice(
            shards in any_history(),
            choices in prop::collection::btree_map(0..30usize, 0..3u8, 0..6),
            at_latest: bool,
            at_instant: bool,
        ) {
            let start_time = at_instant.then(|| StartTime::at_millis(7));
            let initial = if at_latest { InitialPosition::Latest } else { InitialPosition::TrimHorizon };
            let named: BTreeMap<ShardId, ShardPosition> = choices
                .into_iter()
                .filter(|(number, _)| *number < shards.len())
                .map(|(number, choice)| (id(number), match choice {
                    0 => ShardPosition::TrimHorizon,
                    1 => ShardPosition::Latest,
                    _ => after(5),
                }))
                .collect();
            let mut leases = plan_new_leases(&shards, &[], &initial, start_time.as_ref(), &named);
            for (shard_id, position) in &named {
                let lease = leases.iter().find(|lease| lease.shard_id == *shard_id);
                prop_assert_eq!(lease.map(|lease| &lease.checkpoint), Some(&position.position()));
            }
            prop_assert_eq!(plan_new_leases(&shards, &leases, &initial, start_time.as_ref(), &named), vec![]);
            // Whatever may be read is read to its end, children first in the table.
            let is_ancestor = |ancestor: &ShardId, shard_id: &ShardId| {
                let mut above: Vec<&ShardId> = vec![shard_id];
                while let Some(next) = above.pop() {
                    let shard = shards.iter().find(|shard| shard.shard_id == *next).unwrap();
                    if shard.parents.contains(ancestor) {
                        return true;
                    }
                    above.extend(&shard.parents);
                }
                false
            };
            let mut begun: BTreeSet<ShardId> = BTreeSet::new();
            loop {
                let has_lease = |leases: &[Lease], shard_id: &ShardId| {
                    leases.iter().any(|lease| lease.shard_id == *shard_id)
                };
                let is_unfinished = |parent: &ShardId| {
                    leases.iter().any(|lease| lease.shard_id == *parent && !lease.is_finished())
                };
                let can_start =
                    |lease: &Lease| !lease.is_finished() && !lease.parents.iter().any(is_unfinished);
                let started: Vec<ShardId> =
                    leases.iter().filter(|lease| can_start(lease)).map(|lease| lease.shard_id.clone()).collect();
                for shard_id in &started {
                    let is_new = begun.insert(shard_id.clone());
                    let late = begun.iter().find(|descendant| is_ancestor(shard_id, descendant));
                    prop_assert!(!is_new || late.is_none(), "{:?} begins after its descendant {:?}", shard_id, late);
                }
                // The end of a shard waits for the lease of a child's other parent.
                let can_end = |shard_id: &&ShardId| {
                    let shard = shards.iter().find(|shard| shard.shard_id == **shard_id).unwrap();
                    shard.is_closed
                        && shards
                            .iter()
                            .filter(|child| child.parents.contains(*shard_id) && !has_lease(&leases, &child.shard_id))
                            .all(|child| child.parents.iter().all(|parent| has_lease(&leases, parent)))
                };
                let Some(ended) = started.iter().find(can_end) else { break };
                for child in shards.iter().filter(|shard| shard.parents.contains(ended)) {
                    if !has_lease(&leases, &child.shard_id) {
                        leases.push(new_lease(child, Position::TrimHorizon));
                    }
                }
                let row = leases.iter_mut().find(|lease| lease.shard_id == *ended);
                row.unwrap().checkpoint = Position::ShardEnd;
                prop_assert_eq!(plan_new_leases(&shards, &leases, &initial, start_time.as_ref(), &named), vec![]);
            }
            for open in shards.iter().filter(|shard| !shard.is_closed) {
                prop_assert!(begun.contains(&open.shard_id), "{:?} is never read: {:?}", open, leases);
            }
        }
    }
}
