//! The status of a shard's state.

use lease_store::{Position, ShardId};

/// The status of a shard's state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStateStatus {
    /// The shard.
    pub shard_id: ShardId,
    /// The counter of the lease when its owner took it.
    pub lease_counter: u64,
    /// How many keys have a value.
    pub keys: usize,
    /// The position up to which records are in the state.
    pub applied: Position,
    /// The position of the newest snapshot; the checkpoint of the shard is never beyond it. `None` before the first snapshot.
    pub stored: Option<Position>,
    /// How many records are in the state and in no snapshot.
    pub records_in_no_snapshot: u64,
    /// How many snapshots this processor has written.
    pub snapshots_written: u64,
    /// The size of the newest snapshot, in bytes.
    pub snapshot_bytes: usize,
    /// The error of the last attempt to write a snapshot; `None` if it succeeded.
    pub last_error: Option<String>,
}
