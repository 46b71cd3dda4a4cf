//! How a fleet comes to balance and to rest: properties of the planner, and the table in the documentation.

#![allow(clippy::unwrap_used)] // a test may

mod fleet;
mod properties;
mod table;
