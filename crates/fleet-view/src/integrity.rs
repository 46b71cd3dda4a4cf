//! What a table says that its stream contradicts, row by row: positions, lineage and hash keys. Each fault names its remedy. Pure.
//!
//! [`Sign`](crate::Sign)s are about the table as a whole, and show at every look. These faults cost a little more to find, and
//! concern a table that a person has edited, restored or taken over from another program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lease_store::{Lease, Position, ShardId};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::look::{Look, ShardInfo};
use crate::shard_view::ShardState;
use crate::signs::named;
use crate::snapshot::FleetSnapshot;
use crate::text::duration_text;

/// A contradiction between a table and its stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RowFault {
    /// The rows say that these shards are read to their end, but they still take records.
    OpenShardsEnded {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// These shards have no row, although a parent is read to its end: no worker reads them.
    OrphanedShards {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// These shards have no row, and none of their parents is read to its end.
    MissingRows {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The rows of these shards name other parents than the stream.
    OtherParents {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The rows of these shards name children that the stream lists with other parents.
    OtherChildren {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The rows of these shards have other hash keys than the stream.
    OtherHashKeys {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The lineage of these shards is a circle, so that none of them ever begins.
    Circle {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// These shards were begun before a parent was read to its end.
    BegunBeforeParents {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The positions of these shards are older than the oldest record that the stream keeps, and records wait.
    BeforeHorizon {
        /// The shards.
        shards: Vec<ShardId>,
        /// How far the oldest of the positions is before the horizon, in milliseconds.
        millis: u64,
    },
    /// The positions of these shards are older than the stream: they are of a deleted stream of the same name.
    BeforeStream {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The positions of these shards are newer than the look: they are of another stream, or a clock is wrong.
    InFuture {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// These shards are at `LATEST` or `AT_TIMESTAMP`, and the rows do not tell of which instant.
    InstantUnknown {
        /// The shards.
        shards: Vec<ShardId>,
    },
}

/// How far a position may be newer than the look, or older than the stream, in milliseconds: clocks differ.
const CLOCK_TOLERANCE_MILLIS: u64 = 300_000;

impl RowFault {
    /// Whether records may be lost, repeated or read by no worker because of it.
    pub fn is_error(&self) -> bool {
        match self {
            Self::OpenShardsEnded { .. }
            | Self::OrphanedShards { .. }
            | Self::OtherParents { .. }
            | Self::OtherHashKeys { .. }
            | Self::Circle { .. }
            | Self::BeforeHorizon { .. }
            | Self::BeforeStream { .. }
            | Self::InFuture { .. } => true,
            Self::MissingRows { .. }
            | Self::OtherChildren { .. }
            | Self::BegunBeforeParents { .. }
            | Self::InstantUnknown { .. } => false,
        }
    }
}

impl fmt::Display for RowFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenShardsEnded { shards } => write!(
                formatter,
                "the rows say that {} are read to their end, but they still take records; reset them to a position",
                named(shards)
            ),
            Self::OrphanedShards { shards } => write!(
                formatter,
                "{} have no row although a parent is read to its end, so no worker reads them; start a worker, which adds the rows, \
                 or reset them to trim-horizon",
                named(shards)
            ),
            Self::MissingRows { shards } => {
                write!(formatter, "{} have no row yet; a running worker adds it", named(shards))
            }
            Self::OtherParents { shards } => write!(
                formatter,
                "the rows of {} name other parents than the stream; the rows are of another stream, or edited: use another \
                 table, or delete these rows while no worker runs",
                named(shards)
            ),
            Self::OtherChildren { shards } => write!(
                formatter,
                "the rows of {} name children that the stream lists with other parents; compare them with aws kinesis list-shards",
                named(shards)
            ),
            Self::OtherHashKeys { shards } => write!(
                formatter,
                "the rows of {} have other hash keys than the stream, so workers refuse the table; use another table",
                named(shards)
            ),
            Self::Circle { shards } => write!(
                formatter,
                "the lineage of {} is a circle, so they wait for each other; repair parentShardId of their rows",
                named(shards)
            ),
            Self::BegunBeforeParents { shards } => write!(
                formatter,
                "{} were begun before a parent was read to its end, so records of a key may come out of order; nothing can be \
                 done about records that are read already",
                named(shards)
            ),
            Self::BeforeHorizon { shards, millis } => write!(
                formatter,
                "records wait after the positions of {}, which are up to {} before the oldest record that the stream keeps, so \
                 records are lost; start workers, and keep records longer",
                named(shards),
                duration_text(*millis)
            ),
            Self::BeforeStream { shards } => write!(
                formatter,
                "the positions of {} are older than the stream, so they are of a deleted stream of the same name; use another \
                 table, or reset the application",
                named(shards)
            ),
            Self::InFuture { shards } => write!(
                formatter,
                "the positions of {} lie in the future; the rows are of another stream, or the clock is wrong",
                named(shards)
            ),
            Self::InstantUnknown { shards } => write!(
                formatter,
                "{} are at LATEST or AT_TIMESTAMP without an instant, so each new owner starts where its settings say; set the \
                 same initial position for all workers",
                named(shards)
            ),
        }
    }
}

/// The faults of the rows of a look. `position_times` has the arrival, in milliseconds since 1970, of the records that positions
/// name, as far as it is known.
pub fn row_faults(look: &Look, position_times: &BTreeMap<ShardId, u64>) -> Vec<RowFault> {
    let mut found = Found::default();
    let snapshot = FleetSnapshot::of(look);
    let (rows, listed) = (look.rows(), look.listed());
    let in_circles = Lineage::of(look).in_circles();
    for lease in &look.leases {
        found.check_row(look, lease, listed.get(&lease.shard_id).copied(), &listed);
        if in_circles.contains(&lease.shard_id) {
            found.circle.push(lease.shard_id.clone());
        }
        let has_open_parent =
            lease.parents.iter().any(|parent| rows.get(parent).is_some_and(|parent| !parent.is_finished()));
        if has_open_parent && matches!(lease.checkpoint, Position::After(_)) {
            found.begun_early.push(lease.shard_id.clone());
        }
        found.check_time(look, &snapshot, lease, position_times.get(&lease.shard_id).copied());
    }
    for shard in snapshot.shards.iter().filter(|shard| shard.state == ShardState::NoRow) {
        let is_read = |parent: &ShardId| rows.get(parent).is_some_and(|row| row.is_finished());
        let is_orphaned = shard.parents.iter().any(is_read);
        let list = if is_orphaned { &mut found.orphaned } else { &mut found.missing };
        list.push(shard.shard_id.clone());
    }
    found.faults()
}

/// The shards of each fault.
#[derive(Debug, Default)]
struct Found {
    open_ended: Vec<ShardId>,
    orphaned: Vec<ShardId>,
    missing: Vec<ShardId>,
    other_parents: Vec<ShardId>,
    other_children: Vec<ShardId>,
    other_keys: Vec<ShardId>,
    circle: Vec<ShardId>,
    begun_early: Vec<ShardId>,
    before_horizon: Vec<ShardId>,
    before_horizon_millis: u64,
    before_stream: Vec<ShardId>,
    in_future: Vec<ShardId>,
    no_instant: Vec<ShardId>,
}

impl Found {
    /// Compares a row with the shard that the stream lists.
    fn check_row(
        &mut self,
        look: &Look,
        lease: &Lease,
        shard: Option<&ShardInfo>,
        listed: &BTreeMap<&ShardId, &ShardInfo>,
    ) {
        let shard_id = || lease.shard_id.clone();
        let has_no_instant = matches!(lease.checkpoint, Position::Latest | Position::AtTimestamp)
            && lease.initial_time_millis.is_none();
        if has_no_instant {
            self.no_instant.push(shard_id());
        }
        let is_other_child =
            |child: &ShardId| listed.get(child).is_some_and(|child| !child.parents.contains(&lease.shard_id));
        if lease.children.iter().any(is_other_child) {
            self.other_children.push(shard_id());
        }
        let Some(shard) = shard.filter(|_| look.shards.is_some()) else { return };
        if shard.is_open && lease.is_finished() {
            self.open_ended.push(shard_id());
        }
        // Rows of the KCL for the first shards of a stream have no parents; neither does a row without the attribute.
        let is_same = |parents: &BTreeSet<ShardId>| parents.is_empty() || *parents == shard.parents;
        if !is_same(&lease.parents) {
            self.other_parents.push(shard_id());
        }
        if lease.hash_key_range.zip(shard.hash_key_range).is_some_and(|(row, real)| row != real) {
            self.other_keys.push(shard_id());
        }
    }

    /// Compares a position with the retention.
    fn check_time(&mut self, look: &Look, snapshot: &FleetSnapshot, lease: &Lease, recorded: Option<u64>) {
        let of_instant = || match lease.checkpoint {
            Position::Latest | Position::AtTimestamp => lease.initial_time_millis,
            _ => None,
        };
        let Some(at_millis) = recorded.or_else(of_instant).filter(|_| !lease.is_finished()) else { return };
        if at_millis > look.taken_at_millis.saturating_add(CLOCK_TOLERANCE_MILLIS) {
            self.in_future.push(lease.shard_id.clone());
            return;
        }
        let Some(stream) = &look.stream else { return };
        let created_millis = stream.identity.creation_epoch_seconds.saturating_mul(1000);
        if recorded.is_some_and(|at| at.saturating_add(CLOCK_TOLERANCE_MILLIS) < created_millis) {
            self.before_stream.push(lease.shard_id.clone());
            return;
        }
        let horizon = look.taken_at_millis.saturating_sub(stream.retention_millis);
        // An idle shard keeps the position of its last record, which the stream has removed meanwhile.
        let waits = snapshot
            .shard(&lease.shard_id)
            .and_then(|shard| snapshot.behind_millis(shard))
            .is_some_and(|behind| behind > 0);
        if waits && at_millis < horizon {
            self.before_horizon.push(lease.shard_id.clone());
            self.before_horizon_millis = self.before_horizon_millis.max(horizon - at_millis);
        }
    }

    fn faults(self) -> Vec<RowFault> {
        let millis = self.before_horizon_millis;
        let faults = [
            (
                self.open_ended,
                (|shards| RowFault::OpenShardsEnded { shards }) as fn(Vec<ShardId>) -> RowFault,
            ),
            (self.orphaned, |shards| RowFault::OrphanedShards { shards }),
            (self.missing, |shards| RowFault::MissingRows { shards }),
            (self.other_parents, |shards| RowFault::OtherParents { shards }),
            (self.other_children, |shards| RowFault::OtherChildren { shards }),
            (self.other_keys, |shards| RowFault::OtherHashKeys { shards }),
            (self.circle, |shards| RowFault::Circle { shards }),
            (self.begun_early, |shards| RowFault::BegunBeforeParents { shards }),
            (self.before_stream, |shards| RowFault::BeforeStream { shards }),
            (self.in_future, |shards| RowFault::InFuture { shards }),
            (self.no_instant, |shards| RowFault::InstantUnknown { shards }),
        ];
        let mut found: Vec<RowFault> = faults
            .into_iter()
            .filter(|(shards, _)| !shards.is_empty())
            .map(|(shards, fault)| fault(shards))
            .collect();
        if !self.before_horizon.is_empty() {
            found.push(RowFault::BeforeHorizon { shards: self.before_horizon, millis });
        }
        found
    }
}
