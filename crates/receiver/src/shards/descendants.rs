//! The children and descendants of a shard, as far as the stream and the table know them.

use std::collections::{BTreeSet, HashMap};

use lease_store::{Lease, ShardId};
use shard_worker::Shard;

/// The children of each shard.
pub(crate) fn children<'a>(
    shards: &'a [Shard],
    leases: &'a [Lease],
) -> HashMap<&'a ShardId, BTreeSet<&'a ShardId>> {
    let listed = shards.iter().map(|shard| (&shard.shard_id, &shard.parents));
    let leased = leases.iter().map(|lease| (&lease.shard_id, &lease.parents));
    let mut children: HashMap<&ShardId, BTreeSet<&ShardId>> = HashMap::new();
    for (child, parents) in listed.chain(leased) {
        for parent in parents {
            children.entry(parent).or_default().insert(child);
        }
    }
    children
}

/// Whether a condition holds for any descendant of a shard.
pub(crate) fn any_descendant(
    children: &HashMap<&ShardId, BTreeSet<&ShardId>>,
    shard_id: &ShardId,
    holds: impl Fn(&ShardId) -> bool,
) -> bool {
    let children_of = |shard_id| children.get(shard_id).into_iter().flatten().copied();
    let mut waiting: Vec<&ShardId> = children_of(shard_id).collect();
    let mut seen = BTreeSet::new();
    while let Some(descendant) = waiting.pop() {
        if holds(descendant) {
            return true;
        }
        if seen.insert(descendant) {
            waiting.extend(children_of(descendant));
        }
    }
    false
}

/// Whether a descendant of the shard has a lease, which proves that the shard was read to its end.
pub(crate) fn is_read_beyond(shard_id: &ShardId, shards: &[Shard], leases: &[Lease]) -> bool {
    let is_leased = |descendant: &ShardId| leases.iter().any(|lease| lease.shard_id == *descendant);
    any_descendant(&children(shards, leases), shard_id, is_leased)
}

#[cfg(test)]
mod tests {
    use lease_store::Position;

    use super::*;

    #[test]
    fn a_shard_is_read_beyond_if_a_descendant_has_a_lease() {
        // 0 and 1 merged into 2, which split into 3 and 4. 5 was never resharded. Only 4 has a row, and the stream no
        // longer lists 2.
        let shards = [(0, vec![]), (1, vec![]), (3, vec![2]), (5, vec![])].map(|(number, parents)| Shard {
            shard_id: ShardId::numbered(number),
            parents: parents.into_iter().map(ShardId::numbered).collect(),
            hash_key_range: None,
            is_closed: true,
        });
        let mut lease = Lease::unowned(ShardId::numbered(4), Position::TrimHorizon);
        lease.parents.insert(ShardId::numbered(2));
        let read_beyond = |shards: &[Shard], leases: &[Lease]| -> Vec<u64> {
            (0..6).filter(|number| is_read_beyond(&ShardId::numbered(*number), shards, leases)).collect()
        };
        assert_eq!(read_beyond(&shards, std::slice::from_ref(&lease)), [2], "the parents of 2 are unknown");
        let merged = Shard {
            shard_id: ShardId::numbered(2),
            parents: BTreeSet::from([0, 1].map(ShardId::numbered)),
            ..shards[0].clone()
        };
        let shards = [&shards[..], &[merged]].concat();
        assert_eq!(read_beyond(&shards, &[lease]), [0, 1, 2]);
        assert_eq!(read_beyond(&shards, &[]), [0; 0]);
    }
}
