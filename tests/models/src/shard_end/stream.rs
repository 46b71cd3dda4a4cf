//! The stream of the model: its shards, and how a listing shows them.

use std::collections::BTreeSet;

use lease_store::{HashKey, HashKeyRange, ShardId};
use shard_worker::Shard;

/// The reshards of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum History {
    /// One shard, which is split
    Split,
    /// Two shards, which are merged
    Merge,
    /// One shard, which is split; then both halves are merged
    #[default]
    SplitAndMerge,
}

const MIDDLE: u128 = 1 << 127;

impl History {
    /// For each shard its generation, its parents, and its half of the hash keys: all, the lower, or the upper.
    fn table(self) -> &'static [(u8, &'static [u64], Option<bool>)] {
        match self {
            Self::Split => &[(0, &[], None), (1, &[0], Some(false)), (1, &[0], Some(true))],
            Self::Merge => &[(0, &[], Some(false)), (0, &[], Some(true)), (1, &[0, 1], None)],
            Self::SplitAndMerge => {
                &[(0, &[], None), (1, &[0], Some(false)), (1, &[0], Some(true)), (2, &[1, 2], None)]
            }
        }
    }

    /// Returns the last generation; its shards stay open.
    pub fn last_generation(self) -> u8 {
        self.table().iter().map(|(generation, ..)| *generation).max().unwrap_or(0)
    }

    /// Returns the generation of a shard.
    pub fn generation_of(self, shard: usize) -> u8 {
        self.table()[shard].0
    }

    /// Returns the parents of a shard.
    pub fn parents(self, shard: usize) -> impl Iterator<Item = usize> {
        self.table()[shard].1.iter().filter_map(|parent| usize::try_from(*parent).ok())
    }

    /// Returns the children of a shard.
    pub fn children(self, shard: usize) -> impl Iterator<Item = usize> {
        (0..self.table().len()).filter(move |child| self.parents(*child).any(|parent| parent == shard))
    }

    /// Number of shards after all reshards.
    pub fn len(self) -> usize {
        self.table().len()
    }

    /// Always `false`: there is at least one shard.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Lists the shards up to generation `shown`. Shards before generation `newest` are closed.
    pub fn shards(self, shown: u8, newest: u8) -> Vec<Shard> {
        let shown = (0..self.len()).filter(|shard| self.generation_of(*shard) <= shown);
        shown.map(|shard| self.shard(shard, newest)).collect()
    }

    /// Returns one shard.
    pub fn shard(self, shard: usize, newest: u8) -> Shard {
        let parents: BTreeSet<ShardId> = self.parents(shard).map(shard_id).collect();
        let (start, end) = match self.table()[shard].2 {
            None => (HashKey::MIN, HashKey::MAX),
            Some(false) => (HashKey::MIN, HashKey(MIDDLE - 1)),
            Some(true) => (HashKey(MIDDLE), HashKey::MAX),
        };
        Shard::new(shard_id(shard), self.generation_of(shard) < newest)
            .with_parents(parents)
            .with_hash_key_range(HashKeyRange::new(start, end).ok())
    }
}

/// Returns the id of a shard.
pub(super) fn shard_id(shard: usize) -> ShardId {
    ShardId::numbered(u64::try_from(shard).unwrap_or(u64::MAX))
}

/// Returns the number of a shard.
pub(super) fn number_of(shard_id: &ShardId) -> usize {
    (0..8).find(|shard| self::shard_id(*shard) == *shard_id).unwrap_or(8)
}
