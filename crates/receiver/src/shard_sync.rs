//! Which shards need a lease: a pure plan over what the stream lists and what the table holds.

use std::collections::{BTreeMap, HashMap};

use lease_store::{Lease, Position, ShardId};
use shard_worker::Shard;

use crate::InitialPosition;

/// Decides which leases to create, parents before children. The rules are those of the KCL
/// (`HierarchicalShardSyncer`), for an empty and for a filled table alike:
///
/// - An open shard without a lease and without a leased ancestor starts at the initial position. With `LATEST` that is
///   the shard itself; otherwise its oldest ancestors that the stream still lists get the leases instead, and the
///   descendants follow when those end.
/// - A shard with a leased ancestor is reached through that ancestor's end. When a merge joins a leased and an unleased
///   line, the unleased side gets leases of its own.
/// - Beyond the KCL: where the table has kept the instant that `LATEST` stands for, a line without leases starts at its
///   oldest shard too, at that instant; what came after it in a shard that has closed since then is not skipped.
/// - Beyond the KCL: a shard whose leased parents have all ended but which has no lease itself (it was deleted, or the
///   worker that ended the parent crashed) gets one, so that no hole stays.
///
/// `position_of_child` of the initial position is what a shard behind an ended parent starts at.
pub fn plan_new_leases(shards: &[Shard], leases: &[Lease], initial_position: &InitialPosition) -> Vec<Lease> {
    let mut sync = ShardSync {
        shards: shards.iter().map(|shard| (&shard.shard_id, shard)).collect(),
        leases: leases.iter().map(|lease| (&lease.shard_id, lease)).collect(),
        initial_position,
        visited: HashMap::new(),
        planned: BTreeMap::new(),
    };
    for shard in shards.iter().filter(|shard| !shard.is_closed) {
        if !sync.visit(shard).is_descendant {
            sync.plan(shard, initial_position.position());
        }
    }
    sync.plan_holes(shards);
    let mut new_leases: Vec<Lease> = sync.planned.into_values().collect();
    // A parent's lease must stand before its child's: a child whose parent has no lease may start at once.
    let ids: Vec<ShardId> = new_leases.iter().map(|lease| lease.shard_id.clone()).collect();
    new_leases.sort_by_key(|lease| lease.parents.iter().filter(|parent| ids.contains(parent)).count());
    new_leases
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

struct ShardSync<'a> {
    shards: HashMap<&'a ShardId, &'a Shard>,
    leases: HashMap<&'a ShardId, &'a Lease>,
    initial_position: &'a InitialPosition,
    visited: HashMap<&'a ShardId, Ancestry>,
    planned: BTreeMap<&'a ShardId, Lease>,
}

impl<'a> ShardSync<'a> {
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
        if self.leases.contains_key(&shard.shard_id) {
            return Ancestry { is_descendant: true, is_oldest_of_line: false };
        }
        let mut lines = Vec::new();
        for parent_id in &shard.parents {
            if let Some(parent) = self.shards.get(parent_id).copied() {
                lines.push((Some(parent), self.visit(parent)));
            } else if self.leases.contains_key(parent_id) {
                // Gone from the stream, but not from the table.
                lines.push((None, Ancestry { is_descendant: true, is_oldest_of_line: false }));
            }
        }
        let is_followed = |ancestry: &Ancestry| ancestry.is_descendant || ancestry.is_oldest_of_line;
        if !lines.iter().any(|(_, ancestry)| is_followed(ancestry)) {
            // LATEST as the instant of an earlier start is a time like any other: a shard that has closed since then may
            // hold records from after it.
            let is_kept_instant = || self.leases.values().any(|lease| lease.initial_time_millis.is_some());
            let starts_at_oldest =
                !matches!(self.initial_position, InitialPosition::Latest) || is_kept_instant();
            return Ancestry { is_descendant: false, is_oldest_of_line: starts_at_oldest };
        }
        for (parent, ancestry) in lines {
            // A parent that is reached through its own ancestors gets its lease from them.
            if let (Some(parent), false) = (parent, ancestry.is_descendant) {
                self.plan(parent, self.initial_position.position());
            }
        }
        Ancestry { is_descendant: true, is_oldest_of_line: false }
    }

    fn plan(&mut self, shard: &'a Shard, position: Position) {
        if !self.leases.contains_key(&shard.shard_id) {
            self.planned.entry(&shard.shard_id).or_insert_with(|| new_lease(shard, position));
        }
    }

    /// Shards whose line was read up to them, but which have no lease.
    fn plan_holes(&mut self, shards: &'a [Shard]) {
        for shard in shards {
            let mut leased_parents =
                shard.parents.iter().filter_map(|parent| self.leases.get(parent)).peekable();
            // The other side of a merge may be about to get its lease from its own parents.
            let is_awaited = |parent: &ShardId| {
                !self.leases.contains_key(parent)
                    && !self.planned.contains_key(parent)
                    && self.shards.contains_key(parent)
            };
            if leased_parents.peek().is_some()
                && leased_parents.all(|parent| parent.is_finished())
                && !shard.parents.iter().any(is_awaited)
            {
                self.plan(shard, self.initial_position.position_of_child());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

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
        let number = |lease: &Lease| lease.shard_id.as_str()["shardId-".len()..].parse().unwrap();
        let new_leases = plan_new_leases(shards, leases, &initial);
        new_leases.iter().map(|lease| (number(lease), lease.checkpoint.clone())).collect()
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
    fn at_a_kept_instant_a_line_without_leases_starts_at_its_oldest_shard() {
        let shards = worked_example();
        let mut leases = leases(&[4, 8], &Position::Latest);
        for lease in &mut leases {
            lease.initial_time_millis = Some(1);
        }
        // The rows of 5, 9 and 10 were deleted, and 5 may hold records from after the first start.
        let plan = planned(&shards, &leases, InitialPosition::Latest);
        assert_eq!(plan, BTreeSet::from([(5, Position::Latest)]));
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
}
