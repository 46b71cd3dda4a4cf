//! Which snapshots of a shard can be deleted. Pure.

use crate::snapshot_store::SnapshotName;

/// A snapshot that exists, or may exist because the outcome of its write is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownSnapshot {
    /// The name.
    pub(crate) name: SnapshotName,
    /// Whether the snapshot certainly exists.
    pub(crate) is_certain: bool,
}

/// The snapshots to delete, oldest first: certain ones older than the `keep` newest certain ones, and uncertain ones older
/// than the newest certain one.
pub(crate) fn obsolete(snapshots: &[KnownSnapshot], keep: usize) -> Vec<SnapshotName> {
    let mut certain: Vec<SnapshotName> =
        snapshots.iter().filter(|snapshot| snapshot.is_certain).map(|snapshot| snapshot.name).collect();
    certain.sort_unstable_by(|one, other| other.cmp(one));
    let Some(newest) = certain.first().copied() else { return Vec::new() };
    let oldest_kept = certain.get(keep.max(1) - 1).copied();
    let mut obsolete: Vec<SnapshotName> = snapshots
        .iter()
        .filter(|snapshot| match (snapshot.is_certain, oldest_kept) {
            (true, Some(oldest_kept)) => snapshot.name < oldest_kept,
            (true, None) => false,
            (false, _) => snapshot.name < newest,
        })
        .map(|snapshot| snapshot.name)
        .collect();
    obsolete.sort_unstable();
    obsolete
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_but_the_newest_are_obsolete(
            snapshots in prop::collection::btree_map((0_u64..4, 0_u32..3, 0_u64..6), any::<bool>(), 0..30),
            keep in 1_usize..4,
        ) {
            let snapshots: Vec<KnownSnapshot> = snapshots
                .into_iter()
                .map(|((lease_counter, incarnation, number), is_certain)| KnownSnapshot {
                    name: SnapshotName { lease_counter, incarnation, number },
                    is_certain,
                })
                .collect();
            let deleted = obsolete(&snapshots, keep);
            let certain: Vec<SnapshotName> =
                snapshots.iter().filter(|kept| kept.is_certain).map(|kept| kept.name).collect();
            for (from_newest, name) in certain.iter().rev().enumerate() {
                prop_assert_eq!(deleted.contains(name), from_newest >= keep);
            }
            for uncertain in snapshots.iter().filter(|kept| !kept.is_certain) {
                prop_assert_eq!(deleted.contains(&uncertain.name), certain.last().is_some_and(|newest| uncertain.name < *newest));
            }
        }
    }
}
