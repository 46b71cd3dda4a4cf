//! Which snapshots of a shard can go. Pure.

use super::store::SnapshotName;

/// A snapshot that is there, or may be: the answer to its write was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Whether it is certainly there.
    pub is_certain: bool,
}

/// The snapshots that nobody needs any more: all older than the `keep` newest that are certainly there, and the uncertain
/// ones older than the newest of these. Oldest first.
pub fn superfluous(snapshots: &[KeptSnapshot], keep: usize) -> Vec<SnapshotName> {
    let mut certain: Vec<SnapshotName> =
        snapshots.iter().filter(|snapshot| snapshot.is_certain).map(|snapshot| snapshot.name).collect();
    certain.sort_unstable_by(|one, other| other.cmp(one));
    let Some(newest) = certain.first().copied() else { return Vec::new() };
    let oldest_kept = certain.get(keep.max(1) - 1).copied();
    let mut superfluous: Vec<SnapshotName> = snapshots
        .iter()
        .filter(|snapshot| match (snapshot.is_certain, oldest_kept) {
            (true, Some(oldest_kept)) => snapshot.name < oldest_kept,
            (true, None) => false,
            (false, _) => snapshot.name < newest,
        })
        .map(|snapshot| snapshot.name)
        .collect();
    superfluous.sort_unstable();
    superfluous
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_stay_and_all_else_goes(
            snapshots in prop::collection::btree_map((0_u64..4, 0_u32..3, 0_u64..6), any::<bool>(), 0..30),
            keep in 1_usize..4,
        ) {
            let snapshots: Vec<KeptSnapshot> = snapshots
                .into_iter()
                .map(|((lease_counter, incarnation, number), is_certain)| KeptSnapshot {
                    name: SnapshotName { lease_counter, incarnation, number },
                    is_certain,
                })
                .collect();
            let gone = superfluous(&snapshots, keep);
            let certain: Vec<SnapshotName> =
                snapshots.iter().filter(|kept| kept.is_certain).map(|kept| kept.name).collect();
            for (from_newest, name) in certain.iter().rev().enumerate() {
                prop_assert_eq!(gone.contains(name), from_newest >= keep);
            }
            for uncertain in snapshots.iter().filter(|kept| !kept.is_certain) {
                prop_assert_eq!(gone.contains(&uncertain.name), certain.last().is_some_and(|newest| uncertain.name < *newest));
            }
        }
    }
}
