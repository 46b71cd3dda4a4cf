//! The shards of a stream and their leases: which leases to create, restore and delete, where they start, and how the end
//! of a shard is recorded.

pub(crate) mod absences;
pub(crate) mod border;
pub(crate) mod cleanup;
pub(crate) mod coverage;
pub(crate) mod descendants;
pub(crate) mod forgotten;
pub(crate) mod initial_position;
pub(crate) mod last_known;
pub(crate) mod plan;
pub(crate) mod rewound;
pub(crate) mod shard_end;
pub(crate) mod shard_end_writer;
pub(crate) mod table_identity;
pub(crate) mod unread_parents;
