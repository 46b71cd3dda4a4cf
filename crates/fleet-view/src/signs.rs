//! Signs that something is wrong with a table, apart from the progress of its shards. Each names its remedy. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lease_store::{HashKeyRange, ShardId, StreamIdentity, WorkerId};
use serde::{Deserialize, Serialize};

use crate::coverage::holes;
use crate::look::{ForeignKind, Look};
use crate::owner_process::OwnerProcess;
use crate::shard_view::{ShardState, ShardView};

/// The most entries that a text names; the rest is counted.
const MAX_NAMED: usize = 3;

/// A sign that something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Sign {
    /// Hash keys that no lease covers.
    Hole {
        /// The hash keys, as `start-end`.
        hash_keys: String,
    },
    /// A lease that is not ended has no known hash keys, so that holes cannot be found.
    CoverageUnknown,
    /// A row that cannot be read as a lease.
    MalformedRow {
        /// Its key.
        key: String,
        /// The fault.
        reason: String,
    },
    /// Rows of other programs.
    UnknownRows {
        /// Their keys.
        keys: Vec<String>,
    },
    /// Rows that belong to another stream than the one that is read.
    OtherStream {
        /// The stream in the rows.
        in_rows: StreamIdentity,
        /// The stream that was described.
        described: StreamIdentity,
        /// The shards of the rows.
        shards: Vec<ShardId>,
    },
    /// Rows of shards that the stream no longer lists, and that are not read to their end: unread records of theirs are lost.
    GoneShards {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// The shards could not be listed, so that missing rows are not known.
    ShardsUnknown,
    /// A worker whose own measurements fail; the leader gives it no leases.
    FailingWorker {
        /// The worker.
        worker_id: WorkerId,
    },
    /// One worker wrote two rows about itself: it is in both layouts of a KCL 3.x fleet.
    WorkerListedTwice {
        /// The worker.
        worker_id: WorkerId,
    },
    /// Several live processes use one worker id. Only several looks show it.
    WorkerIdUsedTwice {
        /// The worker.
        worker_id: WorkerId,
        /// The processes.
        processes: Vec<OwnerProcess>,
    },
    /// The rows name several applications.
    ApplicationsInRows {
        /// Their names.
        applications: Vec<String>,
    },
    /// The positions of a shard move back again and again: two applications write to one table. Only several looks show it.
    SeveralApplications {
        /// The shards.
        shards: Vec<ShardId>,
    },
}

impl Sign {
    /// Whether records may be lost or read by no worker because of it.
    pub fn is_error(&self) -> bool {
        match self {
            Self::Hole { .. }
            | Self::MalformedRow { .. }
            | Self::OtherStream { .. }
            | Self::GoneShards { .. }
            | Self::WorkerIdUsedTwice { .. }
            | Self::ApplicationsInRows { .. }
            | Self::SeveralApplications { .. } => true,
            Self::CoverageUnknown
            | Self::UnknownRows { .. }
            | Self::ShardsUnknown
            | Self::FailingWorker { .. }
            | Self::WorkerListedTwice { .. } => false,
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hole { hash_keys } => write!(
                formatter,
                "no lease covers the hash keys {hash_keys}; start a worker, which adds the missing leases"
            ),
            Self::CoverageUnknown => formatter.write_str(
                "a lease lacks its hash keys, so holes cannot be found; a running worker adds the hash keys",
            ),
            Self::MalformedRow { key, reason } => {
                write!(formatter, "row {key:?} is malformed: {reason}; repair or delete the row")
            }
            Self::UnknownRows { keys } => {
                write!(formatter, "rows of another program: {}; give it a table of its own", named(keys))
            }
            Self::OtherStream { in_rows, described, shards } => write!(
                formatter,
                "the rows of {} belong to the stream {in_rows}, not to {described}; use another table",
                named(shards)
            ),
            Self::GoneShards { shards } => write!(
                formatter,
                "the stream no longer lists {}, whose end was not recorded; a running worker records it",
                named(shards)
            ),
            Self::ShardsUnknown => {
                formatter.write_str("the shards could not be listed; allow kinesis:ListShards")
            }
            Self::FailingWorker { worker_id } => {
                write!(formatter, "worker {worker_id} cannot measure its load; look at its log")
            }
            Self::WorkerListedTwice { worker_id } => write!(
                formatter,
                "worker {worker_id} reports in two tables; complete the migration of the KCL's tables"
            ),
            Self::WorkerIdUsedTwice { worker_id, processes } => write!(
                formatter,
                "{} processes use the worker id {worker_id}; give each process its own",
                processes.len()
            ),
            Self::ApplicationsInRows { applications } => write!(
                formatter,
                "the rows belong to the applications {}; give each application its own table",
                named(applications)
            ),
            Self::SeveralApplications { shards } => write!(
                formatter,
                "the positions of {} move back again and again; give each application its own table",
                named(shards)
            ),
        }
    }
}

