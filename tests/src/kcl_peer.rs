//! A fleet member with the rules of the KCL 2.x, for tests in virtual time. It scans and steals leases, renews by the
//! counter alone, and knows no requests. It keeps attributes that it does not know, and releases nothing when it ends.

#![allow(clippy::unwrap_used, clippy::panic)] // only tests call it

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kinesis_streaming::lease_store::{Consistency, FencingToken, Lease, LeaseWrite, WorkerId};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{ReadFrom, Shard};
use test_support::{Journal, KclLeaseTaker};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// The time between two checks whether the parents of a shard are read to their end (KCL: `parentShardPollIntervalMillis`).
const PARENT_POLL: Duration = Duration::from_secs(10);

/// A running KCL 2.x worker. Dropping it ends it as a crash does.
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
    /// The leases that it believes to hold, with the counters that it wrote last.
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

    /// The shards whose leases it believes to hold.
    ///
    /// # Panics
    /// Never, unless a thread that holds the lock has panicked.
    pub fn held(&self) -> Vec<ShardId> {
        self.state.held.lock().unwrap().keys().cloned().collect()
    }
}

impl State {
    async fn run(self: Arc<Self>, mut rng: Rng) {
        let mut taker = KclLeaseTaker::new(self.worker_id.clone(), self.failover_time);
        let mut renewals = interval(taker.renewal_interval());
        let mut takes = interval(taker.scan_interval());
        let mut consumers = JoinSet::new();
        let mut lost = HashMap::new();
        loop {
            tokio::select! {
                _ = renewals.tick() => self.renew_all(&mut lost).await,
                _ = takes.tick() => {
                    for shard_id in self.take_some(&mut taker, &mut rng).await {
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

    /// Writes as the KCL does: the whole row with these changes. No other write can come in between in this store.
    async fn overwrite(&self, row: &Lease, change: impl FnOnce(&mut Lease)) {
        let mut next = row.clone();
        change(&mut next);
        let delete = LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() };
        self.table.write(&delete).await.unwrap();
        self.table.write(&LeaseWrite::Create(next)).await.unwrap();
    }

    /// The row of a lease that this worker still holds. Like the KCL, it compares the counter alone.
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

    /// Takes the leases that the algorithm of the KCL chooses, and returns their shards.
    async fn take_some(&self, taker: &mut KclLeaseTaker, rng: &mut Rng) -> Vec<ShardId> {
        let rows = self.table.list(Consistency::Strong).await.unwrap().leases;
        let mut shards = Vec::new();
        for row in taker.choose(&rows, rng) {
            self.overwrite(&row, |next| {
                next.owner_switches_since_checkpoint += u64::from(row.owner.is_some());
                next.counter += 1;
                next.owner = Some(self.worker_id.clone());
            })
            .await;
            self.held.lock().unwrap().insert(row.shard_id.clone(), row.counter + 1);
            shards.push(row.shard_id);
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
        let token = FencingToken::new(self.worker_id.clone(), row.counter);
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
