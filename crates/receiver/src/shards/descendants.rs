//! The children and descendants of a shard, as far as the stream and the table know them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

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

/// The shards that have a descendant among these, as far as the stream and the leases know their parents.
pub(crate) fn with_descendant_in<'a>(
    descendants: impl Iterator<Item = &'a ShardId>,
    shards: &'a [Shard],
    leases: impl Iterator<Item = &'a Lease>,
) -> HashSet<&'a ShardId> {
    let listed = shards.iter().map(|shard| (&shard.shard_id, &shard.parents));
    let leased = leases.map(|lease| (&lease.shard_id, &lease.parents));
    let mut parents: HashMap<&ShardId, Vec<&BTreeSet<ShardId>>> = HashMap::new();
    for (child, parents_of_child) in listed.chain(leased) {
        parents.entry(child).or_default().push(parents_of_child);
    }
    let mut waiting: Vec<&ShardId> = descendants.collect();
    let mut found = HashSet::new();
    while let Some(shard_id) = waiting.pop() {
        for parent in parents.get(shard_id).into_iter().flatten().copied().flatten() {
            if found.insert(parent) {
                waiting.push(parent);
            }
        }
    }
    found
}

/// For each shard with a descendant among these, the least of their numbers.
pub(crate) fn least_below<'a>(
    descendants: impl Iterator<Item = (u64, &'a ShardId)>,
    shards: &'a [Shard],
    leases: impl Iterator<Item = &'a Lease>,
) -> HashMap<&'a ShardId, u64> {
    let mut least: Vec<(u64, &ShardId)> = descendants.collect();
    least.sort_unstable();
    let listed = shards.iter().map(|shard| (&shard.shard_id, &shard.parents));
    let leased = leases.map(|lease| (&lease.shard_id, &lease.parents));
    let mut parents: HashMap<&ShardId, Vec<&BTreeSet<ShardId>>> = HashMap::new();
    for (child, parents_of_child) in listed.chain(leased) {
        parents.entry(child).or_default().push(parents_of_child);
    }
    let mut found = HashMap::new();
    for (number, shard_id) in least {
        // An ancestor that is already found has a number that is not greater, and so have its ancestors.
        let mut waiting = vec![shard_id];
        while let Some(shard_id) = waiting.pop() {
            for parent in parents.get(shard_id).into_iter().flatten().copied().flatten() {
                if let Entry::Vacant(entry) = found.entry(parent) {
                    entry.insert(number);
                    waiting.push(parent);
                }
            }
        }
    }
    found
}

/// The listed shards below a listed ancestor that meets a condition, reached through listed shards only.
pub(crate) fn listed_below(shards: &[Shard], holds: impl Fn(&ShardId) -> bool) -> HashSet<&ShardId> {
    let children = children(shards, &[]);
    let mut waiting: Vec<&ShardId> =
        shards.iter().map(|shard| &shard.shard_id).filter(|shard_id| holds(shard_id)).collect();
    let mut found = HashSet::new();
    while let Some(shard_id) = waiting.pop() {
        for child in children.get(shard_id).into_iter().flatten().copied() {
            if found.insert(child) {
                waiting.push(child);
            }
        }
    }
    found
}

/// The generation of each listed shard: one more than the highest of its listed parents. A shard that is its own ancestor
/// has none; no valid history contains one.
pub(crate) fn generations(shards: &[Shard]) -> HashMap<&ShardId, usize> {
    let listed: HashSet<&ShardId> = shards.iter().map(|shard| &shard.shard_id).collect();
    let children = children(shards, &[]);
    let listed_parents =
        |shard: &Shard| shard.parents.iter().filter(|parent| listed.contains(parent)).count();
    let mut missing: HashMap<&ShardId, usize> =
        shards.iter().map(|shard| (&shard.shard_id, listed_parents(shard))).collect();
    let mut ready: Vec<&ShardId> = shards
        .iter()
        .map(|shard| &shard.shard_id)
        .filter(|shard_id| missing.get(shard_id) == Some(&0))
        .collect();
    let mut generations: HashMap<&ShardId, usize> = ready.iter().map(|shard_id| (*shard_id, 0)).collect();
    // Each pass handles one generation, so the parent that is handled last has the highest generation.
    for generation in 1..=shards.len() {
        let mut next = Vec::new();
        for parent in ready {
            for child in children.get(parent).into_iter().flatten().copied() {
                if let Some(missing) = missing.get_mut(child) {
                    *missing -= 1;
                    if *missing == 0 {
                        generations.insert(child, generation);
                        next.push(child);
                    }
                }
            }
        }
        if next.is_empty() {
            break;
        }
        ready = next;
    }
    generations
}

/// Whether a descendant of the shard has a lease, which proves that the shard was read to its end.
pub(crate) fn is_read_beyond(shard_id: &ShardId, shards: &[Shard], leases: &[Lease]) -> bool {
    with_descendant_in(leases.iter().map(|lease| &lease.shard_id), shards, leases.iter()).contains(shard_id)
}

#[cfg(test)]
mod tests {
    use lease_store::Position;

    use super::*;

    #[test]
    fn a_shard_is_read_beyond_if_a_descendant_has_a_lease() {
        // 0 and 1 merged into 2, which split into 3 and 4. 5 was never resharded. Only 4 has a row, and the stream no
        // longer lists 2.
        let shards = [(0, vec![]), (1, vec![]), (3, vec![2]), (5, vec![])].map(|(number, parents)| {
            Shard::new(ShardId::numbered(number), true)
                .with_parents(parents.into_iter().map(ShardId::numbered).collect())
        });
        let mut lease = Lease::unowned(ShardId::numbered(4), Position::TrimHorizon);
        lease.parents.insert(ShardId::numbered(2));
        let read_beyond = |shards: &[Shard], leases: &[Lease]| -> Vec<u64> {
            (0..6).filter(|number| is_read_beyond(&ShardId::numbered(*number), shards, leases)).collect()
        };
        assert_eq!(read_beyond(&shards, std::slice::from_ref(&lease)), [2], "the parents of 2 are unknown");
        let merged = Shard::new(ShardId::numbered(2), shards[0].is_closed)
            .with_parents(BTreeSet::from([0, 1].map(ShardId::numbered)))
            .with_hash_key_range(shards[0].hash_key_range);
        let shards = [&shards[..], &[merged]].concat();
        assert_eq!(read_beyond(&shards, &[lease]), [0, 1, 2]);
        assert_eq!(read_beyond(&shards, &[]), [0; 0]);
    }
}
