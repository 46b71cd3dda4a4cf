//! One shard of a stream, as the stream lists it.

use std::collections::BTreeSet;

use lease_store::{HashKeyRange, ShardId};

/// One shard, as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub shard_id: ShardId,
    /// Its parents: none, one (split) or two (merge). The stream may have removed them already.
    pub parents: BTreeSet<ShardId>,
    /// The hash keys it covers. `None`: not reported.
    pub hash_key_range: Option<HashKeyRange>,
    /// Whether it was split or merged, and takes no more records.
    pub is_closed: bool,
}
