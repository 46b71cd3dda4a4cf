//! A model of Kinesis: shards with their history, records, reshards and retention. `kinesis_client` is the view of
//! one process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use fastrand::Rng;
use lease_store::{HashKey, HashKeyRange, ShardId};
use shard_worker::{AggregatedRecord, Aggregator, KPL_PARTITION_KEY, Record, Shard, ShardFilter};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::account::{AccountCall, Limits};
use crate::event::{EPOCH_MILLIS, EventKind, SHARDS_PER_LIFE, sequence_number};
use crate::network::CurrentRates;
use crate::observer::Observer;

/// Largest number of sub-records in an aggregate.
const MAX_PARTS: u64 = 6;

/// How long after a reshard the producer still aggregates by the old shards. Shorter than the time in which a reader expects it.
const OUTDATED_FOR: Duration = Duration::from_secs(45);

/// One of this many aggregates comes from a producer that mixes the keys of all shards and puts it once.
const MIXED_AGGREGATES: u64 = 5;

/// The partition key of single records and of mixed aggregates.
const RECORD_KEY: &str = "key";

/// Narrowest shard that is still split, in hash keys.
const MIN_WIDTH: u128 = 1024;

/// The stream. Clones share it.
#[derive(Debug, Clone)]
pub struct Kinesis {
    state: Arc<Mutex<State>>,
    /// Records the events.
    pub observer: Observer,
    /// The fault rates of the service.
    pub fault_rates: CurrentRates,
    started_at: Instant,
    limits: Arc<Mutex<Limits>>,
}

#[derive(Debug)]
struct State {
    shards: BTreeMap<u32, Log>,
    next_shard: u32,
    next_record: u64,
    /// How many times the stream was created again.
    life: u32,
    /// The first record of this stream.
    first_record: u64,
    /// Whether the stream is deleted and not created again yet.
    is_gone: bool,
    /// The hash-key range of a shard that was just resharded, and until when the producer still aggregates by it.
    outdated: Option<(HashKeyRange, SystemTime)>,
}

#[derive(Debug)]
struct Log {
    range: HashKeyRange,
    parents: BTreeSet<u32>,
    started_at: SystemTime,
    is_closed: bool,
    closed_at: Option<SystemTime>,
    visible_at: Instant,
    records: VecDeque<(u64, Record)>,
    changed: Arc<Notify>,
}

/// The result of a read.
#[derive(Debug)]
pub struct Page {
    /// The records with their numbers.
    pub records: Vec<(u64, Record)>,
    /// The children of the shard, once all of its records are read and it is closed.
    pub end: Option<Vec<Shard>>,
}

impl Log {
    /// Whether retention has removed the shard: it was closed before the limit, and no record is left.
    fn is_over(&self, limit: SystemTime) -> bool {
        self.closed_at.is_some_and(|closed_at| closed_at < limit) && self.records.is_empty()
    }

    fn describe(&self, number: u32) -> Shard {
        Shard::new(id_of(number), self.is_closed)
            .with_parents(self.parents.iter().map(|parent| id_of(*parent)).collect())
            .with_hash_key_range(Some(self.range))
    }
}

/// The id of a shard, which begins anew with each stream.
fn id_of(number: u32) -> ShardId {
    ShardId::numbered(u64::from(number % SHARDS_PER_LIFE))
}

fn range(start: u128, end: u128) -> HashKeyRange {
    HashKeyRange::new(HashKey(start), HashKey(end)).unwrap_or(HashKeyRange::FULL)
}

impl Kinesis {
    /// Creates a stream with `shard_count` shards.
    pub fn new(observer: Observer, shard_count: u64) -> Self {
        let state = State {
            shards: BTreeMap::new(),
            next_shard: 0,
            next_record: 1,
            life: 0,
            first_record: 0,
            is_gone: false,
            outdated: None,
        };
        let stream = Self {
            state: Arc::new(Mutex::new(state)),
            observer,
            fault_rates: CurrentRates::default(),
            started_at: Instant::now(),
            limits: Arc::default(),
        };
        stream.add_first(shard_count);
        stream
    }

