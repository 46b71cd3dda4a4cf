//! Tests of log messages. They have a process of their own: `tracing` has one global subscriber and caches for each call
//! site whether it is enabled, so tests that run before its installation would decide what it sees.

#![allow(clippy::unwrap_used)] // a test may

mod aggregates;
mod positions;
#[path = "../support/mod.rs"]
mod support;
