//! Whether the leases cover the hash-key space: a pure function of the table.

use lease_store::{HashKey, HashKeyRange, Lease};

/// Whether the leases of shards not read to their end cover the hash-key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Every hash key belongs to a lease.
    Complete,
    /// No lease covers these hash keys: a lease is missing, and no worker will read records with these keys.
    Hole(HashKeyRange),
    /// A lease has no hash-key range, as in rows of old KCL versions.
    Unknown,
}

/// Finds the first hole.
///
/// The leases of a shard's children exist before the shard is marked as read to its end. So the ranges of all unfinished
/// leases cover the whole space at all times, and parents and children overlap for a while. The KCL's auditor makes the
/// same check every two minutes, and acts when it has seen the same hole three times.
pub fn coverage(leases: &[Lease]) -> Coverage {
    let mut ranges = Vec::with_capacity(leases.len());
    for lease in leases.iter().filter(|lease| !lease.is_finished()) {
        match lease.hash_key_range {
            Some(range) => ranges.push(range),
            None => return Coverage::Unknown,
        }
    }
    ranges.sort_unstable();
    // The first key not covered so far. `None`: all keys are covered.
    let mut uncovered = Some(HashKey::MIN);
    for range in ranges {
        let Some(first) = uncovered else { break };
        if range.start() > first {
            return hole(first, HashKey(range.start().0 - 1));
        }
        if range.end() >= first {
            uncovered = range.end().0.checked_add(1).map(HashKey);
        }
    }
    match uncovered {
        Some(first) => hole(first, HashKey::MAX),
        None => Coverage::Complete,
    }
}

fn hole(first: HashKey, last: HashKey) -> Coverage {
    // The first key is never greater than the last one here.
    HashKeyRange::new(first, last).map_or(Coverage::Unknown, Coverage::Hole)
}

#[cfg(test)]
mod tests {
    use lease_store::{Position, ShardId};
    use proptest::prelude::*;

    use super::*;

    fn range(start: u128, end: u128) -> HashKeyRange {
        HashKeyRange::new(HashKey(start), HashKey(end)).unwrap()
    }

    fn lease(number: u64, range: Option<HashKeyRange>) -> Lease {
        let mut lease = Lease::unowned(ShardId::numbered(number), Position::TrimHorizon);
        lease.hash_key_range = range;
        lease
    }

    fn leases(ranges: &[(u128, u128)]) -> Vec<Lease> {
        ranges
            .iter()
            .zip(0..)
            .map(|((start, end), number)| lease(number, Some(range(*start, *end))))
            .collect()
    }

    const MAX: u128 = u128::MAX;

    #[test]
    fn the_first_hole_is_found() {
        for (ranges, expected) in [
            (vec![], Coverage::Hole(HashKeyRange::FULL)),
            (vec![(0, MAX)], Coverage::Complete),
            (vec![(6, MAX), (0, 5)], Coverage::Complete),
            (vec![(0, 5), (0, MAX), (3, 4)], Coverage::Complete),
            (vec![(0, 5), (7, MAX)], Coverage::Hole(range(6, 6))),
            (vec![(1, MAX)], Coverage::Hole(range(0, 0))),
            (vec![(0, MAX - 1)], Coverage::Hole(range(MAX, MAX))),
            (vec![(0, 9), (2, 3), (12, 20), (30, MAX)], Coverage::Hole(range(10, 11))),
        ] {
            assert_eq!(coverage(&leases(&ranges)), expected, "{ranges:?}");
        }
    }

    #[test]
    fn finished_leases_cover_nothing_and_a_missing_range_is_unknown() {
        let mut all = leases(&[(0, 5), (6, MAX)]);
        all[1].checkpoint = Position::ShardEnd;
        assert_eq!(coverage(&all), Coverage::Hole(range(6, MAX)));
        all.push(lease(9, None));
        assert_eq!(coverage(&all), Coverage::Unknown);
        all[2].checkpoint = Position::ShardEnd;
        assert_eq!(coverage(&all), Coverage::Hole(range(6, MAX)), "a finished row needs no range");
    }

    proptest! {
        /// The space is cut anywhere and one piece is removed: that piece is the hole.
        #[test]
        fn a_missing_piece_is_the_hole(
            cuts in prop::collection::btree_set(1..MAX, 1..20),
            missing in any::<prop::sample::Index>(),
        ) {
            let starts: Vec<u128> = std::iter::once(0).chain(cuts.iter().copied()).collect();
            let ends: Vec<u128> = cuts.iter().map(|cut| cut - 1).chain([MAX]).collect();
            let pieces: Vec<(u128, u128)> = starts.into_iter().zip(ends).collect();
            prop_assert_eq!(coverage(&leases(&pieces)), Coverage::Complete);
            let missing = missing.index(pieces.len());
            let (start, end) = pieces[missing];
            let mut rest = leases(&pieces);
            rest.remove(missing);
            prop_assert_eq!(coverage(&rest), Coverage::Hole(range(start, end)));
        }
    }
}
