//! Checks on workers that ended in order: they have checkpointed everything that they delivered.

use std::collections::{BTreeMap, BTreeSet};

use super::deliveries::Delivery;
use super::lease_history::LeaseHistory;
use super::lease_rows::{KclPosition, LeaseRows};
use super::workers::{End, Ended};

/// After all workers were stopped in order, each shard is checkpointed at its last record. Returns a line for each shard
/// that is not.
pub fn not_checkpointed(deliveries: &[Delivery], rows: &LeaseRows) -> Vec<String> {
    let mut last: BTreeMap<&str, &KclPosition> = BTreeMap::new();
    for delivery in deliveries {
        let position = last.entry(&delivery.shard).or_insert(&delivery.position);
        *position = (*position).max(&delivery.position);
    }
    let behind = |(shard, position): (&&str, &&KclPosition)| {
        let row = rows.get(*shard).filter(|row| row.checkpoint < **position)?;
        Some(format!(
            "{shard} was delivered up to {position}, but checkpointed only up to {}",
            row.checkpoint
        ))
    };
    last.iter().filter_map(behind).collect()
}

/// A worker that ended in order and released a lease has checkpointed everything that it delivered of the shard after it was
/// asked to end. Returns a line for each shard where it has not.
///
/// Earlier deliveries may be from an earlier time as the owner, so they do not count. Names that several workers had are
/// left out, since their deliveries cannot be distinguished.
pub fn released_too_early(
    deliveries: &[Delivery],
    history: &LeaseHistory,
    ended: &[Ended],
    reused_names: &BTreeSet<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for end in ended.iter().filter(|end| end.how == End::Stopped && !reused_names.contains(&end.name)) {
        for (shard, checkpoint) in history.releases(&end.name, end.at_millis) {
            let is_of_end = |delivery: &&Delivery| {
                delivery.worker == end.name && delivery.shard == shard && delivery.at_millis >= end.at_millis
            };
            let last = deliveries.iter().filter(is_of_end).map(|delivery| &delivery.position).max();
            if let Some(last) = last.filter(|last| **last > checkpoint) {
                faults.push(format!(
                    "{} delivered {shard} up to {last}, but released it at checkpoint {checkpoint}",
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
            checkpoint: KclPosition::new(checkpoint, 0),
            children: BTreeSet::new(),
            parents: BTreeSet::new(),
        };
        LeaseRows::from([(SHARD.to_owned(), row)])
    }

    fn delivery(number: usize, at_millis: u128) -> Delivery {
        let position = KclPosition::new(&number.to_string(), 0);
        Delivery { worker: "rust-1".to_owned(), shard: SHARD.to_owned(), position, number, at_millis }
    }

    #[tokio::test]
    async fn a_release_that_leaves_deliveries_behind_is_found() {
        let readings = [
            (10, rows(Some("rust-1"), 1, "2")),
            (20, rows(Some("rust-1"), 2, "6")),
            (30, rows(None, 2, "6")),
        ];
        let history = LeaseHistory::of(&readings);
        let faults = |last: usize, at_millis, how, reused_names: &[&str]| {
            let ended = [Ended { name: "rust-1".to_owned(), how, at_millis: 25 }];
            let reused_names = reused_names.iter().map(|name| (*name).to_owned()).collect();
            let deliveries = [delivery(3, 12), delivery(last, at_millis)];
            released_too_early(&deliveries, &history, &ended, &reused_names).len()
        };
        assert_eq!((faults(6, 26, End::Stopped, &[]), faults(7, 26, End::Stopped, &[])), (0, 1));
        assert_eq!(faults(7, 24, End::Stopped, &[]), 0, "perhaps from an earlier ownership");
        assert_eq!((faults(7, 26, End::Killed, &[]), faults(7, 26, End::Stopped, &["rust-1"])), (0, 0));
    }

    #[test]
    fn delivery_past_the_last_checkpoint_is_found() {
        let faults = |checkpoint| not_checkpointed(&[delivery(6, 1)], &rows(None, 1, checkpoint)).len();
        assert_eq!((faults("5"), faults("6"), faults("SHARD_END")), (1, 0, 0));
    }
}
