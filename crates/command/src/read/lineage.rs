//! Which shards are read when: parents before their children, so that the records of a key keep their order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::ShardId;
use shard_worker::Shard;

/// The shards of a reading.
#[derive(Debug, Default)]
pub(crate) struct ReadOrder {
    parents: BTreeMap<ShardId, BTreeSet<ShardId>>,
    started: BTreeSet<ShardId>,
    ended: BTreeSet<ShardId>,
}

impl ReadOrder {
    /// Adds shards, and returns those that start now.
    pub(crate) fn add(&mut self, shards: &[Shard]) -> Vec<ShardId> {
        for shard in shards {
            self.parents.entry(shard.shard_id.clone()).or_insert_with(|| shard.parents.clone());
        }
        self.startable()
    }

    /// Notes the end of a shard, and returns those that start now.
    pub(crate) fn end(&mut self, shard_id: &ShardId) -> Vec<ShardId> {
        self.ended.insert(shard_id.clone());
        self.startable()
    }

    /// Whether every added shard has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.parents.keys().all(|shard_id| self.ended.contains(shard_id))
    }

    /// Shards that wait for no parent. A parent that was not added is not waited for.
    fn startable(&mut self) -> Vec<ShardId> {
        let waits = |parents: &BTreeSet<ShardId>| {
            parents.iter().any(|parent| self.parents.contains_key(parent) && !self.ended.contains(parent))
        };
        let startable = self.parents.iter().filter(|(shard_id, parents)| {
            !self.started.contains(*shard_id) && !self.ended.contains(*shard_id) && !waits(parents)
        });
        let startable: Vec<ShardId> = startable.map(|(shard_id, _)| shard_id.clone()).collect();
        self.started.extend(startable.iter().cloned());
        startable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ShardId {
        ShardId::new(format!("shardId-{number:012}")).unwrap()
    }

    fn shard(number: u64, parents: &[u64]) -> Shard {
        Shard::new(id(number), false).with_parents(parents.iter().map(|parent| id(*parent)).collect())
    }

    #[test]
    fn children_start_after_all_their_parents() {
        let mut order = ReadOrder::default();
        let merged = [shard(1, &[]), shard(2, &[]), shard(3, &[1, 2])];
        assert_eq!(order.add(&merged), [id(1), id(2)]);
        assert_eq!(order.end(&id(1)), []);
        assert_eq!(order.end(&id(2)), [id(3)]);
        assert!(!order.is_over());
        assert_eq!(order.end(&id(3)), []);
        assert!(order.is_over());
    }

    #[test]
    fn a_parent_that_is_gone_is_not_waited_for() {
        let mut order = ReadOrder::default();
        assert_eq!(order.add(&[shard(5, &[1])]), [id(5)]);
        assert_eq!(order.add(&[shard(5, &[1])]), []);
    }
}
