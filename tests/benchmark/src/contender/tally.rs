//! Counts the records that a contender has read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::sync::Notify;

/// Most latencies that are kept.
const MAX_LATENCIES: usize = 1 << 20;

/// The counts over all shards.
#[derive(Debug)]
pub(super) struct Tally {
    expected: u64,
    records: AtomicU64,
    bytes: AtomicU64,
    shards_to_come: AtomicU64,
    is_warm: Notify,
    is_done: Notify,
    keeps_latencies: AtomicBool,
    latencies: Mutex<Vec<u64>>,
}

impl Tally {
    pub(super) fn new(shards: u64, expected: u64) -> Self {
        Self {
            expected,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            shards_to_come: AtomicU64::new(shards),
            is_warm: Notify::new(),
            is_done: Notify::new(),
            keeps_latencies: AtomicBool::new(false),
            latencies: Mutex::default(),
        }
    }

    /// Adds records; `is_first` marks the first ones of their shard.
    pub(super) fn add(&self, is_first: bool, records: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let total = self.records.fetch_add(records, Ordering::Relaxed) + records;
        if is_first && self.shards_to_come.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.is_warm.notify_one();
        }
        if total >= self.expected && self.expected > 0 {
            self.is_done.notify_one();
        }
    }

    /// Records the latency of these records since their put. The server runs on this machine and uses the same clock.
    #[allow(clippy::disallowed_methods)] // a latency is the difference of two times of day
    pub(super) fn arrived(&self, put_at: impl Iterator<Item = Option<SystemTime>>) {
        if !self.keeps_latencies.load(Ordering::Relaxed) {
            return;
        }
        let now = SystemTime::now();
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for put_at in put_at.flatten() {
            if latencies.len() < MAX_LATENCIES {
                let millis = now.duration_since(put_at).unwrap_or_default().as_millis();
                latencies.push(u64::try_from(millis).unwrap_or(u64::MAX));
            }
        }
    }

    pub(super) fn begin_latencies(&self) {
        self.keeps_latencies.store(true, Ordering::Relaxed);
    }

    pub(super) fn latencies(&self) -> Value {
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.sort_unstable();
        let at =
            |percent: usize| latencies.get((latencies.len() * percent / 100).min(latencies.len().max(1) - 1));
        json!({ "count": latencies.len(), "p50": at(50), "p99": at(99), "max": latencies.last() })
    }

    pub(super) fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until every shard has returned records.
    pub(super) async fn warm(&self) {
        self.is_warm.notified().await;
    }

    /// Waits until all records are read.
    pub(super) async fn done(&self) {
        self.is_done.notified().await;
    }
}
