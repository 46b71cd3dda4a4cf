//! Which snapshot to begin with, and what of a shard's state goes to which of its children. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{HashKey, HashKeyRange, Position, ShardId};
use shard_worker::hash_key_of;

use super::keyed::KeyedState;
use super::snapshot::{Snapshot, SnapshotHeader};

/// How many shards a snapshot names that its state came from: the newest ones. Older ones have no snapshots any more
/// unless one of their children was never begun.
pub const MAX_ANCESTORS: usize = 64;

/// Whether a state up to `covers` can go on where the lease says. A lease without a record is content with any.
pub fn is_enough(covers: &Position, lease: &Position) -> bool {
    match lease {
        Position::AtTimestamp | Position::TrimHorizon | Position::Latest => true,
        Position::After(_) | Position::ShardEnd => covers >= lease,
    }
}

/// The hash key by which an entry of a shard finds its place among the shard's children: the digest of its key, which for
/// a partition key is where its records go. The digest of any other key may lie outside the shard; it is folded into the
/// shard's range, so that each entry goes to exactly one child.
pub fn place_of(key: &str, range: HashKeyRange) -> HashKey {
    let digest = hash_key_of(key);
    if range.contains(digest) {
        return digest;
    }
    // Not the full range, which holds every digest; so the length fits.
    let length = range.end().0 - range.start().0 + 1;
    HashKey(range.start().0 + digest.0 % length)
}

/// Whether an entry of a shard belongs to what another shard covers.
pub fn belongs_to(key: &str, shard: HashKeyRange, other: HashKeyRange) -> bool {
    other.contains(place_of(key, shard))
}

/// The state that a shard begins with: what belongs to it of the states of its parents.
pub fn inherit<S>(
    range: HashKeyRange,
    parents: Vec<Snapshot<S>>,
    mut merge: impl FnMut(&str, S, S) -> S,
) -> (KeyedState<S>, BTreeSet<ShardId>) {
    let mut inherited = KeyedState::default();
    let mut ancestors = BTreeSet::new();
    for Snapshot { header, state } in parents {
        inherited.advance_watermark(state.watermark);
        for (key, value) in state.entries {
            if belongs_to(&key, header.hash_key_range, range) {
                inherited.absorb(key, value, &mut merge);
            }
        }
        ancestors.extend(header.ancestors);
        ancestors.insert(header.shard_id);
    }
    while ancestors.len() > MAX_ANCESTORS {
        ancestors.pop_first();
    }
    (inherited, ancestors)
}

/// Whether the ranges together cover all of a range.
pub fn cover(whole: HashKeyRange, parts: impl IntoIterator<Item = HashKeyRange>) -> bool {
    let mut parts: Vec<HashKeyRange> = parts.into_iter().collect();
    parts.sort_unstable();
    let mut next = whole.start();
    for part in parts {
        if part.start() > next {
            return false;
        }
        if part.end() >= whole.end() {
            return true;
        }
        next = next.max(HashKey(part.end().0 + 1));
    }
    false
}

/// Puts the states of all shards together, each entry once: an entry of a shard that a descendant has taken over is only
/// counted there.
pub fn unite<S>(
    snapshots: Vec<Snapshot<S>>,
    mut merge: impl FnMut(&str, S, S) -> S,
) -> (KeyedState<S>, Vec<SnapshotHeader>) {
    let mut heirs: BTreeMap<ShardId, Vec<HashKeyRange>> = BTreeMap::new();
    for Snapshot { header, .. } in &snapshots {
        for ancestor in &header.ancestors {
            heirs.entry(ancestor.clone()).or_default().push(header.hash_key_range);
        }
    }
    let mut united = KeyedState::default();
    let mut headers = Vec::new();
    for Snapshot { header, state } in snapshots {
        united.advance_watermark(state.watermark);
        let heirs = heirs.get(&header.shard_id).map(Vec::as_slice).unwrap_or_default();
        for (key, value) in state.entries {
            if !heirs.iter().any(|heir| belongs_to(&key, header.hash_key_range, *heir)) {
                united.absorb(key, value, &mut merge);
            }
        }
        headers.push(header);
    }
    (united, headers)
}
