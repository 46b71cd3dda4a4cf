//! Several streams in one worker: one table, one scan of it for all of them, and one plan over their leases together.
//!
//! Each stream has a coordinator of its own. [`table`] scans the table once and divides the rows; each coordinator has a
//! [`seat`] there, publishes what it holds, and carries out its part of the common plan.

pub(crate) mod builder;
pub(crate) mod consumer;
pub(crate) mod seat;
pub(crate) mod table;
