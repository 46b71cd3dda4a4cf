//! A fleet member that plays by the rules of the KCL 2.x, for tests in virtual time: it scans and steals, renews by
//! counter alone, knows nothing of requests, keeps attributes that it does not know, and releases nothing when it ends.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kinesis_streaming::lease_store::{Consistency, FencingToken, Lease, LeaseWrite, WorkerId};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{ReadFrom, Shard};
use test_support::Journal;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

/// What the KCL calls `epsilonMillis`.
const EPSILON: Duration = Duration::from_millis(25);

/// How often a shard whose parents are not read to their end looks again (KCL: `parentShardPollIntervalMillis`).
const PARENT_POLL: Duration = Duration::from_secs(10);

/// A running KCL 2.x worker. Dropping it is what the end of its process is.
#[derive(Debug)]
pub struct KclPeer {
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for KclPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct State {
    worker_id: WorkerId,
    failover_time: Duration,
    stream: InMemoryStream,
    table: InMemoryLeaseStore,
    journal: Journal,
    /// The leases it believes to hold, with the counters it wrote last.
    held: Mutex<HashMap<ShardId, u64>>,
}

impl KclPeer {
    /// Starts a worker.
    ///
    /// # Panics
    /// When the name is empty.
    pub fn start(
        name: &str,
        failover_time: Duration,
        stream: &InMemoryStream,
        table: &InMemoryLeaseStore,
        journal: &Journal,
    ) -> Self {
        let state = Arc::new(State {
            worker_id: WorkerId::new(name.to_owned()).unwrap(),
            failover_time,
            stream: stream.clone(),
            table: table.clone(),
            journal: journal.clone(),
            held: Mutex::default(),
        });
        let seed = name.bytes().map(u64::from).sum();
        let task = tokio::spawn(state.clone().run(Rng::with_seed(seed)));
        Self { state, task }
    }

    /// The shards it believes to hold.
    ///
    /// # Panics
    /// Never, unless a thread that holds the lock has panicked.
    pub fn held(&self) -> Vec<ShardId> {
        self.state.held.lock().unwrap().keys().cloned().collect()
    }
}

impl State {
    async fn run(self: Arc<Self>, mut rng: Rng) {
        let mut renewals = interval(self.failover_time / 3 - EPSILON);
        let mut takes = interval((self.failover_time + EPSILON) * 2);
        let mut seen = HashMap::new();
        let mut consumers = JoinSet::new();
        let mut lost = HashMap::new();
        loop {
            tokio::select! {
                _ = renewals.tick() => self.renew_all(&mut lost).await,
                _ = takes.tick() => {
                    for shard_id in self.take_some(&mut seen, &mut rng).await {
                        let token = CancellationToken::new();
                        lost.insert(shard_id.clone(), token.clone());
                        let state = self.clone();
                        consumers.spawn(async move {
                            let _ = token.run_until_cancelled(state.consume(shard_id)).await;
                        });
                    }
                }
            }
        }
    }

    /// What the KCL writes: whatever stands in the row, with these changes. Nothing can come in between here.
    async fn overwrite(&self, row: &Lease, change: impl FnOnce(&mut Lease)) {
        let mut next = row.clone();
        change(&mut next);
        let delete = LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() };
        self.table.write(&delete).await.unwrap();
        self.table.write(&LeaseWrite::Create(next)).await.unwrap();
    }

    /// The row of a lease that is still this worker's, as the KCL tells: by the counter alone.
    async fn own_row(&self, shard_id: &ShardId) -> Option<Lease> {
        let counter = self.held.lock().unwrap().get(shard_id).copied()?;
        let row = self.table.get(shard_id).await.unwrap().filter(|row| row.counter == counter);
        if row.is_none() {
            self.held.lock().unwrap().remove(shard_id);
        }
        row
    }

    async fn write_own(&self, shard_id: &ShardId, change: impl FnOnce(&mut Lease)) -> bool {
        let Some(row) = self.own_row(shard_id).await else { return false };
        self.overwrite(&row, |next| {
            next.counter += 1;
            change(next);
        })
        .await;
        self.held.lock().unwrap().insert(shard_id.clone(), row.counter + 1);
        true
    }

