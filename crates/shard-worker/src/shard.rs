//! What a stream says about one of its shards.

use std::collections::BTreeSet;

use lease_store::{HashKeyRange, ShardId};

/// One shard, as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub shard_id: ShardId,
    /// The shards it came from: none, one (split) or two (merge). They may be gone from the stream already.
    pub parents: BTreeSet<ShardId>,
    /// The hash keys it covers, where the stream says so.
    pub hash_key_range: Option<HashKeyRange>,
    /// Whether it takes no more records: it was split or merged.
    pub is_closed: bool,
}
