//! The memory budget for the records of all shards.

pub(crate) mod byte_budget;
mod byte_ledger;
