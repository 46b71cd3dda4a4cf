//! How the state of a shard stands.

use lease_store::{Position, ShardId};

/// How the state of a shard stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStateStatus {
    /// The shard.
    pub shard_id: ShardId,
    /// The counter of the lease when it was taken.
    pub lease_counter: u64,
    /// How many keys have a value.
    pub keys: usize,
    /// Up to where records are in the state.
    pub applied: Position,
    /// Up to where they are in a snapshot; the checkpoint of the shard is never beyond it. `None`: there is no snapshot yet.
    pub stored: Option<Position>,
    /// How many records are in the state and in no snapshot.
    pub records_in_no_snapshot: u64,
    /// How many snapshots this processor has written.
    pub snapshots_written: u64,
    /// How large the newest one is, in bytes.
    pub snapshot_bytes: usize,
    /// Why the last snapshot could not be written; `None`: it could.
    pub last_error: Option<String>,
}
