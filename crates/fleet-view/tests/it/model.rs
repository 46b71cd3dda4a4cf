//! A fleet in steps of a second: records arrive, workers process, checkpoint and renew, and a reader looks.

use std::collections::{BTreeMap, BTreeSet};

use fleet_view::{
    FleetVerdict, History, LagOrigin, LagSample, Look, Pause, ShardInfo, ShardNotes, StreamSummary, Verdict,
};
use lease_store::{HashKey, HashKeyRange, Lease, Position, ShardId, StreamIdentity, WorkerId};

/// The time of the first look.
pub(crate) const START_MILLIS: u64 = 1_796_000_000_000;

/// How often a probe measures each shard.
const PROBE_SECONDS: u64 = 60;

/// Who measures the lag of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    ByWorker,
    ByProbe,
    Never,
}

/// A shard with its lease and its worker. Rates are in records in 1,000 s.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) id: u64,
    pub(crate) parents: Vec<u64>,
    pub(crate) is_open: bool,
    pub(crate) has_row: bool,
    pub(crate) owner: Option<String>,
    pub(crate) process: Option<String>,
    pub(crate) counter: u64,
    pub(crate) arriving: u64,
    pub(crate) capacity: u64,
    /// How long the handler needs for a batch, in seconds; 0: it processes record by record.
    pub(crate) batch_seconds: u64,
    pub(crate) checkpoint_seconds: u64,
    pub(crate) renew_seconds: u64,
    /// How much later the worker renews and checkpoints than others.
    pub(crate) phase: u64,
    pub(crate) hangs: bool,
    pub(crate) is_dead: bool,
    pub(crate) pause: Option<Pause>,
    pub(crate) measured: Measured,
    /// The arrival of each record, in seconds. The sequence number of a record is its index and one.
    pub(crate) arrivals: Vec<u64>,
    pub(crate) done: usize,
    pub(crate) stored: usize,
    pub(crate) is_ended: bool,
    pub(crate) busy_until: u64,
    pub(crate) arrival_credit: u64,
    pub(crate) work_credit: u64,
    pub(crate) lag: Option<LagSample>,
}

impl Shard {
    /// A shard with a live worker that processes twice as much as arrives.
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            parents: Vec::new(),
            is_open: true,
            has_row: true,
            owner: Some("worker-a".to_owned()),
            process: None,
            counter: 1,
            arriving: 1_000,
            capacity: 2_000,
            batch_seconds: 0,
            checkpoint_seconds: 10,
            renew_seconds: 3,
            phase: id,
            hangs: false,
            is_dead: false,
            pause: None,
            measured: Measured::ByWorker,
            arrivals: Vec::new(),
            done: 0,
            stored: 0,
            is_ended: false,
            busy_until: 0,
            arrival_credit: 0,
            work_credit: 0,
            lag: None,
        }
    }

    /// Adds records that arrived before the first look.
    pub(crate) fn with_backlog(mut self, seconds: u64) -> Self {
        let count = seconds * self.arriving / 1_000;
        self.arrivals =
            (0..count).map(|index| BEFORE_SECONDS - seconds + index * 1_000 / self.arriving).collect();
        self
    }

    fn step(&mut self, now: u64) {
        self.arrival_credit += if self.is_open { self.arriving } else { 0 };
        while self.arrival_credit >= 1_000 {
            self.arrival_credit -= 1_000;
            self.arrivals.push(now);
        }
        let is_paused = self.pause.as_ref().is_some_and(|pause| pause.is_in_force(millis(now)));
        if self.owner.is_none() || self.is_dead || !self.has_row || self.is_ended {
            return;
        }
        if !self.hangs && !is_paused {
            self.process(now);
        }
        let is_due = |every: u64| (now + self.phase).is_multiple_of(every);
        let stores = is_due(self.checkpoint_seconds) && self.done > self.stored;
        if stores {
            self.stored = self.done;
        }
        if stores || is_due(self.renew_seconds) {
            self.counter += 1;
            if self.measured == Measured::ByWorker {
                self.measure(now, LagOrigin::Worker);
            }
        }
        if !self.is_open && self.stored == self.arrivals.len() {
            self.is_ended = true;
        }
    }

    fn process(&mut self, now: u64) {
        if self.batch_seconds > 0 {
            if now < self.busy_until {
                return;
            }
            let batch = usize::try_from(self.capacity * self.batch_seconds / 1_000).unwrap().max(1);
            self.done = self.arrivals.len().min(self.done + if self.busy_until > 0 { batch } else { 0 });
            self.busy_until = now + self.batch_seconds;
            return;
        }
        self.work_credit = (self.work_credit + self.capacity).min(self.capacity.max(1_000) * 2);
        while self.work_credit >= 1_000 && self.done < self.arrivals.len() {
            self.work_credit -= 1_000;
            self.done += 1;
        }
    }

    fn measure(&mut self, now: u64, origin: LagOrigin) {
        // A record that waits is at least a millisecond old.
        let behind = self.arrivals.get(self.stored).map_or(0, |arrived| ((now - arrived) * 1_000).max(1));
        self.lag = Some(LagSample {
            measured_at_millis: millis(now),
            behind_millis: behind,
            arriving_bytes_per_second: None,
            processed_bytes_per_second: None,
            origin,
        });
    }

    /// Moves the position back, as an operator does. The worker follows.
    pub(crate) fn rewind(&mut self, records: usize) {
        self.stored = self.stored.saturating_sub(records);
        self.done = self.stored;
        self.counter += 1;
    }

    /// Another worker takes the lease.
    pub(crate) fn take(&mut self, owner: &str) {
        self.owner = Some(owner.to_owned());
        self.is_dead = false;
        self.done = self.stored;
        self.busy_until = 0;
        self.counter += 1;
    }

    fn lease(&self) -> Lease {
        let position = match (self.is_ended, self.stored) {
            (true, _) => Position::ShardEnd,
            (false, 0) => Position::TrimHorizon,
            (false, stored) => Position::after((stored as u128).into(), 0),
        };
        let mut lease = Lease::unowned(ShardId::numbered(self.id), position);
        lease.owner = self.owner.clone().map(|owner| WorkerId::new(owner).unwrap());
        lease.owner_process.clone_from(&self.process);
        lease.counter = self.counter;
        lease.parents = self.parents.iter().map(|parent| ShardId::numbered(*parent)).collect();
        lease
    }
}

