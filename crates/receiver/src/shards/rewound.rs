//! Shards that start at their beginning although a listed parent has no row: a pure plan.
//!
//! The clean-up deletes the row of a parent only after all its children are past `TRIM_HORIZON`. So a child at `TRIM_HORIZON`
//! whose listed parent has no row was set back by hand, or the row of its parent was deleted. The records of the parent come
//! before those of the child, and without a row no worker would read them.

use std::collections::{BTreeSet, HashMap, HashSet};

use lease_store::{Lease, Position, ShardId};
use shard_worker::Shard;

use crate::shards::descendants::children;
use crate::shards::plan::new_lease;

/// The plan for ancestors without rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RewoundPlan {
    /// The leases to create at `TRIM_HORIZON`: their records are wanted again, since no child of theirs has begun.
    pub(crate) restore: Vec<Lease>,
    /// Shards at `TRIM_HORIZON` with a parent that gets no lease, because another child of the parent has begun.
    pub(crate) left_out: BTreeSet<(ShardId, ShardId)>,
    /// The rows at `TRIM_HORIZON` on which the plan relies. They must be read again before a lease is created, since a listing
    /// does not show all rows at one instant.
    pub(crate) evidence: BTreeSet<ShardId>,
}

/// Whether a row is at the beginning of its shard, without an instant before which records are skipped.
pub(crate) fn is_at_start(lease: &Lease) -> bool {
    lease.checkpoint == Position::TrimHorizon && lease.initial_time_millis.is_none()
}

/// Whether the table alone shows a shard at its beginning with a parent that has no row. The stream may no longer list that
/// parent.
pub(crate) fn may_be_rewound(leases: &[Lease], has_row: impl Fn(&ShardId) -> bool) -> bool {
    leases.iter().filter(|lease| is_at_start(lease)).any(|lease| lease.parents.iter().any(|id| !has_row(id)))
}

