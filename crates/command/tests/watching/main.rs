//! Runs the program against local servers.

// Helpers of tests may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod browser;
mod deploy_files;
mod describe;
mod doctor;
mod http;
mod manifests;
mod page;
mod policies;
mod prometheus;
mod public_reports;
mod reading;
mod schema;
mod serve;
