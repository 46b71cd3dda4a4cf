//! Which hash keys no lease covers: records with such keys are read by no worker. Pure.

use lease_store::{HashKey, HashKeyRange, ShardId};

use crate::look::Look;

/// The holes in the hash-key space, in their order. `None`: they cannot be found, because a lease that is not ended has no
/// known range. A table without leases has no holes, since no worker has begun.
pub(crate) fn holes(look: &Look) -> Option<Vec<HashKeyRange>> {
    let (rows, listed) = (look.rows(), look.listed());
    if rows.is_empty() {
        return Some(Vec::new());
    }
    let mut covered = Vec::new();
    for lease in look.leases.iter().filter(|lease| !lease.is_finished()) {
        let of_stream = listed.get(&lease.shard_id).and_then(|shard| shard.hash_key_range);
        match lease.hash_key_range.or(of_stream) {
            Some(range) => covered.push(range),
            // The stream no longer lists the shard: nothing can be read from it any more.
            None if look.shards.is_some() && !listed.contains_key(&lease.shard_id) => {}
            None => return None,
        }
    }
    // A malformed row may be a lease.
    let malformed = look.malformed.iter().filter_map(|row| ShardId::new(row.key.clone()).ok());
    for shard_id in malformed {
        covered.extend(listed.get(&shard_id).and_then(|shard| shard.hash_key_range));
    }
    Some(gaps(covered))
}

/// The gaps between ranges.
fn gaps(mut covered: Vec<HashKeyRange>) -> Vec<HashKeyRange> {
    covered.sort();
    let mut gaps = Vec::new();
    // `None`: everything is covered.
    let mut next = Some(HashKey::MIN);
    for range in covered {
        let Some(from) = next else { break };
        if range.start() > from
            && let Ok(gap) = HashKeyRange::new(from, HashKey(range.start().0 - 1))
        {
            gaps.push(gap);
        }
        if range.end() >= from {
            next = range.end().0.checked_add(1).map(HashKey);
        }
    }
    gaps.extend(next.and_then(|from| HashKeyRange::new(from, HashKey::MAX).ok()));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u128, end: u128) -> HashKeyRange {
        HashKeyRange::new(HashKey(start), HashKey(end)).unwrap()
    }

    #[test]
    fn gaps_are_found_between_and_after_ranges() {
        assert_eq!(gaps(vec![HashKeyRange::FULL]), vec![]);
        assert_eq!(gaps(vec![]), vec![HashKeyRange::FULL]);
        let covered = vec![range(50, u128::MAX), range(0, 9), range(5, 19), range(30, 39)];
        assert_eq!(gaps(covered), vec![range(20, 29), range(40, 49)]);
        assert_eq!(gaps(vec![range(0, 9), range(2, 3)]), vec![range(10, u128::MAX)]);
    }
}
