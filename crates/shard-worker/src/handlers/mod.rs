//! Processors from closures.

pub(crate) mod batch_handler;
pub(crate) mod blocking_handler;
pub(crate) mod concurrent_handler;
