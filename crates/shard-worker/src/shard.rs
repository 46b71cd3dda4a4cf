//! One shard of a stream, as the stream lists it.

use std::collections::BTreeSet;

use lease_store::{HashKeyRange, ShardId};

/// One shard, as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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

impl Shard {
    /// A shard without known parents and range.
    pub fn new(shard_id: ShardId, is_closed: bool) -> Self {
        Self { shard_id, parents: BTreeSet::new(), hash_key_range: None, is_closed }
    }

    /// The same shard with these parents.
    #[must_use]
    pub fn with_parents(self, parents: BTreeSet<ShardId>) -> Self {
        Self { parents, ..self }
    }

    /// The same shard with this range of hash keys.
    #[must_use]
    pub fn with_hash_key_range(self, hash_key_range: Option<HashKeyRange>) -> Self {
        Self { hash_key_range, ..self }
    }
}
