//! The daemon over the wire: `kinesis-streaming daemon` with scripted children against local servers. Run by `cargo xtask wire`,
//! which builds the programs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod checkpoints;
mod children;
mod figures;
mod fleets;
mod kill_storm;
mod public_reports;
mod signals;
mod standing_reader;
