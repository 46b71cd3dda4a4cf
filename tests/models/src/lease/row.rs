//! Rows and writes in small numbers, and back: what the states of the model are made of.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lease_store::{Lease, LeaseChange, LeaseVersion, LeaseWrite, Position, ShardId, WorkerId};

/// A worker, by its number.
pub type Worker = u8;

/// The counter of the row in the table, whatever it is: all others are told from it.
const TABLE_COUNTER: u64 = 100;

/// A counter that lies so far behind that of the table is only old.
pub(super) const OLD: u8 = 3;

/// The most workers of a model.
const MAX_WORKERS: usize = 4;

static WORKERS: LazyLock<Vec<WorkerId>> = LazyLock::new(|| {
    let names = ["a", "b", "c", "d"].into_iter().take(MAX_WORKERS);
    names.filter_map(|name| WorkerId::new(name).ok()).collect()
});

static SHARD: LazyLock<ShardId> = LazyLock::new(|| ShardId::numbered(0));

/// The name of a worker.
pub(super) fn worker_id(worker: Worker) -> WorkerId {
    WORKERS[usize::from(worker)].clone()
}

/// The shard of the lease.
pub(super) fn shard_id() -> ShardId {
    SHARD.clone()
}

fn number_of(worker: &WorkerId) -> Worker {
    let place = WORKERS.iter().position(|known| known == worker).unwrap_or(MAX_WORKERS);
    u8::try_from(place).unwrap_or(u8::MAX)
}

/// A place in the shard: 0 is its beginning, and then one for each record.
pub(super) fn position(place: u8) -> Position {
    if place == 0 { Position::TrimHorizon } else { Position::after(u128::from(place).into(), 0) }
}

/// The place of a position.
pub(super) fn place_of(position: &Position) -> u8 {
    (0..=u8::MAX).find(|place| self::position(*place) == *position).unwrap_or(u8::MAX)
}

/// A row as it stands in the table, or as somebody saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Row {
    /// How far its counter lies behind that of the table, up to [`OLD`].
    pub age: u8,
    /// See [`Lease::owner`].
    pub owner: Option<Worker>,
    /// See [`Lease::checkpoint_owner`].
    pub checkpoint_owner: Option<Worker>,
    /// See [`Lease::checkpoint`].
    pub checkpoint: u8,
    /// See [`Lease::requested_by`].
    pub requested_by: Option<Worker>,
    /// See [`Lease::offered_by`].
    pub offered_by: Option<Worker>,
}

impl Row {
    /// The row that the crates know.
    pub fn lease(&self) -> Lease {
        let mut lease = Lease::unowned(shard_id(), position(self.checkpoint));
        lease.counter = TABLE_COUNTER - u64::from(self.age);
        lease.owner = self.owner.map(worker_id);
        lease.checkpoint_owner = self.checkpoint_owner.map(worker_id);
        lease.requested_by = self.requested_by.map(worker_id);
        lease.offered_by = self.offered_by.map(worker_id);
        lease
    }

    /// A row of the crates, and by how much its counter is larger than that of the table. How often the owner changed is left
    /// out: nothing is decided by it.
    pub fn of(lease: &Lease) -> (Self, i64) {
        let ahead = lease.counter.cast_signed() - TABLE_COUNTER.cast_signed();
        let row = Self {
            age: u8::try_from(-ahead.min(0)).unwrap_or(OLD).min(OLD),
            owner: lease.owner.as_ref().map(number_of),
            checkpoint_owner: lease.checkpoint_owner.as_ref().map(number_of),
            checkpoint: place_of(&lease.checkpoint),
            requested_by: lease.requested_by.as_ref().map(number_of),
            offered_by: lease.offered_by.as_ref().map(number_of),
        };
        (row, ahead)
    }

    /// The part that writes are conditional on.
    pub fn version(&self) -> Version {
        Version { age: self.age, owner: self.owner, checkpoint_owner: self.checkpoint_owner }
    }

    pub(super) fn rename(&mut self, names: &[Worker]) {
        let fields =
            [&mut self.owner, &mut self.checkpoint_owner, &mut self.requested_by, &mut self.offered_by];
        for worker in fields.into_iter().flatten() {
            *worker = names[usize::from(*worker)];
        }
    }
}

/// What a write must still find; see [`LeaseVersion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// As in a [`Row`].
    pub age: u8,
    /// As in a [`Row`].
    pub owner: Option<Worker>,
    /// As in a [`Row`].
    pub checkpoint_owner: Option<Worker>,
}

/// A change; see [`LeaseChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Heartbeat.
    Renew,
    /// How far the shard is read.
    Checkpoint(u8),
    /// Another owner takes it.
    Take(Worker),
    /// The owner makes another worker the owner.
    HandOver(Worker),
    /// Another worker asks for it.
    Request(Worker, Option<Worker>),
    /// It no longer does.
    Withdraw(Worker),
    /// The owner agrees.
    Offer,
    /// The owner gives it up.
    Release,
}

impl Change {
    /// The change that the crates know.
    pub fn full(self) -> LeaseChange {
        match self {
            Self::Renew => LeaseChange::Renew,
            Self::Checkpoint(place) => {
                LeaseChange::Checkpoint { position: position(place), children: BTreeSet::new() }
            }
            Self::Take(worker) => LeaseChange::take(worker_id(worker)),
            Self::HandOver(worker) => LeaseChange::HandOver { to: worker_id(worker) },
            Self::Request(worker, instead_of) => {
                LeaseChange::Request { by: worker_id(worker), instead_of: instead_of.map(worker_id) }
            }
            Self::Withdraw(worker) => LeaseChange::Withdraw { by: worker_id(worker) },
            Self::Offer => LeaseChange::Offer,
            Self::Release => LeaseChange::Release,
        }
    }

    fn rename(&mut self, names: &[Worker]) {
        let rename = |worker: &mut Worker| *worker = names[usize::from(*worker)];
        match self {
            Self::Take(worker) | Self::HandOver(worker) | Self::Withdraw(worker) => rename(worker),
            Self::Request(worker, instead_of) => {
                rename(worker);
                instead_of.iter_mut().for_each(rename);
            }
            Self::Renew | Self::Checkpoint(_) | Self::Offer | Self::Release => {}
        }
    }
}

/// A conditional update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Write {
    /// What it must still find.
    pub expected: Version,
    /// What it changes.
    pub change: Change,
}

impl Write {
    /// The write that the crates know.
    pub fn full(&self) -> LeaseWrite {
        let expected = LeaseVersion {
            counter: TABLE_COUNTER - u64::from(self.expected.age),
            owner: self.expected.owner.map(worker_id),
            checkpoint_owner: self.expected.checkpoint_owner.map(worker_id),
        };
        LeaseWrite::Update { shard_id: shard_id(), expected, change: self.change.full() }
    }

    /// The write of a holder for a change; the condition is the holder's.
    pub fn of(write: &LeaseWrite, change: Change) -> Self {
        let mut seen = Row::default().lease();
        if let LeaseWrite::Update { expected, .. } = write {
            seen.counter = expected.counter;
            seen.owner.clone_from(&expected.owner);
            seen.checkpoint_owner.clone_from(&expected.checkpoint_owner);
        }
        Self { expected: Row::of(&seen).0.version(), change }
    }

    pub(super) fn rename(&mut self, names: &[Worker]) {
        for worker in [&mut self.expected.owner, &mut self.expected.checkpoint_owner].into_iter().flatten() {
            *worker = names[usize::from(*worker)];
        }
        self.change.rename(names);
    }
}
