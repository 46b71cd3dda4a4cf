//! A worker that follows the rules of the KCL 2.x. It scans and steals leases and renews them by the counter alone.
//! It ignores requests, preserves unknown attributes, and releases no lease when it ends.
//!
//! Where the plan says so, its calls go over a faulty network (`kcl_calls.rs`) and its process can be paused. A
//! renewal without an answer is retried at the next tick and then recognised as its own. A checkpoint without an
//! answer is not recognised: the lease counts as lost when the next write is refused. Records read before a pause are
//! delivered after it, even if the lease was lost; only the next write reveals the loss. The KCL behaves in this way,
//! and the checks demand no more of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use lease_store::{Lease, LeaseStore as _, LeaseWrite, Position, ShardId, WriteOutcome};
use shard_worker::{Deaggregated, Record, Shard, deaggregate};
use test_support::KclLeaseTaker;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, interval, sleep};

use crate::event::{
    Batch, EventKind, Process, ReadPosition, RecordPosition, WriteKind, record_number, shard_number,
};
use crate::kcl_calls::{CallFailed, KclCalls};
use crate::network::{Destination, Link};
use crate::plan::Plan;
use crate::table_client::TableClient;
use crate::worker::{FAILOVER_TIME, World};

/// Interval at which a consumer polls for records and for the end of the parents.
const POLL: Duration = Duration::from_secs(1);

/// How often a worker of a led fleet reports about itself.
const REPORT: Duration = Duration::from_secs(30);

/// How often a throttled renewal is tried (the KCL's `RENEWAL_RETRIES`).
const RENEWAL_ATTEMPTS: u32 = 2;

/// How often a throttled take is tried (the KCL's `TAKE_RETRIES`).
const TAKE_ATTEMPTS: u32 = 3;

/// A running KCL worker.
#[derive(Debug)]
pub struct KclWorker {
    /// The process.
    pub process: Process,
    /// Its network link.
    pub link: Link,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    world: World,
    calls: KclCalls,
    process: Process,
    name: lease_store::WorkerId,
    can_fail: bool,
    /// Whether it reports about itself, as in a led fleet.
    reports: bool,
    rng: Mutex<Rng>,
    /// The leases that it believes it holds.
    held: Mutex<BTreeMap<ShardId, Held>>,
    /// Its view of the table, which decides what it takes.
    taker: Mutex<KclLeaseTaker>,
}

/// A lease that the worker believes it holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The counter of its last write.
    counter: u64,
    /// The counter of the take. A lease that was taken again belongs to another consumer.
    token: u64,
    /// When the last write was confirmed.
    confirmed_at: Instant,
}

/// The outcome of a write to a lease that the worker believes it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Written,
    /// Without an answer: applied or lost.
    Unknown,
    Lost,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KclWorker {
    /// Starts a worker.
    pub fn start(world: &World, plan: &Plan, name: &'static str) -> Option<Self> {
        let number = world.observer.history().names.count();
        let process = world.observer.new_process(name, 1000, true);
        let link = Link::new(plan.rng("link", number), plan.has_long_tails);
        let client = TableClient { table: world.table.clone(), link: link.clone(), process, defect: None };
        let name = lease_store::WorkerId::new(name).ok()?;
        let can_fail = plan.kcl_can_fail;
        let taker = Mutex::new(KclLeaseTaker::new(name.clone(), FAILOVER_TIME));
        let state = State {
            world: world.clone(),
            calls: KclCalls { client, can_fail },
            process,
            name,
            can_fail,
            reports: plan.former_fleet.is_some_and(|fleet| fleet.is_led),
            rng: Mutex::new(plan.rng("kcl", number)),
            held: Mutex::default(),
            taker,
        };
        let task = tokio::spawn(Arc::new(state).run());
        Some(Self { process, link, task })
    }

    /// Kills it. KCL workers never stop gracefully.
    pub async fn crash(self, world: &World) {
        self.task.abort();
        let _ = self.task.await;
        world.observer.record(EventKind::ProcessCrashed { process: self.process });
    }
}

