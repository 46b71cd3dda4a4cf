//! The storage buffer as a stream: receiving ahead of processing, its limits, failing stores, and lost blocks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod backfill;
mod support;
mod write_ahead;
