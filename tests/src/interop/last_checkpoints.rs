//! What workers leave that end in order: checkpoints behind everything they delivered.

use std::collections::{BTreeMap, BTreeSet};

use super::deliveries::Delivery;
use super::lease_history::LeaseHistory;
use super::lease_rows::{LeaseRows, Place};
use super::workers::{End, Ended};

/// After everybody was stopped in order, each shard is checkpointed behind its last record: what is not, one line each.
pub fn not_checkpointed(deliveries: &[Delivery], rows: &LeaseRows) -> Vec<String> {
    let mut last: BTreeMap<&str, &Place> = BTreeMap::new();
    for delivery in deliveries {
        let place = last.entry(&delivery.shard).or_insert(&delivery.place);
        *place = (*place).max(&delivery.place);
    }
    let behind = |(shard, place): (&&str, &&Place)| {
        let row = rows.get(*shard).filter(|row| row.checkpoint < **place)?;
        Some(format!("{shard} is delivered up to {place}, but checkpointed only up to {}", row.checkpoint))
    };
    last.iter().filter_map(behind).collect()
}

/// What a worker still delivered of a shard after it was asked to end, it has checkpointed if it ended in order and gave up the
/// lease, whatever happened before: what it has not, one line each. What it delivered earlier may be from a time when it
/// had the lease once before. Of names that several workers had it cannot be said who delivered what, and they are left out.
pub fn released_too_early(
    deliveries: &[Delivery],
    history: &LeaseHistory,
    ended: &[Ended],
    used_again: &BTreeSet<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for end in ended.iter().filter(|end| end.how == End::Stopped && !used_again.contains(&end.name)) {
        for (shard, checkpoint) in history.releases(&end.name, end.at_millis) {
            let is_of_end = |delivery: &&Delivery| {
                delivery.worker == end.name && delivery.shard == shard && delivery.at_millis >= end.at_millis
            };
            let last = deliveries.iter().filter(is_of_end).map(|delivery| &delivery.place).max();
            if let Some(last) = last.filter(|last| **last > checkpoint) {
                faults.push(format!(
                    "{} delivered {shard} up to {last}, but left it at {checkpoint}",
                    end.name
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::lease_rows::LeaseRow;

    const SHARD: &str = "shardId-0";

    fn rows(owner: Option<&str>, counter: u64, checkpoint: &str) -> LeaseRows {
        let row = LeaseRow {
            owner: owner.map(str::to_owned),
            counter,
            checkpoint: Place::new(checkpoint, 0),
            children: BTreeSet::new(),
            parents: BTreeSet::new(),
        };
        LeaseRows::from([(SHARD.to_owned(), row)])
    }

    fn delivery(number: usize, at_millis: u128) -> Delivery {
        let place = Place::new(&number.to_string(), 0);
        Delivery { worker: "rust-1".to_owned(), shard: SHARD.to_owned(), place, number, at_millis }
    }

    #[tokio::test]
    async fn a_release_that_leaves_deliveries_behind_is_found() {
        let readings = [
            (10, rows(Some("rust-1"), 1, "2")),
            (20, rows(Some("rust-1"), 2, "6")),
            (30, rows(None, 2, "6")),
        ];
        let history = LeaseHistory::of(&readings);
        let faults = |last: usize, at_millis, how, used_again: &[&str]| {
            let ended = [Ended { name: "rust-1".to_owned(), how, at_millis: 25 }];
            let used_again = used_again.iter().map(|name| (*name).to_owned()).collect();
            let deliveries = [delivery(3, 12), delivery(last, at_millis)];
            released_too_early(&deliveries, &history, &ended, &used_again).len()
        };
        assert_eq!((faults(6, 26, End::Stopped, &[]), faults(7, 26, End::Stopped, &[])), (0, 1));
        assert_eq!(faults(7, 24, End::Stopped, &[]), 0, "perhaps of an earlier time");
        assert_eq!((faults(7, 26, End::Killed, &[]), faults(7, 26, End::Stopped, &["rust-1"])), (0, 0));
    }

    #[test]
    fn delivery_past_the_last_checkpoint_is_found() {
        let faults = |checkpoint| not_checkpointed(&[delivery(6, 1)], &rows(None, 1, checkpoint)).len();
        assert_eq!((faults("5"), faults("6"), faults("SHARD_END")), (1, 0, 0));
    }
}