/// The first names of a list, and how many there are besides.
pub(crate) fn named<T: fmt::Display>(names: &[T]) -> String {
    let shown: Vec<String> = names.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What one look alone shows.
pub(crate) fn signs_of_look(look: &Look, shards: &[ShardView]) -> Vec<Sign> {
    let mut signs = Vec::new();
    match holes(look) {
        Some(holes) => signs.extend(holes.iter().map(|hole| Sign::Hole { hash_keys: hash_keys(hole) })),
        None => signs.push(Sign::CoverageUnknown),
    }
    if look.shards.is_none() {
        signs.push(Sign::ShardsUnknown);
    }
    signs.extend(look.malformed.iter().map(|row| Sign::MalformedRow {
        key: row.key.clone(),
        reason: format!("attribute {:?}: {}", row.attribute, row.reason),
    }));
    let unknown = look.foreign.iter().filter(|row| row.kind == ForeignKind::Unknown);
    let keys: Vec<String> = unknown.map(|row| row.key.clone()).collect();
    if !keys.is_empty() {
        signs.push(Sign::UnknownRows { keys });
    }
    signs.extend(other_streams(look));
    let applications: BTreeSet<&String> =
        look.leases.iter().filter_map(|lease| lease.application.as_ref()).collect();
    if applications.len() > 1 {
        signs.push(Sign::ApplicationsInRows { applications: applications.into_iter().cloned().collect() });
    }
    let gone = shards.iter().filter(|shard| shard.state == ShardState::RowWithoutShard);
    let gone: Vec<ShardId> = gone.map(|shard| shard.shard_id.clone()).collect();
    if !gone.is_empty() {
        signs.push(Sign::GoneShards { shards: gone });
    }
    let mut seen = BTreeSet::new();
    for row in &look.workers {
        if row.is_failing {
            signs.push(Sign::FailingWorker { worker_id: row.worker_id.clone() });
        }
        if !seen.insert(&row.worker_id) {
            signs.push(Sign::WorkerListedTwice { worker_id: row.worker_id.clone() });
        }
    }
    signs
}

fn hash_keys(range: &HashKeyRange) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// Rows that name another stream than the described one.
fn other_streams(look: &Look) -> Vec<Sign> {
    let Some(described) = look.identity() else { return Vec::new() };
    let mut others: BTreeMap<&StreamIdentity, Vec<ShardId>> = BTreeMap::new();
    for lease in &look.leases {
        if let Some(identity) = lease.stream.as_ref().filter(|identity| *identity != described) {
            others.entry(identity).or_default().push(lease.shard_id.clone());
        }
    }
    let sign = |(in_rows, shards): (&StreamIdentity, _)| Sign::OtherStream {
        in_rows: in_rows.clone(),
        described: described.clone(),
        shards,
    };
    others.into_iter().map(sign).collect()
}
