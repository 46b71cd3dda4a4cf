//! One look at an application, as its reader found it: the rows of the table and the shards of the stream.
//!
//! A look is raw. [`FleetSnapshot`](crate::snapshot::FleetSnapshot) is its meaning.

use std::collections::{BTreeMap, BTreeSet};

use lease_store::{HashKeyRange, Lease, MalformedLease, ShardId, StreamIdentity, WorkerId};
use serde::{Deserialize, Serialize};

use crate::request::{OperatorRequest, Pause};

/// Everything that one look at an application found. All times are milliseconds since 1970, by the clock of the reader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Look {
    /// When the table was read.
    pub taken_at_millis: u64,
    /// The application: the name of its table.
    pub application: String,
    /// The rows that are leases of this stream.
    pub leases: Vec<Lease>,
    /// The rows that cannot be read as leases.
    pub malformed: Vec<MalformedRow>,
    /// The rows that are no leases of this stream: those of a KCL 3.x fleet, of other streams, of other programs.
    pub foreign: Vec<ForeignRow>,
    /// The shards of the stream; `None` when they could not be listed.
    pub shards: Option<Vec<ShardInfo>>,
    /// The description of the stream; `None` when it could not be described.
    pub stream: Option<StreamSummary>,
    /// The rows that the workers of a KCL 3.x fleet write about themselves.
    pub workers: Vec<WorkerRow>,
    /// What is known of single shards beyond their lease.
    pub notes: BTreeMap<ShardId, ShardNotes>,
    /// Which workers decide about the leases.
    pub mode: FleetMode,
}

/// A shard, as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// The shard.
    pub shard_id: ShardId,
    /// Its parents, also those that the stream no longer lists.
    pub parents: BTreeSet<ShardId>,
    /// The hash keys that it covers.
    #[serde(with = "crate::text::range_text")]
    pub hash_key_range: Option<HashKeyRange>,
    /// Whether it still receives records.
    pub is_open: bool,
}

/// The description of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub identity: StreamIdentity,
    /// Its status in the service's words, such as `ACTIVE`.
    pub status: String,
    /// How long it keeps records, in milliseconds.
    pub retention_millis: u64,
}

/// A row that cannot be read as a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MalformedRow {
    /// The key of the row.
    pub key: String,
    /// The malformed attribute.
    pub attribute: String,
    /// The fault of the attribute.
    pub reason: String,
}

impl From<MalformedLease> for MalformedRow {
    fn from(row: MalformedLease) -> Self {
        Self { key: row.key, attribute: row.attribute, reason: row.reason }
    }
}

/// A row that is no lease of this stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRow {
    /// The key of the row.
    pub key: String,
    /// Its kind.
    pub kind: ForeignKind,
}

/// The kind of a row that is no lease of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignKind {
    /// A row by which a KCL 3.x fleet coordinates: its leader, its migration, its streams. KCL 2.x cannot scan a table with it.
    Coordination,
    /// A lease of another stream in the same table.
    OtherStream,
    /// Anything else.
    Unknown,
}

/// A row that a worker of a KCL 3.x fleet writes about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The worker.
    pub worker_id: WorkerId,
    /// When it wrote the row last, in seconds since 1970, by its own clock.
    pub updated_at_seconds: u64,
    /// Whether its newest measurement failed; it then gets no new leases.
    pub is_failing: bool,
}

/// What is known of one shard beyond its lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardNotes {
    /// How far its lease is behind the stream.
    pub lag: Option<LagSample>,
    /// The pause that an operator recorded in the row.
    pub pause: Option<Pause>,
    /// The request that an operator left in the row, and that its owner has not yet carried out.
    pub request: Option<OperatorRequest>,
}

/// One measurement of how far the stored position of a shard is behind the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagSample {
    /// When it was measured.
    pub measured_at_millis: u64,
    /// The age of the first record after the stored position; 0 if no record waits.
    pub behind_millis: u64,
    /// The bytes that arrive in a second; `None`: not measured.
    pub arriving_bytes_per_second: Option<u64>,
    /// The bytes that are processed in a second; `None`: not measured.
    pub processed_bytes_per_second: Option<u64>,
    /// Who measured it.
    pub origin: LagOrigin,
}

/// Who measured a lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LagOrigin {
    /// The owner of the lease, which left it in the row.
    Worker,
    /// The reader of the table, which read one record.
    Probe,
}

/// Which workers decide about the leases of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FleetMode {
    /// Each worker takes its share: this library, and the KCL up to 2.x.
    #[default]
    WorkersTake,
    /// The leader of a KCL 3.x fleet assigns the leases.
    LeaderAssigns,
}

impl Look {
    /// Notes the pauses and requests that the rows have.
    pub fn note_operators(&mut self) {
        for lease in &self.leases {
            let (pause, request) = (Pause::of(lease), OperatorRequest::of(lease));
            if pause.is_some() || request.is_some() {
                let notes = self.notes.entry(lease.shard_id.clone()).or_default();
                (notes.pause, notes.request) = (pause, request);
            }
        }
    }

    /// Notes the lags that the owners reported in the rows, where they are newer than what is noted so far. A time after that of
    /// the look counts as the time of the look: the clocks differ.
    pub fn note_lags(&mut self) {
        for lease in &self.leases {
            let Some(report) = lease.lag_report() else { continue };
            let sample = LagSample {
                measured_at_millis: report.measured_at_millis.min(self.taken_at_millis),
                behind_millis: report.behind_millis,
                arriving_bytes_per_second: None,
                processed_bytes_per_second: report.processed_bytes_per_second,
                origin: LagOrigin::Worker,
            };
            let notes = self.notes.entry(lease.shard_id.clone()).or_default();
            if notes.lag.as_ref().is_none_or(|lag| lag.measured_at_millis <= sample.measured_at_millis) {
                notes.lag = Some(sample);
            }
        }
    }

    /// The row of a shard.
    pub fn lease(&self, shard_id: &ShardId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.shard_id == *shard_id)
    }

    /// The rows by their shards.
    pub(crate) fn rows(&self) -> BTreeMap<&ShardId, &Lease> {
        self.leases.iter().map(|lease| (&lease.shard_id, lease)).collect()
    }

    /// The listed shards by their ids. Empty when they could not be listed.
    pub(crate) fn listed(&self) -> BTreeMap<&ShardId, &ShardInfo> {
        self.shards.iter().flatten().map(|shard| (&shard.shard_id, shard)).collect()
    }

    /// The identity of the stream: by its description, or else by the rows.
    pub(crate) fn identity(&self) -> Option<&StreamIdentity> {
        let described = self.stream.as_ref().map(|stream| &stream.identity);
        described.or_else(|| self.leases.iter().find_map(|lease| lease.stream.as_ref()))
    }
}
