//! The lineage of shards: parents, children, generations. Pure.
//!
//! It joins what the stream lists with what the rows tell, because both forget: the stream its oldest shards, the table the
//! rows of shards that were cleaned up. A malformed table may contain circles, so each walk visits a shard once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lease_store::ShardId;

use crate::look::Look;

/// Parents and children of all shards that a look mentions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    parents: BTreeMap<ShardId, BTreeSet<ShardId>>,
    children: BTreeMap<ShardId, BTreeSet<ShardId>>,
}

impl Lineage {
    /// The lineage of all shards of a look.
    pub fn of(look: &Look) -> Self {
        let mut lineage = Self::default();
        for shard in look.shards.iter().flatten() {
            shard.parents.iter().for_each(|parent| lineage.add(parent, &shard.shard_id));
        }
        for lease in &look.leases {
            lease.parents.iter().for_each(|parent| lineage.add(parent, &lease.shard_id));
            lease.children.iter().for_each(|child| lineage.add(&lease.shard_id, child));
        }
        lineage
    }

    /// Adds one step of a lineage.
    pub(crate) fn add(&mut self, parent: &ShardId, child: &ShardId) {
        if parent != child {
            self.parents.entry(child.clone()).or_default().insert(parent.clone());
            self.children.entry(parent.clone()).or_default().insert(child.clone());
        }
    }

    /// The parents of a shard.
    pub fn parents(&self, shard_id: &ShardId) -> impl Iterator<Item = &ShardId> {
        self.parents.get(shard_id).into_iter().flatten()
    }

    /// The children of a shard.
    pub fn children(&self, shard_id: &ShardId) -> impl Iterator<Item = &ShardId> {
        self.children.get(shard_id).into_iter().flatten()
    }

    /// All shards that a shard came from.
    pub fn ancestors(&self, shard_id: &ShardId) -> BTreeSet<ShardId> {
        walk(&self.parents, shard_id)
    }

    /// All shards that came from a shard.
    pub fn descendants(&self, shard_id: &ShardId) -> BTreeSet<ShardId> {
        walk(&self.children, shard_id)
    }

    /// The ancestors of any of these shards.
    pub(crate) fn ancestors_of_any<'a>(
        &self,
        shards: impl IntoIterator<Item = &'a ShardId>,
    ) -> BTreeSet<ShardId> {
        let mut next: Vec<&ShardId> =
            shards.into_iter().flat_map(|shard_id| self.parents(shard_id)).collect();
        let mut found = BTreeSet::new();
        while let Some(shard_id) = next.pop() {
            if found.insert(shard_id.clone()) {
                next.extend(self.parents(shard_id));
            }
        }
        found
    }

    /// Sorts shards so that each comes before its parents. Shards of a circle come first.
    pub fn children_first<'a>(&self, shards: impl IntoIterator<Item = &'a ShardId>) -> Vec<ShardId> {
        let generations = self.generations();
        let mut sorted: Vec<ShardId> = shards.into_iter().cloned().collect();
        let generation = |shard_id: &ShardId| match self.parents.get(shard_id) {
            None => 0,
            Some(_) => generations.get(shard_id).copied().unwrap_or(usize::MAX),
        };
        sorted.sort_by_cached_key(|shard_id| (std::cmp::Reverse(generation(shard_id)), shard_id.clone()));
        sorted.dedup();
        sorted
    }

    /// The shards of circles, and those that come from them: none of them ever begins.
    pub(crate) fn in_circles(&self) -> BTreeSet<ShardId> {
        let generations = self.generations();
        self.parents.keys().filter(|shard_id| !generations.contains_key(shard_id)).cloned().collect()
    }

    /// The longest way from a root to each shard. Shards of a circle have none.
    fn generations(&self) -> BTreeMap<&ShardId, usize> {
        let mut open_parents: BTreeMap<&ShardId, usize> =
            self.parents.iter().map(|(child, parents)| (child, parents.len())).collect();
        let roots = self.children.keys().filter(|shard_id| !self.parents.contains_key(*shard_id));
        let mut ready: VecDeque<&ShardId> = roots.collect();
        let mut generations: BTreeMap<&ShardId, usize> = ready.iter().map(|root| (*root, 0)).collect();
        let mut reached: BTreeMap<&ShardId, usize> = BTreeMap::new();
        while let Some(parent) = ready.pop_front() {
            let next = generations.get(parent).copied().unwrap_or_default() + 1;
            for child in self.children(parent) {
                let longest = reached.entry(child).or_default();
                *longest = (*longest).max(next);
                let Some(open) = open_parents.get_mut(child) else { continue };
                *open -= 1;
                if *open == 0 {
                    generations.insert(child, *longest);
                    ready.push_back(child);
                }
            }
        }
        generations
    }
}

fn walk(steps: &BTreeMap<ShardId, BTreeSet<ShardId>>, from: &ShardId) -> BTreeSet<ShardId> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&ShardId> = steps.get(from).into_iter().flatten().collect();
    while let Some(shard_id) = next.pop() {
        if shard_id != from && found.insert(shard_id.clone()) {
            next.extend(steps.get(shard_id).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(steps: &[(u64, u64)]) -> Lineage {
        let mut lineage = Lineage::default();
        for (parent, child) in steps {
            lineage.add(&ShardId::numbered(*parent), &ShardId::numbered(*child));
        }
        lineage
    }

    fn ids(numbers: &[u64]) -> Vec<ShardId> {
        numbers.iter().map(|number| ShardId::numbered(*number)).collect()
    }

    #[test]
    fn children_come_before_their_parents() {
        // 0 splits into 1 and 2; 2 and 3 merge into 4.
        let lineage = lineage(&[(0, 1), (0, 2), (2, 4), (3, 4)]);
        assert_eq!(lineage.children_first(&ids(&[0, 1, 2, 3, 4])), ids(&[4, 1, 2, 0, 3]));
        assert_eq!(lineage.ancestors(&ShardId::numbered(4)), ids(&[0, 2, 3]).into_iter().collect());
        assert_eq!(lineage.descendants(&ShardId::numbered(0)), ids(&[1, 2, 4]).into_iter().collect());
    }

    #[test]
    fn circle_of_shards_ends() {
        let lineage = lineage(&[(0, 1), (1, 2), (2, 1), (2, 2)]);
        assert_eq!(lineage.descendants(&ShardId::numbered(1)), ids(&[2]).into_iter().collect());
        assert_eq!(lineage.children_first(&ids(&[0, 1, 2])), ids(&[1, 2, 0]));
    }

    #[test]
    fn long_lineage_is_sorted() {
        let steps: Vec<(u64, u64)> = (0..20_000).map(|number| (number, number + 1)).collect();
        let sorted = lineage(&steps).children_first(&ids(&[0, 7, 20_000]));
        assert_eq!(sorted, ids(&[20_000, 7, 0]));
    }
}
