//! The state that children inherit from their parents, and the totals over all shards. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{HashKey, HashKeyRange, Position, ShardId};
use shard_worker::hash_key_of;

use crate::keyed_state::KeyedState;
use crate::snapshot::{Snapshot, SnapshotHeader};

/// A snapshot names at most this many ancestors of its shard, the newest ones. Older ancestors have no snapshots any more,
/// unless one of their children never started.
pub const MAX_ANCESTORS: usize = 64;

/// Whether a state up to `covers` reaches the position of the lease. A lease that names no record accepts every state.
pub fn reaches_lease(covers: &Position, lease: &Position) -> bool {
    match lease {
        Position::AtTimestamp | Position::TrimHorizon | Position::Latest => true,
        Position::After(_) | Position::ShardEnd => covers >= lease,
    }
}

/// The hash key that assigns an entry of a shard to one of the shard's children: the MD5 digest of its key. A partition key
/// thus goes to the same child as its records. The digest of another key may lie outside the shard; it is folded into the
/// shard's range, so that exactly one child inherits each entry.
pub fn entry_hash_key(key: &str, range: HashKeyRange) -> HashKey {
    let digest = hash_key_of(key);
    if range.contains(digest) {
        return digest;
    }
    // The full range contains every digest, so this range is smaller and its length does not overflow.
    let length = range.end().0 - range.start().0 + 1;
    HashKey(range.start().0 + digest.0 % length)
}

/// Whether an entry of a shard lies in the range of another shard.
pub(crate) fn belongs_to(key: &str, shard: HashKeyRange, other: HashKeyRange) -> bool {
    other.contains(entry_hash_key(key, shard))
}

/// The state that a shard inherits from its parents: their entries in its range. Also returns its ancestors.
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

/// Whether `parts` together cover all of `whole`.
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

/// Combines the states of all shards, each entry once: an entry that a descendant inherited counts only there.
pub fn combine<S>(
    snapshots: Vec<Snapshot<S>>,
    mut merge: impl FnMut(&str, S, S) -> S,
) -> (KeyedState<S>, Vec<SnapshotHeader>) {
    let mut inheritors: BTreeMap<ShardId, Vec<HashKeyRange>> = BTreeMap::new();
    for Snapshot { header, .. } in &snapshots {
        for ancestor in &header.ancestors {
            inheritors.entry(ancestor.clone()).or_default().push(header.hash_key_range);
        }
    }
    let mut combined = KeyedState::default();
    let mut headers = Vec::new();
    for Snapshot { header, state } in snapshots {
        combined.advance_watermark(state.watermark);
        let inheritors = inheritors.get(&header.shard_id).map(Vec::as_slice).unwrap_or_default();
        for (key, value) in state.entries {
            if !inheritors.iter().any(|range| belongs_to(&key, header.hash_key_range, *range)) {
                combined.absorb(key, value, &mut merge);
            }
        }
        headers.push(header);
    }
    (combined, headers)
}
