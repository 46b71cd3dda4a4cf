//! A journal of every delivery, in order. The promises are checked against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease_store::{Position, ShardId};
use shard_worker::{RecordBatch, ShardContext};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// One delivery of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The worker that delivered it.
    pub worker_id: String,
    /// The shard that it was read from.
    pub shard_id: ShardId,
    /// The position after it.
    pub position: Position,
    /// Its payload as text.
    pub text: String,
    /// When it was delivered.
    pub at: Instant,
}

/// Records deliveries. Clones share them.
#[derive(Debug, Clone)]
pub struct Journal {
    deliveries: Arc<Mutex<Vec<JournalEntry>>>,
    count: watch::Sender<usize>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { deliveries: Arc::default(), count: watch::channel(0).0 }
    }
}

impl Journal {
    /// Records the delivery of a batch.
    pub fn record(&self, shard: &ShardContext, batch: &RecordBatch) {
        let at = Instant::now();
        let mut deliveries = self.deliveries();
        deliveries.extend(batch.iter().map(|record| JournalEntry {
            worker_id: shard.worker_id.to_string(),
            shard_id: shard.shard_id.clone(),
            position: record.position(),
            text: String::from_utf8_lossy(&record.data).into_owned(),
            at,
        }));
        self.count.send_replace(deliveries.len());
    }

    /// The number of deliveries so far.
    pub fn count(&self) -> usize {
        self.deliveries().len()
    }

    /// All deliveries so far, in order.
    pub fn all(&self) -> Vec<JournalEntry> {
        self.deliveries().clone()
    }

    /// The number of deliveries of each text.
    pub fn times(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for delivered in self.deliveries().iter() {
            *times.entry(delivered.text.clone()).or_default() += 1;
        }
        times
    }

    /// Waits until this many different texts were delivered.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn wait_for(&self, texts: usize, limit: Duration) {
        let mut count = self.count.subscribe();
        let complete = count.wait_for(|count| *count >= texts && self.times().len() >= texts);
        let is_complete = timeout(limit, complete).await.is_ok();
        assert!(is_complete, "after {limit:?} only {} of {texts} records were delivered", self.times().len());
    }

    /// Checks the order within a shard: first deliveries of its records ascend, and the records of a repeat follow in order.
    ///
    /// # Panics
    /// When a delivery breaks it.
    pub fn check_order(&self) {
        let mut newest: HashMap<ShardId, Position> = HashMap::new();
        let mut previous: HashMap<(ShardId, String), Position> = HashMap::new();
        for delivered in self.all() {
            let by_worker = (delivered.shard_id.clone(), delivered.worker_id.clone());
            if let Some(last) = newest.get(&delivered.shard_id) {
                let is_first_delivery = delivered.position > *last;
                let repeats_in_order =
                    previous.get(&by_worker).is_none_or(|previous| *previous <= delivered.position);
                assert!(is_first_delivery || repeats_in_order, "out of order: {delivered:?} after {last}");
            }
            let last = newest.entry(delivered.shard_id).or_insert(Position::TrimHorizon);
            *last = delivered.position.clone().max(last.clone());
            previous.insert(by_worker, delivered.position);
        }
    }

    /// Checks that parents come before children: no record of a child is delivered before every record of its parents was
    /// delivered once.
    ///
    /// # Panics
    /// When a delivery breaks it.
    pub fn check_parents_first(&self, parents: &BTreeMap<ShardId, BTreeSet<ShardId>>) {
        let deliveries = self.all();
        let mut seen = BTreeSet::new();
        let mut last_of: HashMap<&ShardId, usize> = HashMap::new();
        for (index, delivered) in deliveries.iter().enumerate() {
            if seen.insert(&delivered.text) {
                last_of.insert(&delivered.shard_id, index);
            }
        }
        for (child, child_parents) in parents {
            let first = deliveries.iter().position(|delivered| delivered.shard_id == *child);
            for parent in child_parents {
                if let (Some(first), Some(last)) = (first, last_of.get(parent)) {
                    assert!(first > *last, "{child} was delivered before its parent {parent} was finished");
                }
            }
        }
    }

    fn deliveries(&self) -> MutexGuard<'_, Vec<JournalEntry>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
