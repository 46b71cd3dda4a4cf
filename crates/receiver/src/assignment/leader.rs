//! Which worker lists the shards for the fleet: the leader that KCL 2.x workers elect.

use lease_store::{Lease, WorkerId};

/// The seed of the KCL's shuffle (`DeterministicShuffleShardSyncLeaderDecider`).
const KCL_SHUFFLE_SEED: i64 = 1947;

/// The leader as every KCL 2.x worker computes it: it sorts all owners in the table as Java sorts strings, shuffles them
/// with a fixed seed, and takes the first. `None`: no lease has an owner, and every worker may lead.
///
/// Only the leader lists the shards periodically. Correctness does not depend on a single leader: its work is safe to do
/// twice, and if it does nothing other workers detect the hole.
pub(crate) fn kcl_leader<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> Option<&'a WorkerId> {
    let mut owners: Vec<&WorkerId> = leases.into_iter().filter_map(|lease| lease.owner.as_ref()).collect();
    owners.sort_by(|one, other| one.as_str().encode_utf16().cmp(other.as_str().encode_utf16()));
    owners.dedup();
    shuffle(&mut owners);
    owners.first().copied()
}

/// `java.util.Collections.shuffle`.
fn shuffle<T>(values: &mut [T]) {
    let mut random = JavaRandom::new(KCL_SHUFFLE_SEED);
    for index in (1..values.len()).rev() {
        let bound = u32::try_from(index + 1).unwrap_or(u32::MAX >> 1);
        let other = random.next_below(bound);
        values.swap(index, usize::try_from(other).unwrap_or(index));
    }
}

/// `java.util.Random`: a linear congruential generator of 48 bits.
#[derive(Debug)]
struct JavaRandom {
    state: u64,
}

impl JavaRandom {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const INCREMENT: u64 = 0xB;
    const MASK: u64 = (1 << 48) - 1;

    fn new(seed: i64) -> Self {
        Self { state: (seed.cast_unsigned() ^ Self::MULTIPLIER) & Self::MASK }
    }

    /// 31 random bits.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(Self::INCREMENT) & Self::MASK;
        self.state >> (48 - 31)
    }

    /// A number below `bound`, which is above 0 and below 2^31.
    fn next_below(&mut self, bound: u32) -> u64 {
        let bound = u64::from(bound);
        if bound.is_power_of_two() {
            return (bound * self.next()) >> 31;
        }
        loop {
            let bits = self.next();
            let value = bits % bound;
            // Java draws again when `bits - value + bound - 1` overflows to a negative number: such bits lie in the last,
            // incomplete multiple of the bound and would favour small numbers.
            if bits - value + (bound - 1) < 1 << 31 {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lease_store::{Position, ShardId};

    use super::*;

    fn shuffled(count: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..count).collect();
        shuffle(&mut indices);
        indices
    }

    /// The expected values come from a JVM.
    #[test]
    fn the_shuffle_agrees_with_java() {
        let leaders = [
            (1, 0),
            (2, 0),
            (3, 2),
            (4, 3),
            (5, 4),
            (6, 2),
            (7, 2),
            (8, 2),
            (9, 3),
            (10, 8),
            (16, 11),
            (32, 19),
        ];
        for (count, leader) in leaders {
            assert_eq!(shuffled(count)[0], leader, "of {count}");
        }
        assert_eq!(shuffled(5), [4, 0, 2, 1, 3]);
        assert_eq!(shuffled(8), [2, 3, 0, 6, 4, 7, 1, 5]);
        assert_eq!(shuffled(10), [8, 5, 1, 6, 9, 4, 2, 0, 7, 3]);
    }

    fn owned(number: u64, owner: Option<&'static str>) -> Lease {
        let mut lease = Lease::unowned(ShardId::numbered(number), Position::TrimHorizon);
        lease.owner = owner.map(|owner| WorkerId::new(owner).unwrap());
        lease
    }

    #[test]
    fn the_leader_is_chosen_from_the_distinct_owners() {
        assert_eq!(kcl_leader(&[owned(0, None)]), None);
        let leases = [owned(0, Some("b")), owned(1, Some("a")), owned(2, Some("b")), owned(3, None)];
        assert_eq!(kcl_leader(&leases).unwrap().as_str(), "a", "index 0 of two");
        // U+FF61 sorts before U+1F600 by code point, and behind it by UTF-16 code unit, as Java compares.
        let leases = [owned(0, Some("\u{FF61}")), owned(1, Some("\u{1F600}"))];
        assert_eq!(kcl_leader(&leases).unwrap().as_str(), "\u{1F600}");
    }

    #[test]
    fn a_shuffle_keeps_all_values() {
        for count in 0..200 {
            assert_eq!(shuffled(count).into_iter().collect::<BTreeSet<_>>(), (0..count).collect());
        }
    }
}