impl State {
    async fn run(self: Arc<Self>) {
        let (renewal_interval, scan_interval) = {
            let taker = locked(&self.taker);
            (taker.renewal_interval(), taker.scan_interval())
        };
        let (mut renewals, mut takes) = (interval(renewal_interval), interval(scan_interval));
        let mut consumers = JoinSet::new();
        if self.reports {
            consumers.spawn(self.clone().report());
        }
        // Renewing and taking run in separate threads, and a late round does not start twice.
        let mut renewing = JoinSet::new();
        let mut taking = JoinSet::new();
        loop {
            let taken = tokio::select! {
                biased;
                _ = renewals.tick() => {
                    if !self.can_fail {
                        self.clone().renew_all().await;
                    } else if renewing.is_empty() {
                        renewing.spawn(self.clone().renew_all());
                    }
                    Vec::new()
                }
                _ = takes.tick() => {
                    if !self.can_fail {
                        self.clone().take_some().await
                    } else {
                        if taking.is_empty() {
                            taking.spawn(self.clone().take_some());
                        }
                        Vec::new()
                    }
                }
                Some(taken) = taking.join_next() => taken.unwrap_or_default(),
                Some(_) = renewing.join_next() => Vec::new(),
            };
            for shard_id in taken {
                consumers.spawn(self.clone().consume(shard_id));
            }
        }
    }

    /// Reports about itself, also without leases.
    async fn report(self: Arc<Self>) {
        loop {
            self.calls.client.link.wait_while_paused().await;
            self.world.table.report(self.name.as_str());
            sleep(REPORT).await;
        }
    }

    fn held(&self, shard_id: &ShardId) -> Option<Held> {
        locked(&self.held).get(shard_id).copied()
    }

    /// Updates or removes a held lease after a write.
    fn hold(&self, shard_id: &ShardId, counter: Option<u64>) {
        let held = &mut *locked(&self.held);
        match (counter, held.get_mut(shard_id)) {
            (Some(counter), Some(known)) => (known.counter, known.confirmed_at) = (counter, Instant::now()),
            (Some(_), None) => {}
            (None, _) => drop(held.remove(shard_id)),
        }
    }

    /// Renews the lease and applies another change in the same write.
    async fn write_own(
        &self,
        kind: WriteKind,
        shard_id: &ShardId,
        change: impl FnOnce(&mut Lease) + Clone + Send + 'static,
    ) -> Own {
        let Some(Held { counter, token, .. }) = self.held(shard_id) else { return Own::Lost };
        let change = |row: &mut Lease| {
            row.counter += 1;
            change(row);
        };
        let written = self.calls.write(kind, shard_id, counter, change).await;
        // The lease may have been lost or taken again during the call.
        if !self.is_mine(shard_id, token) {
            return Own::Lost;
        }
        match written {
            Ok(Some(row)) => {
                self.hold(shard_id, Some(row.counter));
                Own::Written
            }
            // Another write of this worker may have moved the counter during the call.
            Ok(None) if self.held(shard_id).is_some_and(|held| held.counter != counter) => Own::Unknown,
            Ok(None) => Own::Lost,
            Err(_) => Own::Unknown,
        }
    }

    async fn renew_all(self: Arc<Self>) {
        let shard_ids: Vec<ShardId> = locked(&self.held).keys().cloned().collect();
        let mut renewals = JoinSet::new();
        for shard_id in shard_ids {
            if self.can_fail {
                renewals.spawn(self.clone().renew(shard_id));
            } else {
                self.clone().renew(shard_id).await;
            }
        }
        while renewals.join_next().await.is_some() {}
    }

