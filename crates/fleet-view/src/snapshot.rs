//! The meaning of one look: workers with their leases, shards with their state, and signs that something is wrong. Pure.

use std::collections::BTreeMap;

use lease_store::{Lease, Position, ShardId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::look::{FleetMode, LagSample, Look, ShardInfo, ShardNotes, StreamSummary};
use crate::owner_process::OwnerProcess;
use crate::shard_view::{ShardState, ShardView, WorkerView};
use crate::signs::{Sign, signs_of_look};

/// An application at one time. Shards and workers are in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSnapshot {
    /// The application.
    pub application: String,
    /// When the table was read, in milliseconds since 1970.
    pub taken_at_millis: u64,
    /// The stream; `None` when it could not be described.
    pub stream: Option<StreamSummary>,
    /// Which workers decide about the leases.
    pub mode: FleetMode,
    /// All shards that the stream lists or that have a row.
    pub shards: Vec<ShardView>,
    /// All workers that own a lease or wrote a row about themselves.
    pub workers: Vec<WorkerView>,
    /// What this look alone shows to be wrong.
    pub signs: Vec<Sign>,
}

impl FleetSnapshot {
    /// The meaning of a look.
    pub fn of(look: &Look) -> Self {
        let lineage = Lineage::of(look);
        let shards = shards(look, &lineage);
        let workers = workers(look, &shards);
        let signs = signs_of_look(look, &shards);
        Self {
            application: look.application.clone(),
            taken_at_millis: look.taken_at_millis,
            stream: look.stream.clone(),
            mode: look.mode,
            shards,
            workers,
            signs,
        }
    }

    /// A shard by its id.
    pub fn shard(&self, shard_id: &ShardId) -> Option<&ShardView> {
        let index = self.shards.binary_search_by(|shard| shard.shard_id.cmp(shard_id)).ok()?;
        self.shards.get(index)
    }

    /// The age of the first record after the position of a shard at the time of the look; `None`: not known. While a record
    /// waits it grows with time. That none waits is known only at the time of the measurement.
    pub fn behind_millis(&self, shard: &ShardView) -> Option<u64> {
        behind_millis(shard.lag.as_ref()?, self.taken_at_millis)
    }
}

/// How long a measurement without a waiting record counts, in milliseconds. A reader measures each shard once a minute.
const IDLE_MEASUREMENT_MILLIS: u64 = 150_000;

fn behind_millis(lag: &LagSample, now_millis: u64) -> Option<u64> {
    let age = now_millis.saturating_sub(lag.measured_at_millis);
    match lag.behind_millis {
        0 => (age <= IDLE_MEASUREMENT_MILLIS).then_some(0),
        behind => Some(behind.saturating_add(age)),
    }
}

fn shards(look: &Look, lineage: &Lineage) -> Vec<ShardView> {
    let (rows, listed) = (look.rows(), look.listed());
    let malformed: BTreeMap<ShardId, ()> =
        look.malformed.iter().filter_map(|row| Some((ShardId::new(row.key.clone()).ok()?, ()))).collect();
    let mut ids: Vec<&ShardId> = rows.keys().chain(listed.keys()).copied().chain(malformed.keys()).collect();
    ids.sort_unstable();
    ids.dedup();
    // The KCL deletes the row of a shard that is read to its end.
    let cleaned_up = lineage.ancestors_of_any(rows.keys().copied());
    let waits = |shard_id: &ShardId| {
        lineage.parents(shard_id).any(|parent| match rows.get(parent) {
            Some(row) => !row.is_finished(),
            None => {
                malformed.contains_key(parent)
                    || (listed.contains_key(parent) && !cleaned_up.contains(parent))
            }
        })
    };
    let no_notes = ShardNotes::default();
    let view = |shard_id: &ShardId| {
        let (row, shard) = (rows.get(shard_id).copied(), listed.get(shard_id).copied());
        let notes = look.notes.get(shard_id).unwrap_or(&no_notes);
        let state = match row {
            None if malformed.contains_key(shard_id) => ShardState::MalformedRow,
            None if cleaned_up.contains(shard_id) => ShardState::Ended,
            None => ShardState::NoRow,
            Some(row) => state_of(row, shard, look.shards.is_some(), waits(shard_id)),
        };
        ShardView {
            shard_id: shard_id.clone(),
            state,
            is_open: shard.map(|shard| shard.is_open),
            owner: row.and_then(|row| row.owner.clone()),
            owner_process: row.and_then(OwnerProcess::of),
            hand_over_to: row.and_then(|row| row.hand_over_target().cloned()),
            counter: row.map(|row| row.counter),
            position: row.map(|row| row.checkpoint.clone()),
            initial_time_millis: row.and_then(|row| row.initial_time_millis),
            parents: lineage.parents(shard_id).cloned().collect(),
            children: lineage.children(shard_id).cloned().collect(),
            hash_key_range: row
                .and_then(|row| row.hash_key_range)
                .or_else(|| shard.and_then(|shard| shard.hash_key_range)),
            lag: notes.lag.clone(),
            pause: notes.pause.clone(),
            request: notes.request.clone(),
        }
    };
    ids.into_iter().map(view).collect()
}

fn state_of(row: &Lease, shard: Option<&ShardInfo>, is_listing_known: bool, waits: bool) -> ShardState {
    let has_begun = matches!(row.checkpoint, Position::After(_));
    match row.owner {
        _ if row.is_finished() => ShardState::Ended,
        _ if is_listing_known && shard.is_none() => ShardState::RowWithoutShard,
        _ if waits && !has_begun => ShardState::NotBegun,
        Some(_) => ShardState::Owned,
        None => ShardState::Unowned,
    }
}

fn workers(look: &Look, shards: &[ShardView]) -> Vec<WorkerView> {
    let mut workers: BTreeMap<&WorkerId, WorkerView> = BTreeMap::new();
    let new = |worker_id: &WorkerId| WorkerView {
        worker_id: worker_id.clone(),
        shards: Vec::new(),
        ended_shards: 0,
        processes: Vec::new(),
        reported_at_seconds: None,
        is_failing: false,
        processed_bytes_per_second: None,
    };
    for shard in shards {
        let Some(owner) = &shard.owner else { continue };
        let worker = workers.entry(owner).or_insert_with(|| new(owner));
        if shard.state == ShardState::Ended {
            worker.ended_shards += 1;
            continue;
        }
        worker.shards.push(shard.shard_id.clone());
        worker.processes.extend(shard.owner_process.clone());
        if let Some(bytes) = shard.lag.as_ref().and_then(|lag| lag.processed_bytes_per_second) {
            let sum = worker.processed_bytes_per_second.get_or_insert(0);
            *sum = sum.saturating_add(bytes);
        }
    }
    for row in &look.workers {
        let worker = workers.entry(&row.worker_id).or_insert_with(|| new(&row.worker_id));
        worker.reported_at_seconds = worker.reported_at_seconds.max(Some(row.updated_at_seconds));
        worker.is_failing |= row.is_failing;
    }
    let mut workers: Vec<WorkerView> = workers.into_values().collect();
    for worker in &mut workers {
        worker.processes.sort();
        worker.processes.dedup();
    }
    workers
}
