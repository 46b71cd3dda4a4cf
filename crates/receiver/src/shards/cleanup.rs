//! Which leases of ended shards can be deleted: a pure plan.

use std::collections::HashMap;

use lease_store::{Lease, Position, ShardId};

/// The leases of ended shards that are no longer needed, by the KCL's rule (`LeaseCleanupManager`): the checkpoint of every
/// child is past `TRIM_HORIZON`, and no parent has a lease. So the oldest leases are deleted first, and a child without a
/// lease whose parent's lease has ended always means a hole.
pub fn plan_cleanup(leases: &[Lease]) -> Vec<&Lease> {
    let by_id: HashMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
    let has_progress =
        |child: &ShardId| by_id.get(child).is_some_and(|lease| lease.checkpoint > Position::TrimHorizon);
    let can_be_deleted = |lease: &&Lease| {
        lease.is_finished()
            && !lease.children.is_empty()
            && lease.children.iter().all(has_progress)
            && !lease.parents.iter().any(|parent| by_id.contains_key(parent))
    };
    leases.iter().filter(can_be_deleted).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn id(number: usize) -> ShardId {
        ShardId::new(format!("shard-{number}")).unwrap()
    }

    fn lease(number: usize, checkpoint: Position, parents: &[usize], children: &[usize]) -> Lease {
        let mut lease = Lease::unowned(id(number), checkpoint);
        lease.parents = parents.iter().copied().map(id).collect();
        lease.children = children.iter().copied().map(id).collect();
        lease
    }

    fn deletable(leases: &[Lease]) -> BTreeSet<&ShardId> {
        plan_cleanup(leases).into_iter().map(|lease| &lease.shard_id).collect()
    }

    #[test]
    fn only_the_oldest_leases_with_started_children_are_deleted() {
        let at = |number: u128| Position::after(number.into(), 0);
        let mut leases = vec![
            lease(0, Position::ShardEnd, &[], &[1, 2]),
            lease(1, Position::ShardEnd, &[0], &[3]),
            lease(2, Position::TrimHorizon, &[0], &[]),
            lease(3, at(5), &[1], &[]),
        ];
        assert_eq!(deletable(&leases), BTreeSet::new(), "2 has no progress yet");
        leases[2].checkpoint = at(4);
        assert_eq!(
            deletable(&leases),
            BTreeSet::from([&id(0)]),
            "1 waits until its parent's lease is deleted"
        );
        leases.remove(0);
        assert_eq!(deletable(&leases), BTreeSet::from([&id(1)]));
        leases.pop();
        assert_eq!(deletable(&leases), BTreeSet::new(), "the lease of child 3 is missing");
    }
}