    async fn renew(self: Arc<Self>, shard_id: ShardId) {
        for _ in 0..RENEWAL_ATTEMPTS {
            let Some(Held { counter, token, confirmed_at }) = self.held(&shard_id) else { return };
            if self.can_fail && confirmed_at.elapsed() > FAILOVER_TIME {
                return self.hold(&shard_id, None);
            }
            let written =
                self.calls.write(WriteKind::Renew, &shard_id, counter, |row| row.counter += 1).await;
            let is_current = |held: Held| held.token == token && held.counter == counter;
            if !self.held(&shard_id).is_some_and(is_current) {
                return;
            }
            match written {
                Ok(Some(row)) => return self.hold(&shard_id, Some(row.counter)),
                Err(CallFailed::Throttled) => {}
                // The next tick tries again.
                Err(CallFailed::Unknown) => return,
                Ok(None) => {
                    // The refused write may follow an own write whose answer was lost.
                    let row = if self.can_fail { self.calls.row(&shard_id).await } else { Ok(None) };
                    if !self.held(&shard_id).is_some_and(is_current) {
                        return;
                    }
                    let is_own =
                        |row: &Lease| row.owner.as_ref() == Some(&self.name) && row.counter == counter + 1;
                    let counter = row.ok().flatten().filter(is_own).map(|row| row.counter);
                    return self.hold(&shard_id, counter);
                }
            }
        }
    }

    /// Takes very old leases first, without regard to shares. Otherwise takes available leases up to the target, or
    /// steals one from the worker with the most leases.
    async fn take_some(self: Arc<Self>) -> Vec<ShardId> {
        let Ok(rows) = self.calls.rows().await else { return Vec::new() };
        let chosen = locked(&self.taker).choose(&rows, &mut locked(&self.rng));
        let mut taken = Vec::new();
        for row in chosen {
            if self.take(&row).await {
                taken.push(row.shard_id);
            }
        }
        taken
    }

    async fn take(&self, row: &Lease) -> bool {
        let is_switch = row.owner.as_ref().is_some_and(|owner| *owner != self.name);
        for _ in 0..TAKE_ATTEMPTS {
            let name = self.name.clone();
            let taking = move |row: &mut Lease| {
                row.counter += 1;
                row.owner_switches_since_checkpoint += u64::from(is_switch);
                row.owner = Some(name);
            };
            let taken = self.calls.write(WriteKind::Take, &row.shard_id, row.counter, taking).await;
            match taken {
                Ok(Some(taken)) => {
                    let counter = taken.counter;
                    let held = Held { counter, token: counter, confirmed_at: Instant::now() };
                    locked(&self.held).insert(row.shard_id.clone(), held);
                    return true;
                }
                Err(CallFailed::Throttled) => {}
                Ok(None) | Err(CallFailed::Unknown) => return false,
            }
        }
        false
    }

    async fn consume(self: Arc<Self>, shard_id: ShardId) {
        let Some(Held { token, .. }) = self.held(&shard_id) else { return };
        let Some(row) = self.row(&shard_id).await else { return };
        for parent in &row.parents {
            while self.row(parent).await.is_some_and(|parent| !parent.is_finished()) {
                sleep(POLL).await;
                if self.can_fail && !self.is_mine(&shard_id, token) {
                    return;
                }
            }
        }
        let shard = shard_number(&shard_id);
        let start = ReadPosition::of(&row.checkpoint);
        if start == ReadPosition::End || !self.is_mine(&shard_id, token) {
            return;
        }
        self.world.observer.record(EventKind::ShardStarted { process: self.process, shard, token, start });
        // Starts at the stored position and drops the sub-records that are already done.
        let mut done = row.checkpoint.clone();
        let mut after = match start {
            ReadPosition::After(at) => at.record.saturating_sub(1),
            ReadPosition::Start | ReadPosition::End => 0,
        };
        loop {
            sleep(POLL).await;
            self.calls.client.link.wait_while_paused().await;
            if !self.is_mine(&shard_id, token) {
                return;
            }
            if self.can_fail && self.calls.client.link.is_partitioned(Destination::Stream) {
                continue;
            }
            let page = self.world.kinesis.read(shard, after, 50);
            let (records, end) = page.map_or((Vec::new(), Some(Vec::new())), |page| (page.records, page.end));
            after = records.last().map_or(after, |(number, _)| *number);
            let mut new = Vec::new();
            for (_, record) in records {
                let mut parts: Vec<Record> = Vec::new();
                let _: Deaggregated = deaggregate(record, row.hash_key_range, &mut parts);
                new.extend(parts.into_iter().filter(|part| part.position() > done));
            }
            // Deliver the records read, whatever happened in the meantime.
            self.calls.client.link.wait_while_paused().await;
            if let Some(last) = new.last() {
                let position = last.position();
                self.deliver(shard, token, &new);
                done = position.clone();
                let checkpoint = move |row: &mut Lease| {
                    row.checkpoint = position;
                    row.owner_switches_since_checkpoint = 0;
                };
                if self.write_own(WriteKind::Checkpoint, &shard_id, checkpoint).await == Own::Lost {
                    return self.lose(&shard_id, token);
                }
            }
            if let Some(children) = end {
                // The KCL waits until it sees the children.
                if children.is_empty() && self.world.kinesis.changes(shard).is_some() {
                    continue;
                }
                if self.is_blocked(&shard_id, &children).await {
                    continue;
                }
                match self.end(&shard_id, &children).await {
                    Own::Written => return,
                    Own::Unknown => {}
                    Own::Lost => return self.lose(&shard_id, token),
                }
            }
        }
    }