    async fn renew_all(&self, lost: &mut HashMap<ShardId, CancellationToken>) {
        let held: Vec<ShardId> = self.held.lock().unwrap().keys().cloned().collect();
        for shard_id in held {
            if !self.write_own(&shard_id, |_| {}).await
                && let Some(token) = lost.remove(&shard_id)
            {
                token.cancel();
            }
        }
    }

    /// The KCL's algorithm: very old leases first and without regard to shares, then available ones up to the target,
    /// then one stolen from the fullest worker.
    async fn take_some(
        &self,
        seen: &mut HashMap<ShardId, (u64, Option<Instant>)>,
        rng: &mut Rng,
    ) -> Vec<ShardId> {
        let now = Instant::now();
        let rows = self.table.list(Consistency::Strong).await.unwrap().leases;
        for row in &rows {
            let entry =
                seen.entry(row.shard_id.clone()).or_insert((row.counter, row.owner.as_ref().map(|_| now)));
            if entry.0 != row.counter {
                *entry = (row.counter, Some(now));
            }
        }
        let age = |row: &Lease| seen[&row.shard_id].1.map_or(Duration::MAX, |since| now - since);
        let (mut available, taken): (Vec<&Lease>, Vec<&Lease>) =
            rows.iter().partition(|row| row.owner.is_none() || age(row) > self.failover_time);
        let mut loads: BTreeMap<&WorkerId, usize> = BTreeMap::from([(&self.worker_id, 0)]);
        for row in &taken {
            *loads.entry(row.owner.as_ref().unwrap()).or_default() += 1;
        }
        let (workers, mine) = (loads.len(), loads[&self.worker_id]);
        let target = if workers >= rows.len() { 1 } else { rows.len().div_ceil(workers) };
        rng.shuffle(&mut available);
        let very_old: Vec<&Lease> =
            available.iter().copied().filter(|row| age(row) > self.failover_time * 3).collect();
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
                    vec![of_victim[rng.usize(..of_victim.len())]]
                }
                _ => Vec::new(),
            }
        };
        let mut shards = Vec::new();
        for row in chosen {
            self.overwrite(row, |next| {
                next.owner_switches_since_checkpoint += u64::from(row.owner.is_some());
                next.counter += 1;
                next.owner = Some(self.worker_id.clone());
            })
            .await;
            self.held.lock().unwrap().insert(row.shard_id.clone(), row.counter + 1);
            shards.push(row.shard_id.clone());
        }
        shards
    }

    async fn consume(&self, shard_id: ShardId) {
        let row = self.table.get(&shard_id).await.unwrap().unwrap();
        for parent in &row.parents {
            while self.table.get(parent).await.unwrap().is_some_and(|parent| !parent.is_finished()) {
                tokio::time::sleep(PARENT_POLL).await;
            }
        }
        let from = match &row.checkpoint {
            Position::After(record) => ReadFrom::At(record.sequence_number.clone()),
            Position::ShardEnd => return,
            _ => ReadFrom::TrimHorizon,
        };
        let token = FencingToken { owner: self.worker_id.clone(), counter: row.counter };
        let context = ShardContext::new("kcl", self.stream.stream_name(), shard_id.clone(), token);
        let mut reader = self.stream.open(&shard_id, &from).await.unwrap();
        loop {
            let mut batch = reader.next_batch().await.unwrap();
            batch.records.retain(|record| record.position() > row.checkpoint);
            if let Some(batch) = RecordBatch::new(batch.records, None) {
                self.journal.record(&context, &batch);
                let position = batch.last_position();
                if !self.write_own(&shard_id, |next| next.checkpoint = position).await {
                    return;
                }
            }
            if let Some(end) = batch.shard_end {
                self.end(&shard_id, &end.children).await;
                return;
            }
        }
    }

    async fn end(&self, shard_id: &ShardId, children: &[Shard]) {
        for child in children {
            let mut lease = Lease::unowned(child.shard_id.clone(), Position::TrimHorizon);
            lease.parents.clone_from(&child.parents);
            lease.hash_key_range = child.hash_key_range;
            self.table.write(&LeaseWrite::Create(lease)).await.unwrap();
        }
        let children = children.iter().map(|child| child.shard_id.clone()).collect();
        self.write_own(shard_id, |next| {
            next.checkpoint = Position::ShardEnd;
            next.children = children;
            next.owner_switches_since_checkpoint = 0;
        })
        .await;
    }
}
