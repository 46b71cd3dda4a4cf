//! Checks that a worker delivers no more than it may after another worker has taken its lease.

use std::collections::HashMap;

use super::deliveries::Delivery;
use super::lease_history::LeaseHistory;

/// The batches that a worker may still deliver of a shard whose lease it has lost: the one in progress and a prefetched one.
/// The check counts batches, not time: a process may be stalled between two of them.
const MAX_BATCHES_AFTER_LOSS: usize = 2;

/// Workers that deliver more of a shard than they may after they lost its lease, one line for each.
pub fn deliveries_after_loss(deliveries: &[Delivery], history: &LeaseHistory) -> Vec<String> {
    // By worker and shard: the batches since it last was the owner. All records of a batch are delivered at the same time.
    let mut after_loss: HashMap<(&str, &str), Vec<u128>> = HashMap::new();
    let mut faults = Vec::new();
    for Delivery { worker, shard, at_millis, .. } in deliveries {
        let batches = after_loss.entry((worker, shard)).or_default();
        if !history.was_not_owner_at(worker, shard, *at_millis) {
            batches.clear();
        } else if batches.last() != Some(at_millis) {
            batches.push(*at_millis);
            if batches.len() == MAX_BATCHES_AFTER_LOSS + 1 {
                faults.push(format!(
                    "{worker} still delivers {shard} after it lost the lease: batches at {batches:?}"
                ));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::interop::lease_rows::{KclPosition, LeaseRow, LeaseRows};

    fn rows(owner: &str, counter: u64) -> LeaseRows {
        let row = LeaseRow {
            owner: Some(owner.to_owned()),
            counter,
            checkpoint: KclPosition::new("1", 0),
            children: BTreeSet::new(),
            parents: BTreeSet::new(),
        };
        LeaseRows::from([("s".to_owned(), row)])
    }

    #[tokio::test]
    async fn batch_in_progress_may_arrive_after_a_loss_and_no_more() {
        let readings: Vec<(u128, LeaseRows)> =
            (0..10).map(|tenth| (tenth * 100, if tenth < 2 { rows("a", 1) } else { rows("b", 2) })).collect();
        let history = LeaseHistory::of(&readings);
        let faults = |times: &[u128]| {
            let batch = |at_millis: &u128| {
                let delivery = |number: usize| Delivery {
                    worker: "a".to_owned(),
                    shard: "s".to_owned(),
                    position: KclPosition::new(&number.to_string(), 0),
                    number,
                    at_millis: *at_millis,
                };
                [delivery(1), delivery(2)]
            };
            deliveries_after_loss(&times.iter().flat_map(batch).collect::<Vec<_>>(), &history).len()
        };
        assert_eq!(faults(&[10, 20, 30, 40, 50, 210, 310]), 0);
        assert_eq!(faults(&[50, 210, 310, 410, 510]), 1);
    }
}
