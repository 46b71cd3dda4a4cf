//! Which shards an operator has paused: pure.

use std::collections::HashSet;

use lease_store::{Lease, ShardId};

/// The unfinished shards whose pause is in force at a time, in milliseconds since 1970. Without a clock every pause is.
pub(crate) fn paused_shards(leases: &[Lease], now_millis: Option<u64>) -> HashSet<ShardId> {
    let paused = leases.iter().filter(|lease| !lease.is_finished() && lease.is_paused(now_millis));
    paused.map(|lease| lease.shard_id.clone()).collect()
}