/// The seconds before the first look that records may have arrived in.
const BEFORE_SECONDS: u64 = 1_000_000;

fn millis(second: u64) -> u64 {
    START_MILLIS + second * 1_000 - BEFORE_SECONDS * 1_000
}

/// The application under the eyes of a reader.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) shards: Vec<Shard>,
    pub(crate) look_seconds: u64,
    pub(crate) retention_seconds: u64,
    now: u64,
    looks: u64,
    history: History,
    before: BTreeMap<ShardId, Verdict>,
}

impl Fleet {
    pub(crate) fn new(shards: impl IntoIterator<Item = Shard>) -> Self {
        Self {
            shards: shards.into_iter().collect(),
            look_seconds: 10,
            retention_seconds: 86_400,
            now: BEFORE_SECONDS,
            looks: 0,
            history: History::new(),
            before: BTreeMap::new(),
        }
    }

    pub(crate) fn every(mut self, seconds: u64) -> Self {
        self.look_seconds = seconds;
        self
    }

    /// Seconds since the first look.
    pub(crate) fn passed(&self) -> u64 {
        self.now - BEFORE_SECONDS
    }

    fn step(&mut self) {
        self.now += 1;
        let (now, probes) = (self.now, self.now.is_multiple_of(PROBE_SECONDS));
        for shard in &mut self.shards {
            shard.step(now);
            if probes && shard.measured == Measured::ByProbe {
                shard.measure(now, LagOrigin::Probe);
            }
        }
    }

    /// Runs until the next look, and returns it.
    pub(crate) fn next_look(&mut self) -> Look {
        if self.looks > 0 {
            (0..self.look_seconds).for_each(|_| self.step());
        }
        self.looks += 1;
        self.look()
    }

    /// The look at the present time.
    pub(crate) fn look(&self) -> Look {
        let count = self.shards.iter().filter(|shard| shard.is_open).count().max(1) as u128;
        let width = u128::MAX / count;
        let mut index = 0;
        let mut infos = Vec::new();
        for shard in &self.shards {
            // Closed shards cover everything, which is enough for a look.
            let range = if shard.is_open {
                let start = width * index;
                index += 1;
                let end = if index == count { u128::MAX } else { start + width - 1 };
                HashKeyRange::new(HashKey(start), HashKey(end)).unwrap()
            } else {
                HashKeyRange::FULL
            };
            infos.push(ShardInfo {
                shard_id: ShardId::numbered(shard.id),
                parents: shard
                    .parents
                    .iter()
                    .map(|parent| ShardId::numbered(*parent))
                    .collect::<BTreeSet<_>>(),
                hash_key_range: Some(range),
                is_open: shard.is_open,
            });
        }
        let notes =
            |shard: &Shard| ShardNotes { lag: shard.lag.clone(), pause: shard.pause.clone(), request: None };
        Look {
            taken_at_millis: millis(self.now),
            application: "app".to_owned(),
            leases: self.shards.iter().filter(|shard| shard.has_row).map(Shard::lease).collect(),
            shards: Some(infos),
            stream: Some(StreamSummary {
                name: "events".to_owned(),
                identity: StreamIdentity { arn: "arn:events".to_owned(), creation_epoch_seconds: 7 },
                status: "ACTIVE".to_owned(),
                retention_millis: self.retention_seconds * 1_000,
            }),
            notes: self.shards.iter().map(|shard| (ShardId::numbered(shard.id), notes(shard))).collect(),
            ..Look::default()
        }
    }

    /// Runs until the next look, and returns its verdict.
    pub(crate) fn next_verdict(&mut self) -> FleetVerdict {
        let look = self.next_look();
        self.history.add(&look).unwrap();
        self.history.verdict()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }

    /// The shards whose verdict is another one than at the look before.
    pub(crate) fn changed(&mut self, verdict: &FleetVerdict) -> Vec<(ShardId, Verdict)> {
        let now: BTreeMap<ShardId, Verdict> =
            verdict.shards.iter().map(|(shard_id, verdict)| (shard_id.clone(), verdict.verdict)).collect();
        let changed = now.iter().filter(|(shard_id, verdict)| self.before.get(*shard_id) != Some(*verdict));
        let changed = changed.map(|(shard_id, verdict)| (shard_id.clone(), *verdict)).collect();
        self.before = now;
        changed
    }
}
