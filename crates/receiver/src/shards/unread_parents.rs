//! Children of a merge that must wait because the row of one parent vanished.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{Lease, ShardId};

use crate::shards::last_known::has_begun;

/// The missing parents of each child of a merge that has not begun.
///
/// The row of a parent is deleted only after the child has begun. So if one parent of such a child has a row and another one
/// has none, that row vanished, and the parent may not be read to its end.
pub(crate) fn missing_parents(leases: &[Lease]) -> BTreeMap<ShardId, BTreeSet<ShardId>> {
    let listed: BTreeSet<&ShardId> = leases.iter().map(|lease| &lease.shard_id).collect();
    let waiting = leases.iter().filter(|lease| lease.parents.len() > 1 && !has_begun(lease));
    waiting
        .filter_map(|lease| {
            let (present, missing): (BTreeSet<&ShardId>, BTreeSet<&ShardId>) =
                lease.parents.iter().partition(|parent| listed.contains(parent));
            let is_unread = !present.is_empty() && !missing.is_empty();
            is_unread.then(|| (lease.shard_id.clone(), missing.into_iter().cloned().collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lease_store::Position;

    use super::*;

    #[test]
    fn a_child_waits_if_one_of_two_parents_has_a_row() {
        let id = ShardId::numbered;
        let row = |number, checkpoint, parents: &[u64]| Lease {
            parents: parents.iter().copied().map(id).collect(),
            ..Lease::unowned(id(number), checkpoint)
        };
        let parent = row(0, Position::ShardEnd, &[]);
        let child = row(2, Position::TrimHorizon, &[0, 1]);
        let begun = row(2, Position::after(5.into(), 0), &[0, 1]);
        let split = row(3, Position::TrimHorizon, &[9]);
        assert_eq!(
            missing_parents(&[parent.clone(), child.clone(), split]),
            BTreeMap::from([(id(2), BTreeSet::from([id(1)]))])
        );
        assert!(
            missing_parents(&[parent.clone(), begun]).is_empty(),
            "the clean-up deletes one after the other"
        );
        assert!(missing_parents(std::slice::from_ref(&child)).is_empty(), "the lineage starts here");
        assert!(missing_parents(&[parent, row(1, Position::TrimHorizon, &[]), child]).is_empty());
    }
}