/// Plans the leases of ancestors without rows. `has_row` also knows malformed rows. `is_named` are shards whose position is
/// configured: they start there without their ancestors.
pub(crate) fn plan_rewound(
    shards: &[Shard],
    leases: &[Lease],
    has_row: impl Fn(&ShardId) -> bool,
    is_named: impl Fn(&ShardId) -> bool,
) -> RewoundPlan {
    let listed: HashMap<&ShardId, &Shard> = shards.iter().map(|shard| (&shard.shard_id, shard)).collect();
    let children = children(shards, leases);
    let rows_at_start = leases.iter().filter(|lease| is_at_start(lease) && !is_named(&lease.shard_id));
    let mut at_start: HashSet<&ShardId> = rows_at_start.map(|lease| &lease.shard_id).collect();
    let mut waiting: Vec<&ShardId> = leases.iter().map(|lease| &lease.shard_id).collect();
    waiting.retain(|shard_id| at_start.contains(shard_id));
    let mut plan = RewoundPlan::default();
    let parents_without_row = |shard_id: &ShardId| {
        let parents = listed.get(shard_id).map(|shard| &shard.parents);
        let missing = parents.into_iter().flatten().filter_map(|parent| listed.get(parent).copied());
        missing.filter(|parent| !has_row(&parent.shard_id)).collect::<Vec<&Shard>>()
    };
    let mut candidates: Vec<(&ShardId, &Shard)> = Vec::new();
    while let Some(shard_id) = waiting.pop() {
        for parent in parents_without_row(shard_id) {
            candidates.push((shard_id, parent));
            // A parent is checked once for each child, and restored when its last child is known to be at the start.
            let all = children.get(&parent.shard_id).into_iter().flatten();
            if all.clone().all(|child| at_start.contains(child)) && at_start.insert(&parent.shard_id) {
                plan.evidence.extend(all.filter(|child| has_row(child)).map(|child| (*child).clone()));
                plan.restore.push(new_lease(parent, Position::TrimHorizon));
                waiting.push(&parent.shard_id);
            }
        }
    }
    let left_out = candidates.into_iter().filter(|(_, parent)| !at_start.contains(&parent.shard_id));
    plan.left_out = left_out.map(|(child, parent)| (child.clone(), parent.shard_id.clone())).collect();
    // Parents first: a child whose parent has no row may be taken at once.
    plan.restore.reverse();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ShardId {
        ShardId::numbered(number)
    }

    fn shard(number: u64, parents: &[u64]) -> Shard {
        let parents = parents.iter().copied().map(id).collect();
        Shard::new(id(number), true).with_parents(parents)
    }

    fn lease(number: u64, parents: &[u64], checkpoint: Position) -> Lease {
        new_lease(&shard(number, parents), checkpoint)
    }

    fn plan(shards: &[Shard], leases: &[Lease]) -> (Vec<u64>, usize) {
        let rows: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).collect();
        let plan = plan_rewound(shards, leases, |id| rows.contains(id), |_| false);
        let number = |lease: &Lease| (0..).find(|number| lease.shard_id == id(*number)).unwrap();
        assert!(plan.restore.iter().all(is_at_start));
        (plan.restore.iter().map(number).collect(), plan.left_out.len())
    }

    /// 0 split into 1 and 2; 1 split into 3 and 4; 2 and 4 merged into 5.
    fn history() -> Vec<Shard> {
        vec![shard(0, &[]), shard(1, &[0]), shard(2, &[0]), shard(3, &[1]), shard(4, &[1]), shard(5, &[2, 4])]
    }

    const START: Position = Position::TrimHorizon;

    #[test]
    fn rewound_children_get_all_their_listed_ancestors() {
        let rows = [lease(3, &[1], START), lease(5, &[2, 4], START)];
        let (restored, left_out) = plan(&history(), &rows);
        assert_eq!((restored.iter().copied().collect::<BTreeSet<_>>(), left_out), ([0, 1, 2, 4].into(), 0));
        let place = |number| restored.iter().position(|restored| *restored == number);
        assert!(place(0) < place(1) && place(1) < place(4) && place(0) < place(2), "{restored:?}");
        assert_eq!(plan(&history()[3..], &rows), (vec![4], 0), "the stream lists no others");
    }

    #[test]
    fn a_parent_with_a_child_that_has_begun_is_named_only() {
        let begun = Position::after(7.into(), 0);
        let rows = [lease(3, &[1], START), lease(5, &[2, 4], begun)];
        assert_eq!(plan(&history(), &rows), (vec![], 1));
        let rows = [lease(3, &[1], Position::ShardEnd), lease(5, &[2, 4], START)];
        assert_eq!(plan(&history(), &rows).0, [4, 2], "4 and 2 are read again, 1 and 0 are not");
    }

    #[test]
    fn nothing_is_restored_in_an_ordinary_table() {
        let begun = || Position::after(7.into(), 0);
        for rows in [
            vec![lease(0, &[], START)],
            vec![lease(0, &[], Position::ShardEnd), lease(1, &[0], START), lease(2, &[0], START)],
            vec![lease(1, &[0], begun()), lease(2, &[0], begun())],
            vec![lease(3, &[1], Position::Latest), lease(5, &[2, 4], Position::AtTimestamp)],
        ] {
            assert_eq!(plan(&history(), &rows), (vec![], 0), "{rows:?}");
        }
        let mut since = lease(1, &[0], START);
        since.initial_time_millis = Some(5);
        assert_eq!(plan(&history()[..2], &[since]), (vec![], 0), "earlier records are not wanted");
        let named = plan_rewound(&history(), &[lease(1, &[0], START)], |shard| *shard == id(1), |_| true);
        assert_eq!(named, RewoundPlan::default());
    }

    #[test]
    fn a_long_history_needs_no_stack() {
        let generations = 100_000;
        let shards: Vec<Shard> = (0..generations)
            .map(|number| shard(number, &number.checked_sub(1).into_iter().collect::<Vec<_>>()))
            .collect();
        let rows = [lease(generations - 1, &[generations - 2], START)];
        let has_row = |shard_id: &ShardId| *shard_id == rows[0].shard_id;
        let plan = plan_rewound(&shards, &rows, has_row, |_| false);
        assert_eq!(plan.restore.len() as u64, generations - 1);
        assert_eq!(plan.restore[0].shard_id, id(0));
    }
}
