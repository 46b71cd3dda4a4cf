//! The snapshot format and the rules of inheritance, for fuzzing, tests and benchmarks. No part of the public API: it may
//! change in any version.

pub use crate::inherited_state::{MAX_ANCESTORS, combine, cover, entry_hash_key, inherit, reaches_lease};
pub use crate::snapshot::{Snapshot, decode_snapshot, encode_snapshot};
