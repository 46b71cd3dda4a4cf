//! Which leases a worker of the KCL 2.x takes in a scan: pure, for peers in tests that play the KCL.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use lease_store::{Lease, ShardId, WorkerId};
use tokio::time::Instant;

/// The KCL's `epsilonMillis`.
pub const EPSILON: Duration = Duration::from_millis(25);

/// A lease is very old after this many fail-over times.
const VERY_OLD_FAILOVER_TIMES: u32 = 3;

/// The view of one KCL worker of the lease table: the counters it saw last, and since when.
#[derive(Debug)]
pub struct KclLeaseTaker {
    worker_id: WorkerId,
    failover_time: Duration,
    seen: HashMap<ShardId, (u64, Option<Instant>)>,
}

impl KclLeaseTaker {
    /// A worker that has not scanned the table yet.
    pub fn new(worker_id: WorkerId, failover_time: Duration) -> Self {
        Self { worker_id, failover_time, seen: HashMap::new() }
    }

    /// The time between two scans.
    pub fn scan_interval(&self) -> Duration {
        (self.failover_time + EPSILON) * 2
    }

    /// The time between two rounds of renewals.
    pub fn renewal_interval(&self) -> Duration {
        self.failover_time / 3 - EPSILON
    }

    /// Chooses leases to take from the rows of a scan: very old leases first, whatever the share; then available ones up to
    /// the target; then one stolen from the fullest worker.
    pub fn choose(&mut self, rows: &[Lease], rng: &mut Rng) -> Vec<Lease> {
        let now = Instant::now();
        self.observe(rows, now);
        let age = |row: &Lease| {
            let since = self.seen.get(&row.shard_id).and_then(|(_, since)| *since);
            since.map_or(Duration::MAX, |since| now - since)
        };
        let (mut available, taken): (Vec<&Lease>, Vec<&Lease>) =
            rows.iter().partition(|row| row.owner.is_none() || age(row) > self.failover_time);
        let mut loads: BTreeMap<&WorkerId, usize> = BTreeMap::from([(&self.worker_id, 0)]);
        for owner in taken.iter().filter_map(|row| row.owner.as_ref()) {
            *loads.entry(owner).or_default() += 1;
        }
        let (workers, mine) = (loads.len(), loads[&self.worker_id]);
        let target = if workers >= rows.len() { 1 } else { rows.len().div_ceil(workers) };
        rng.shuffle(&mut available);
        let is_very_old = |row: &&Lease| age(row) > self.failover_time * VERY_OLD_FAILOVER_TIMES;
        let very_old: Vec<&Lease> = available.iter().copied().filter(is_very_old).collect();
        let chosen: Vec<&Lease> = if !very_old.is_empty() {
            very_old
        } else if !available.is_empty() {
            available.into_iter().take(target.saturating_sub(mine)).collect()
        } else {
            let fullest = loads.iter().max_by_key(|(_, load)| **load).map(|(worker, load)| (*worker, *load));
            match fullest {
                Some((victim, load)) if mine < target && *victim != self.worker_id && load > target => {
                    let of_victim: Vec<&Lease> =
                        taken.into_iter().filter(|row| row.owner.as_ref() == Some(victim)).collect();
                    rng.choice(of_victim).into_iter().collect()
                }
                _ => Vec::new(),
            }
        };
        chosen.into_iter().cloned().collect()
    }

    /// Records since when each counter has been unchanged. A lease that was never owned has no such time.
    fn observe(&mut self, rows: &[Lease], now: Instant) {
        for row in rows {
            let first = (row.counter, row.owner.as_ref().map(|_| now));
            let entry = self.seen.entry(row.shard_id.clone()).or_insert(first);
            if entry.0 != row.counter {
                *entry = (row.counter, Some(now));
            }
        }
    }
}
