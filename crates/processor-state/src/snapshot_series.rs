//! Which names the snapshots of a new processor get, so that they sort after all stored ones. Pure.

use crate::snapshot_store::SnapshotName;

/// The part of a snapshot's name that all snapshots of one processor share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotSeries {
    pub(crate) lease_counter: u64,
    pub(crate) incarnation: u32,
}

impl SnapshotSeries {
    /// The series after all stored snapshots, for a lease that was taken with this counter.
    ///
    /// The counter is larger than those of the stored snapshots, or equal when the processor was restarted. It is smaller
    /// when the lease table was deleted, or restored from a backup, and its counters are behind. Then the series continues
    /// the largest counter in the store: otherwise the retention would delete the new snapshots as the older ones.
    pub(crate) fn after(stored: &[SnapshotName], lease_counter: u64, next_incarnation: u32) -> Self {
        match stored.iter().max() {
            Some(newest) if newest.lease_counter >= lease_counter => {
                match newest.incarnation.checked_add(1) {
                    Some(after) => {
                        Self { lease_counter: newest.lease_counter, incarnation: after.max(next_incarnation) }
                    }
                    None => Self {
                        lease_counter: newest.lease_counter.saturating_add(1),
                        incarnation: next_incarnation,
                    },
                }
            }
            _ => Self { lease_counter, incarnation: next_incarnation },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot_retention::{KnownSnapshot, obsolete};

    proptest! {
        /// Lives of the table whose counters start anywhere: the newest snapshot is never the one that is deleted.
        #[test]
        fn new_snapshots_sort_after_all_earlier_lives(
            owners in prop::collection::vec((0_u64..50, 1_u32..4, 1_u64..5), 1..20),
            keep in 1_usize..4,
        ) {
            let mut stored: Vec<SnapshotName> = Vec::new();
            for (counter, next_incarnation, writes) in owners {
                let series = SnapshotSeries::after(&stored, counter, next_incarnation);
                for number in 1..=writes {
                    let SnapshotSeries { lease_counter, incarnation } = series;
                    let name = SnapshotName { lease_counter, incarnation, number };
                    prop_assert!(stored.iter().all(|earlier| *earlier < name), "{name} in {stored:?}");
                    prop_assert!(lease_counter >= counter);
                    stored.push(name);
                    let known: Vec<KnownSnapshot> =
                        stored.iter().map(|name| KnownSnapshot { name: *name, is_certain: true }).collect();
                    let deleted = obsolete(&known, keep);
                    prop_assert!(!deleted.contains(&name));
                    stored.retain(|name| !deleted.contains(name));
                }
            }
        }
    }

    #[test]
    fn no_series_follows_the_last_possible_name_of_a_counter() {
        let last = SnapshotName { lease_counter: 7, incarnation: u32::MAX, number: 1 };
        let series = SnapshotSeries::after(&[last], 3, 1);
        assert_eq!(series, SnapshotSeries { lease_counter: 8, incarnation: 1 });
    }
}