    /// Limits the calls of the whole account for a fleet of this size: the limits of AWS count for a thousand workers.
    pub fn limit_for(&self, workers: u64) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Limits::for_workers(workers);
    }

    /// Whether the account has a call of this kind left.
    pub(crate) fn allows(&self, call: AccountCall) -> bool {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).allow(call, Instant::now())
    }

    fn add_first(&self, shard_count: u64) {
        let width = u128::MAX / u128::from(shard_count);
        for index in 0..u128::from(shard_count) {
            let end = if index + 1 == u128::from(shard_count) { u128::MAX } else { (index + 1) * width - 1 };
            self.add(range(index * width, end), BTreeSet::new(), Duration::ZERO);
        }
    }

    /// Deletes the stream with its shards and records.
    pub fn remove(&self) {
        let removed = {
            let state = &mut *self.state();
            state.is_gone = true;
            state.outdated = None;
            std::mem::take(&mut state.shards)
        };
        for (shard, log) in removed {
            self.observer.record(EventKind::RecordsTrimmed { shard, before: u64::MAX });
            log.changed.notify_waiters();
        }
        self.observer.record(EventKind::StreamRemoved);
    }

    /// Creates the stream again under its name, with shards whose ids begin anew.
    pub fn create(&self, shard_count: u64) {
        let life = {
            let state = &mut *self.state();
            state.life += 1;
            state.is_gone = false;
            state.first_record = state.next_record;
            state.next_shard = state.life * SHARDS_PER_LIFE;
            state.life
        };
        self.observer.record(EventKind::StreamCreated { life });
        self.add_first(shard_count);
    }

    /// How many times the stream was created again. `None` while it does not exist.
    pub fn life(&self) -> Option<u32> {
        let state = self.state();
        (!state.is_gone).then_some(state.life)
    }

    /// Whether a record belongs to the stream as it is now.
    pub fn is_of_this_life(&self, record: u64) -> bool {
        record >= self.state().first_record
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream's wall clock.
    pub fn clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MILLIS) + self.started_at.elapsed()
    }

    fn add(&self, range: HashKeyRange, parents: BTreeSet<u32>, hidden_for: Duration) {
        let started_at = self.clock();
        let born = {
            let state = &mut *self.state();
            let number = state.next_shard;
            state.next_shard += 1;
            // A listing that shows a shard also shows its parents while the stream keeps them.
            let of_parents =
                parents.iter().filter_map(|parent| state.shards.get(parent)).map(|log| log.visible_at);
            let visible_at = of_parents.max().unwrap_or(Instant::now()).max(Instant::now() + hidden_for);
            let log = Log {
                range,
                parents: parents.clone(),
                started_at,
                is_closed: false,
                closed_at: None,
                visible_at,
                records: VecDeque::new(),
                changed: Arc::new(Notify::new()),
            };
            state.shards.insert(number, log);
            (number, visible_at - Instant::now())
        };
        let (born, hidden_for) = born;
        let hidden_for = u64::try_from(hidden_for.as_millis()).unwrap_or(u64::MAX);
        self.observer.record(EventKind::ShardCreated {
            shard: born,
            parents: parents.into_iter().collect(),
            range: (range.start().0, range.end().0),
            visible_at: self.observer.now() + hidden_for,
        });
    }

    /// Returns the shards that a listing shows now.
    pub fn list(&self, filter: &ShardFilter) -> Vec<Shard> {
        let now = Instant::now();
        let state = self.state();
        let visible = state.shards.iter().filter(|(_, log)| log.visible_at <= now);
        let is_required = |(number, log): &(&u32, &Log)| match filter {
            ShardFilter::All => true,
            ShardFilter::Open => !log.is_closed,
            ShardFilter::OpenSince(instant) => log.closed_at.is_none_or(|closed_at| closed_at >= *instant),
            ShardFilter::After(parent) => id_of(**number) > *parent,
        };
        visible.filter(is_required).map(|(number, log)| log.describe(*number)).collect()
    }

    /// Returns when a shard was created.
    pub fn started_at(&self, shard: u32) -> Option<SystemTime> {
        self.state().shards.get(&shard).map(|log| log.started_at)
    }

    /// Returns a notification of changes to a shard.
    pub fn changes(&self, shard: u32) -> Option<Arc<Notify>> {
        self.state().shards.get(&shard).map(|log| log.changed.clone())
    }

    /// Returns the records after a record; `None` when the stream has no such shard.
    pub fn read(&self, shard: u32, after: u64, max_records: usize) -> Option<Page> {
        let now = Instant::now();
        let state = self.state();
        let log = state.shards.get(&shard)?;
        let first = log.records.partition_point(|(number, _)| *number <= after);
        let records: Vec<_> = log.records.range(first..).take(max_records).cloned().collect();
        let is_all = first + records.len() == log.records.len();
        let end = (is_all && log.is_closed).then(|| {
            let children = state.shards.iter().filter(|(_, log)| log.parents.contains(&shard));
            let visible = children.filter(|(_, log)| log.visible_at <= now);
            visible.map(|(number, log)| log.describe(*number)).collect()
        });
        Some(Page { records, end })
    }

    /// Returns the last record before a time.
    pub fn last_before(&self, shard: u32, time: SystemTime) -> Option<u64> {
        let state = self.state();
        let log = state.shards.get(&shard)?;
        let before = log
            .records
            .iter()
            .rev()
            .find(|(_, record)| record.approximate_arrival.is_some_and(|arrival| arrival < time));
        Some(before.map_or(0, |(number, _)| *number))
    }

    /// Returns the newest record of the whole stream.
    pub fn newest(&self) -> u64 {
        self.state().next_record - 1
    }

    /// Puts a record, or an aggregate: for a shard range that may be outdated, or of mixed keys.
    pub fn produce(&self, rng: &mut Rng, is_aggregate: bool, may_mix: bool) {
        if !is_aggregate {
            self.put(HashKey(rng.u128(..)), RECORD_KEY, Bytes::from_static(b"simulated"), None);
            return;
        }
        if may_mix && self.state().next_record.is_multiple_of(MIXED_AGGREGATES) {
            let keys: Vec<HashKey> = (0..rng.u64(1..=MAX_PARTS)).map(|_| HashKey(rng.u128(..))).collect();
            self.put_mixed(&keys);
            return;
        }
        let now = self.clock();
        let outdated = self.state().outdated.filter(|_| rng.u64(..3) > 0);
        let outdated = outdated.and_then(|(range, until)| (now < until).then_some(range));
        let belief = outdated.unwrap_or_else(|| {
            let key = HashKey(rng.u128(..));
            self.open_range_of(key)
        });
        let (start, end) = (belief.start().0, belief.end().0);
        let mut keys: Vec<HashKey> =
            (0..rng.u64(1..=MAX_PARTS)).map(|_| HashKey(rng.u128(start..=end))).collect();
        // Sub-records of another shard are sent again, as a producer does once it learns the new shards.
        while !keys.is_empty() {
            keys = self.put_aggregate(&keys);
        }
    }

    fn open_range_of(&self, key: HashKey) -> HashKeyRange {
        let state = self.state();
        let open = state.shards.values().find(|log| !log.is_closed && log.range.contains(key));
        open.map_or(HashKeyRange::FULL, |log| log.range)
    }

    /// Puts an aggregate once, as producers other than the KPL do: all its records count, whatever their shard.
    fn put_mixed(&self, keys: &[HashKey]) {
        if let Some(aggregate) = aggregate_of(keys) {
            let subs = (0..).zip(keys).map(|(sub, _)| sub).collect();
            self.put(aggregate.hash_key, RECORD_KEY, aggregate.data, Some(subs));
        }
    }

    /// Puts an aggregate as the KPL does and returns the keys that belong to another shard.
    fn put_aggregate(&self, keys: &[HashKey]) -> Vec<HashKey> {
        let Some(aggregate) = aggregate_of(keys) else { return Vec::new() };
        let range = self.open_range_of(aggregate.hash_key);
        let subs = (0..).zip(keys).filter(|(_, key)| range.contains(**key)).map(|(sub, _)| sub).collect();
        self.put(aggregate.hash_key, KPL_PARTITION_KEY, aggregate.data, Some(subs));
        keys.iter().copied().filter(|key| !range.contains(*key)).collect()
    }

    fn put(&self, key: HashKey, partition_key: &'static str, data: Bytes, subs: Option<Vec<u64>>) {
        let arrival = self.clock();
        let put = {
            let state = &mut *self.state();
            let number = state.next_record;
            let owner = state.shards.iter_mut().find(|(_, log)| !log.is_closed && log.range.contains(key));
            owner.map(|(shard, log)| {
                let record = Record::new(sequence_number(number), data)
                    .with_partition_key(Some(partition_key.into()))
                    .with_arrival(Some(arrival));
                log.records.push_back((number, record));
                state.next_record += 1;
                (*shard, number, log.changed.clone())
            })
        };
        let Some((shard, record, changed)) = put else { return };
        self.observer.record(EventKind::RecordPut { shard, record, subs: subs.unwrap_or_else(|| vec![0]) });
        changed.notify_waiters();
    }

    /// Splits a shard in the middle.
    pub fn split(&self, choice: u64, hidden_for: Duration) {
        let chosen = self.open_shard(choice);
        let Some((shard, old)) = chosen else { return };
        let (start, end) = (old.start().0, old.end().0);
        if end - start < MIN_WIDTH {
            return;
        }
        let middle = start + (end - start) / 2;
        self.close(shard, old);
        self.add(range(start, middle), BTreeSet::from([shard]), hidden_for);
        self.add(range(middle + 1, end), BTreeSet::from([shard]), hidden_for);
        self.announce(shard);
    }

    /// Merges a shard with its right neighbour, if there is one.
    pub fn merge(&self, choice: u64, hidden_for: Duration) {
        let chosen = self.open_shard(choice);
        let Some((left, left_range)) = chosen else { return };
        let neighbour = {
            let state = self.state();
            let next = left_range.end().0.checked_add(1);
            let found =
                state.shards.iter().find(|(_, log)| !log.is_closed && Some(log.range.start().0) == next);
            found.map(|(number, log)| (*number, log.range))
        };
        let Some((right, right_range)) = neighbour else { return };
        self.close(left, left_range);
        self.close(right, right_range);
        let whole = range(left_range.start().0, right_range.end().0);
        self.add(whole, BTreeSet::from([left, right]), hidden_for);
        self.announce(left);
        self.announce(right);
    }

    fn open_shard(&self, choice: u64) -> Option<(u32, HashKeyRange)> {
        let state = self.state();
        let open: Vec<_> = state.shards.iter().filter(|(_, log)| !log.is_closed).collect();
        let index = usize::try_from(choice.checked_rem(open.len() as u64)?).ok()?;
        open.get(index).map(|(number, log)| (**number, log.range))
    }

    fn close(&self, shard: u32, range: HashKeyRange) {
        let now = self.clock();
        {
            let state = &mut *self.state();
            state.outdated = Some((range, now + OUTDATED_FOR));
            if let Some(log) = state.shards.get_mut(&shard) {
                log.is_closed = true;
                log.closed_at = Some(now);
            }
        }
        self.observer.record(EventKind::ShardClosed { shard });
    }

    fn announce(&self, shard: u32) {
        if let Some(changed) = self.changes(shard) {
            changed.notify_waiters();
        }
    }

    /// Removes older records, and shards that were closed before.
    pub fn trim(&self, older_than: Duration) {
        let limit = self.clock().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut trimmed = Vec::new();
        {
            let state = &mut *self.state();
            for (number, log) in &mut state.shards {
                let is_old = |record: &Record| record.approximate_arrival.is_some_and(|at| at < limit);
                let mut before = None;
                while log.records.front().is_some_and(|(_, record)| is_old(record)) {
                    before = log.records.pop_front().map(|(number, _)| number + 1);
                }
                if log.is_over(limit) {
                    before = Some(u64::MAX);
                }
                trimmed.extend(before.map(|before| (*number, before)));
            }
            state.shards.retain(|_, log| !log.is_over(limit));
        }
        for (shard, before) in trimmed {
            self.observer.record(EventKind::RecordsTrimmed { shard, before });
        }
    }
}

fn aggregate_of(keys: &[HashKey]) -> Option<AggregatedRecord> {
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for key in keys {
        // A few one-byte sub-records always fit.
        let _ = aggregator.add(RECORD_KEY, Some(*key), b"x");
    }
    aggregator.finish()
}
