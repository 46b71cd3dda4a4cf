//! A process that plays by the rules of the KCL 2.x: it scans and steals, renews by the counter alone, knows nothing of
//! requests, keeps attributes that it does not know, and releases nothing when it ends. Its calls take no time and do
//! not fail: what is looked at is how ours live beside it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;
use lease_store::{Lease, LeaseStore as _, LeaseWrite, Position, ShardId};
use shard_worker::{Deaggregated, Record, Shard, deaggregate};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, interval, sleep};

use crate::event::{At, Batch, Place, Process, What, WriteKind, Writer, record_number, shard_number};
use crate::network::Link;
use crate::plan::Plan;
use crate::table_client::TableClient;
use crate::worker::{FAILOVER_TIME, World};

/// What the KCL calls `epsilonMillis`.
const EPSILON: Duration = Duration::from_millis(25);

/// How often a consumer looks whether there are records, and whether the parents are read to their end.
const POLL: Duration = Duration::from_secs(1);

/// A lease is very old after so many fail-over times.
const VERY_OLD: u32 = 3;

/// A running worker.
#[derive(Debug)]
pub struct KclWorker {
    /// Which process it is.
    pub process: Process,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    world: World,
    client: TableClient,
    process: Process,
    name: lease_store::WorkerId,
    /// The leases it believes to hold, with the counters it wrote last.
    held: Mutex<BTreeMap<ShardId, u64>>,
}

impl KclWorker {
    /// Starts one.
    pub fn start(world: &World, plan: &Plan, name: &'static str) -> Option<Self> {
        let number = world.observer.record().names.count();
        let process = world.observer.new_process(name, 1000, true);
        let link = Link::new(plan.rng("link", number));
        let client = TableClient { table: world.table.clone(), link, process, planted: None };
        let name = lease_store::WorkerId::new(name).ok()?;
        let state = State { world: world.clone(), client, process, name, held: Mutex::default() };
        let task = tokio::spawn(Arc::new(state).run(plan.rng("kcl", number)));
        Some(Self { process, task })
    }

    /// Kills it, which is how it always ends.
    pub async fn crash(self, world: &World) {
        self.task.abort();
        let _ = self.task.await;
        world.observer.note(What::Crashed { process: self.process });
    }
}

