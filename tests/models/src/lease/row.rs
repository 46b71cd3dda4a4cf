//! Rows and writes in small numbers, and their conversion from and to the types of the crates.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use lease_store::{Lease, LeaseChange, LeaseVersion, LeaseWrite, Position, ShardId, WorkerId};

/// The number of a worker.
pub type Worker = u8;

/// The counter of the row in the table. All other counters are relative to it.
const TABLE_COUNTER: u64 = 100;

/// The age from which on a counter is only known to be old.
pub(super) const OLD: u8 = 3;

/// Most workers of a model.
const MAX_WORKERS: usize = 4;

static WORKERS: LazyLock<Vec<WorkerId>> = LazyLock::new(|| {
    let names = ["a", "b", "c", "d"].into_iter().take(MAX_WORKERS);
    names.filter_map(|name| WorkerId::new(name).ok()).collect()
});

static SHARD: LazyLock<ShardId> = LazyLock::new(|| ShardId::numbered(0));

/// Returns the name of a worker.
pub(super) fn worker_id(worker: Worker) -> WorkerId {
    WORKERS[usize::from(worker)].clone()
}

/// Returns the shard of the lease.
pub(super) fn shard_id() -> ShardId {
    SHARD.clone()
}

fn number_of(worker: &WorkerId) -> Worker {
    let offset = WORKERS.iter().position(|known| known == worker).unwrap_or(MAX_WORKERS);
    u8::try_from(offset).unwrap_or(u8::MAX)
}

/// Converts an offset in the shard: 0 is its beginning, followed by one offset per record.
pub(super) fn position(offset: u8) -> Position {
    if offset == 0 { Position::TrimHorizon } else { Position::after(u128::from(offset).into(), 0) }
}

/// Returns the offset of a position.
pub(super) fn offset_of(position: &Position) -> u8 {
    (0..=u8::MAX).find(|offset| self::position(*offset) == *position).unwrap_or(u8::MAX)
}

/// A row in the table, or as a worker observed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Row {
    /// How far its counter is behind the one in the table, up to [`OLD`].
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
    /// Converts to the type of the crates.
    pub fn lease(&self) -> Lease {
        let mut lease = Lease::unowned(shard_id(), position(self.checkpoint));
        lease.counter = TABLE_COUNTER - u64::from(self.age);
        lease.owner = self.owner.map(worker_id);
        lease.checkpoint_owner = self.checkpoint_owner.map(worker_id);
        lease.requested_by = self.requested_by.map(worker_id);
        lease.offered_by = self.offered_by.map(worker_id);
        lease
    }

    /// Converts a row of the crates. Also returns by how much its counter exceeds the one in the table. The number of
    /// owner switches decides nothing and is omitted.
    pub fn of(lease: &Lease) -> (Self, i64) {
        let ahead = lease.counter.cast_signed() - TABLE_COUNTER.cast_signed();
        let row = Self {
            age: u8::try_from(-ahead.min(0)).unwrap_or(OLD).min(OLD),
            owner: lease.owner.as_ref().map(number_of),
            checkpoint_owner: lease.checkpoint_owner.as_ref().map(number_of),
            checkpoint: offset_of(&lease.checkpoint),
            requested_by: lease.requested_by.as_ref().map(number_of),
            offered_by: lease.offered_by.as_ref().map(number_of),
        };
        (row, ahead)
    }

    /// Returns the part that writes are conditional on.
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

/// The version that a write expects; see [`LeaseVersion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// See [`Row::age`].
    pub age: u8,
    /// See [`Row::owner`].
    pub owner: Option<Worker>,
    /// See [`Row::checkpoint_owner`].
    pub checkpoint_owner: Option<Worker>,
}

/// A change; see [`LeaseChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Renews the lease.
    Renew,
    /// Writes a checkpoint.
    Checkpoint(u8),
    /// Takes the lease for a worker.
    Take(Worker),
    /// The owner hands the lease over to a worker.
    HandOver(Worker),
    /// A worker requests the lease, instead of another requester.
    Request(Worker, Option<Worker>),
    /// A worker withdraws its request.
    Withdraw(Worker),
    /// The owner offers the lease to the requester.
    Offer,
    /// The owner releases the lease.
    Release,
}

impl Change {
    /// Converts to the type of the crates.
    pub fn full(self) -> LeaseChange {
        match self {
            Self::Renew => LeaseChange::Renew,
            Self::Checkpoint(offset) => {
                LeaseChange::Checkpoint { position: position(offset), children: BTreeSet::new() }
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
    /// The expected version.
    pub expected: Version,
    /// The change.
    pub change: Change,
}

impl Write {
    /// Converts to the type of the crates.
    pub fn full(&self) -> LeaseWrite {
        let expected = LeaseVersion {
            counter: TABLE_COUNTER - u64::from(self.expected.age),
            owner: self.expected.owner.map(worker_id),
            checkpoint_owner: self.expected.checkpoint_owner.map(worker_id),
        };
        LeaseWrite::Update { shard_id: shard_id(), expected, change: self.change.full() }
    }

    /// Converts a write of a holder; the holder chose its condition.
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
