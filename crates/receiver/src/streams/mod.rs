//! Several streams in one worker: one table, one scan of it for all of them, and one plan over their leases together.
//!
//! Each stream has a coordinator of its own. [`table`] scans the table once and divides the rows; each coordinator has a
//! [`seat`] there, publishes what it holds, and carries out its part of the common plan. The [`list`] of streams may change
//! while the worker runs.

pub(crate) mod builder;
pub(crate) mod config;
pub(crate) mod consumer;
mod factory;
pub(crate) mod former;
pub(crate) mod list;
pub(crate) mod seat;
pub(crate) mod table;