    /// Reads a row, retrying until the read succeeds.
    async fn row(&self, shard_id: &ShardId) -> Option<Lease> {
        loop {
            match self.calls.row(shard_id).await {
                Ok(row) => return row,
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// The write of a consumer was refused: drop the lease.
    fn lose(&self, shard_id: &ShardId, token: u64) {
        if self.is_mine(shard_id, token) {
            self.hold(shard_id, None);
        }
    }

    /// Whether the lease is held under this token. A new token belongs to another consumer.
    fn is_mine(&self, shard_id: &ShardId, token: u64) -> bool {
        self.held(shard_id).is_some_and(|held| held.token == token)
    }

    fn deliver(&self, shard: u32, token: u64, records: &[Record]) {
        let at = |record: &Record| RecordPosition {
            record: record_number(&record.sequence_number),
            sub: record.sub_sequence_number,
        };
        let batch = Batch {
            process: self.process,
            shard,
            token,
            first: at(&records[0]),
            last: at(&records[records.len() - 1]),
            count: records.len(),
            is_sorted: true,
            late_attempt: 0,
        };
        self.world.observer.record(EventKind::Delivered(batch));
        self.world.observer.record(EventKind::Acknowledged(batch));
    }

    /// The KCL's `BlockedOnParentShard`: the child of a merge gets no lease before its other parent has one.
    async fn is_blocked(&self, shard_id: &ShardId, children: &[Shard]) -> bool {
        for child in children {
            let others = child.parents.iter().filter(|parent| *parent != shard_id);
            for parent in others {
                if !self.has_row(parent).await && !self.has_row(&child.shard_id).await {
                    return true;
                }
            }
        }
        false
    }

    async fn has_row(&self, shard_id: &ShardId) -> bool {
        matches!(self.calls.row(shard_id).await, Ok(Some(_)))
    }

    async fn end(&self, shard_id: &ShardId, children: &[Shard]) -> Own {
        for child in children {
            let mut lease = Lease::unowned(child.shard_id.clone(), Position::TrimHorizon);
            lease.parents.clone_from(&child.parents);
            lease.hash_key_range = child.hash_key_range;
            let created = self.calls.client.write(&LeaseWrite::Create(lease)).await;
            // A row that already exists is left unchanged.
            if !matches!(created, Ok(WriteOutcome::Applied { .. } | WriteOutcome::Lost { .. })) {
                return Own::Unknown;
            }
        }
        let children = children.iter().map(|child| child.shard_id.clone()).collect();
        let ended = move |row: &mut Lease| {
            row.checkpoint = Position::ShardEnd;
            row.children = children;
            row.owner_switches_since_checkpoint = 0;
        };
        self.write_own(WriteKind::Checkpoint, shard_id, ended).await
    }
}