impl State {
    async fn run(self: Arc<Self>, mut rng: Rng) {
        let mut renewals = interval(FAILOVER_TIME / 3 - EPSILON);
        let mut takes = interval((FAILOVER_TIME + EPSILON) * 2);
        let mut seen = BTreeMap::new();
        let mut consumers = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = renewals.tick() => self.renew_all(),
                _ = takes.tick() => for shard_id in self.take_some(&mut seen, &mut rng) {
                    consumers.spawn(self.clone().consume(shard_id));
                }
            }
        }
    }

    fn held(&self) -> BTreeMap<ShardId, u64> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, shard_id: &ShardId, counter: Option<u64>) {
        let held = &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match counter {
            Some(counter) => held.insert(shard_id.clone(), counter),
            None => held.remove(shard_id),
        };
    }

    /// A heartbeat, and whatever else; `false` when the lease is lost.
    fn write_own(&self, kind: WriteKind, shard_id: &ShardId, change: impl FnOnce(&mut Lease)) -> bool {
        let Some(counter) = self.held().get(shard_id).copied() else { return false };
        let table = &self.client.table;
        let written = table.kcl_write(Writer::Kcl(self.process), kind, shard_id, counter, |row| {
            row.counter += 1;
            change(row);
        });
        self.hold(shard_id, written.as_ref().map(|row| row.counter));
        written.is_some()
    }

    fn renew_all(&self) {
        for shard_id in self.held().into_keys() {
            self.write_own(WriteKind::Renew, &shard_id, |_| {});
        }
    }

    /// Very old leases first and without regard to shares, then available ones up to the target, then one stolen from
    /// the fullest worker.
    fn take_some(&self, seen: &mut BTreeMap<ShardId, (u64, Option<Instant>)>, rng: &mut Rng) -> Vec<ShardId> {
        let now = Instant::now();
        let rows = self.client.table.rows();
        for row in &rows {
            let first = (row.counter, row.owner.as_ref().map(|_| now));
            let entry = seen.entry(row.shard_id.clone()).or_insert(first);
            if entry.0 != row.counter {
                *entry = (row.counter, Some(now));
            }
        }
        let age = |row: &Lease| {
            seen.get(&row.shard_id).and_then(|(_, since)| *since).map_or(Duration::MAX, |since| now - since)
        };
        let (mut available, taken): (Vec<&Lease>, Vec<&Lease>) =
            rows.iter().partition(|row| row.owner.is_none() || age(row) > FAILOVER_TIME);
        let mut loads = BTreeMap::from([(&self.name, 0)]);
        for owner in taken.iter().filter_map(|row| row.owner.as_ref()) {
            *loads.entry(owner).or_default() += 1;
        }
        let mine = loads.get(&self.name).copied().unwrap_or(0);
        let target = if loads.len() >= rows.len() { 1 } else { rows.len().div_ceil(loads.len()) };
        rng.shuffle(&mut available);
        let very_old: Vec<&Lease> =
            available.iter().copied().filter(|row| age(row) > FAILOVER_TIME * VERY_OLD).collect();
        let chosen: Vec<&Lease> = if !very_old.is_empty() {
            very_old
        } else if !available.is_empty() {
            available.into_iter().take(target.saturating_sub(mine)).collect()
        } else {
            let fullest = loads.iter().max_by_key(|(_, load)| **load).map(|(worker, load)| (*worker, *load));
            match fullest {
                Some((victim, load)) if mine < target && *victim != self.name && load > target => {
                    let of_victim: Vec<&Lease> =
                        taken.into_iter().filter(|row| row.owner.as_ref() == Some(victim)).collect();
                    rng.choice(of_victim).into_iter().collect()
                }
                _ => Vec::new(),
            }
        };
        chosen.into_iter().filter(|row| self.take(row)).map(|row| row.shard_id.clone()).collect()
    }

    fn take(&self, row: &Lease) -> bool {
        let is_switch = row.owner.as_ref().is_some_and(|owner| *owner != self.name);
        let table = &self.client.table;
        let by = Writer::Kcl(self.process);
        let taken = table.kcl_write(by, WriteKind::Take, &row.shard_id, row.counter, |row| {
            row.counter += 1;
            row.owner_switches_since_checkpoint += u64::from(is_switch);
            row.owner = Some(self.name.clone());
        });
        if let Some(taken) = &taken {
            self.hold(&row.shard_id, Some(taken.counter));
        }
        taken.is_some()
    }

    async fn consume(self: Arc<Self>, shard_id: ShardId) {
        let Some(token) = self.held().get(&shard_id).copied() else { return };
        let Some(row) = self.client.table.row(&shard_id) else { return };
        while row
            .parents
            .iter()
            .any(|parent| self.client.table.row(parent).is_some_and(|parent| !parent.is_finished()))
        {
            sleep(POLL).await;
        }
        let shard = shard_number(&shard_id);
        let start = Place::of(&row.checkpoint);
        if start == Place::End || !self.is_mine(&shard_id, token) {
            return;
        }
        self.world.observer.note(What::Began { process: self.process, shard, token, start });
        // It starts at the stored position and drops what it has done of the aggregate there.
        let mut done = row.checkpoint.clone();
        let mut after = match start {
            Place::After(at) => at.record.saturating_sub(1),
            Place::Start | Place::End => 0,
        };
        loop {
            sleep(POLL).await;
            if !self.is_mine(&shard_id, token) {
                return;
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
            if let Some(last) = new.last() {
                let position = last.position();
                self.deliver(shard, token, &new);
                done = position.clone();
                let is_written = self.write_own(WriteKind::Checkpoint, &shard_id, |row| {
                    row.checkpoint = position;
                    row.owner_switches_since_checkpoint = 0;
                });
                if !is_written {
                    return;
                }
            }
            if let Some(children) = end {
                // A real one waits until it sees them.
                if children.is_empty() && self.world.kinesis.changes(shard).is_some() {
                    continue;
                }
                if self.is_blocked(&shard_id, &children) {
                    continue;
                }
                self.end(&shard_id, &children).await;
                return;
            }
        }
    }

    /// A token that was taken anew belongs to another consumer.
    fn is_mine(&self, shard_id: &ShardId, token: u64) -> bool {
        self.held().get(shard_id).is_some_and(|counter| *counter >= token)
    }

    fn deliver(&self, shard: u32, token: u64, records: &[Record]) {
        let at = |record: &Record| At {
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
        self.world.observer.note(What::Delivered(batch));
        self.world.observer.note(What::Acknowledged(batch));
    }

    /// The KCL's `BlockedOnParentShard`: the child of a merge gets no lease before its other parent has one.
    fn is_blocked(&self, shard_id: &ShardId, children: &[Shard]) -> bool {
        let has_row = |shard_id: &ShardId| self.client.table.row(shard_id).is_some();
        children.iter().any(|child| {
            let lacks_other_parent =
                child.parents.iter().any(|parent| parent != shard_id && !has_row(parent));
            lacks_other_parent && !has_row(&child.shard_id)
        })
    }

    async fn end(&self, shard_id: &ShardId, children: &[Shard]) {
        for child in children {
            let mut lease = Lease::unowned(child.shard_id.clone(), Position::TrimHorizon);
            lease.parents.clone_from(&child.parents);
            lease.hash_key_range = child.hash_key_range;
            let _ = self.client.write(&LeaseWrite::Create(lease)).await;
        }
        let children = children.iter().map(|child| child.shard_id.clone()).collect();
        self.write_own(WriteKind::Checkpoint, shard_id, |row| {
            row.checkpoint = Position::ShardEnd;
            row.children = children;
            row.owner_switches_since_checkpoint = 0;
        });
    }
}
