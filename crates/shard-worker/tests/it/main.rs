//! The integration tests of the shard worker, in virtual time.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

mod acknowledgement;
mod aggregate_worker;
mod aggregation;
mod batches;
mod concurrent_handler;
mod empty_reads;
mod explicit_checkpoint;
mod failure_policy;
mod killed_anywhere;
#[path = "../support/mod.rs"]
mod support;
mod worker;
