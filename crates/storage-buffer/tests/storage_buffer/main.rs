//! The storage buffer as a stream: receiving ahead of processing, its limits, failing stores, and lost blocks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod backfill;
mod write_ahead;

/// Records of one fetched batch, which becomes one block.
const BLOCK_RECORDS: usize = 3;
