//! The application's own state on fleets, in virtual time: every record is in the totals once, whatever was interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod cut_short;
mod damage;
mod kills;
mod objects;
mod scene;
mod two_checkpoints;
