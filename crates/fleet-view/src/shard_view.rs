//! A shard and a worker at one time, as plain data.

use lease_store::{HashKeyRange, Position, ShardId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::look::LagSample;
use crate::owner_process::OwnerProcess;
use crate::request::{OperatorRequest, Pause};

/// A shard at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// The shard.
    pub shard_id: ShardId,
    /// Its state.
    pub state: ShardState,
    /// Whether it still receives records; `None`: the stream does not list it, or could not be asked.
    pub is_open: Option<bool>,
    /// The owner of its lease.
    pub owner: Option<WorkerId>,
    /// The process of the owner, if it is a worker of this library.
    pub owner_process: Option<OwnerProcess>,
    /// The worker to which the owner is to hand it over.
    pub hand_over_to: Option<WorkerId>,
    /// The lease counter; `None` without a row.
    pub counter: Option<u64>,
    /// The stored position; `None` without a row.
    #[serde(with = "crate::text::optional_position_text")]
    pub position: Option<Position>,
    /// The instant that `LATEST` or `AT_TIMESTAMP` stands for, in milliseconds since 1970.
    pub initial_time_millis: Option<u64>,
    /// The shards that it came from.
    pub parents: Vec<ShardId>,
    /// The shards that came from it.
    pub children: Vec<ShardId>,
    /// The hash keys that it covers.
    #[serde(with = "crate::text::range_text")]
    pub hash_key_range: Option<HashKeyRange>,
    /// How far it is behind; `None`: not measured.
    pub lag: Option<LagSample>,
    /// The pause that an operator recorded.
    pub pause: Option<Pause>,
    /// The request that an operator left to its owner.
    pub request: Option<OperatorRequest>,
}

/// The state of a shard, by its row and the listing of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShardState {
    /// A worker owns its lease.
    Owned,
    /// It can be read, and no worker owns its lease.
    Unowned,
    /// It is not read yet, because a parent is not read to its end.
    NotBegun,
    /// It is read to its end. Its row may have been deleted since; then a descendant has a row.
    Ended,
    /// The stream lists it, and neither it nor a descendant has a row.
    NoRow,
    /// It has a row and is not read to its end, but the stream no longer lists it.
    RowWithoutShard,
    /// Its row cannot be read.
    MalformedRow,
}

/// A worker at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// The worker.
    pub worker_id: WorkerId,
    /// The shards whose leases it owns and that are not ended.
    pub shards: Vec<ShardId>,
    /// Ended shards whose rows still name it.
    pub ended_shards: usize,
    /// The processes on its rows. More than one: it was restarted, or two processes run under its name.
    pub processes: Vec<OwnerProcess>,
    /// When it wrote its own row last, in seconds since 1970; `None`: it has none.
    pub reported_at_seconds: Option<u64>,
    /// Whether the newest measurement in its own row failed.
    pub is_failing: bool,
    /// The bytes that it processes in a second, over the shards where that was measured; `None`: nowhere.
    pub processed_bytes_per_second: Option<u64>,
}
