//! Which leases of ended shards can go: a pure plan.

use std::collections::HashMap;

use lease_store::{Lease, Position, ShardId};

/// The leases of ended shards that nobody needs any more, by the KCL's rule (`LeaseCleanupManager`): every child has a
/// lease and has been begun, and no parent has a lease any more. So the oldest go first, and a missing lease behind an
/// ended parent always means a hole.
pub fn plan_cleanup(leases: &[Lease]) -> Vec<&Lease> {
    let by_id: HashMap<&ShardId, &Lease> = leases.iter().map(|lease| (&lease.shard_id, lease)).collect();
    let is_begun =
        |child: &ShardId| by_id.get(child).is_some_and(|lease| lease.checkpoint > Position::TrimHorizon);
    let is_spent = |lease: &&Lease| {
        lease.is_finished()
            && !lease.children.is_empty()
            && lease.children.iter().all(is_begun)
            && !lease.parents.iter().any(|parent| by_id.contains_key(parent))
    };
    leases.iter().filter(is_spent).collect()
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

    fn spent(leases: &[Lease]) -> BTreeSet<&ShardId> {
        plan_cleanup(leases).into_iter().map(|lease| &lease.shard_id).collect()
    }

    #[test]
    fn only_the_oldest_whose_children_have_begun() {
        let at = |number: u128| Position::after(number.into(), 0);
        let mut leases = vec![
            lease(0, Position::ShardEnd, &[], &[1, 2]),
            lease(1, Position::ShardEnd, &[0], &[3]),
            lease(2, Position::TrimHorizon, &[0], &[]),
            lease(3, at(5), &[1], &[]),
        ];
        assert_eq!(spent(&leases), BTreeSet::new(), "2 has not begun");
        leases[2].checkpoint = at(4);
        assert_eq!(spent(&leases), BTreeSet::from([&id(0)]), "1 waits until its parent's lease is gone");
        leases.remove(0);
        assert_eq!(spent(&leases), BTreeSet::from([&id(1)]));
        leases.pop();
        assert_eq!(spent(&leases), BTreeSet::new(), "the lease of child 3 is missing");
    }
}
