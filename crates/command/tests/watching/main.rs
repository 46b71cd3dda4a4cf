//! Runs the program against local servers.

// Helpers of tests may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod browser;
mod change;
mod deploy_files;
mod describe;
mod doctor;
mod http;
mod identity;
mod manifests;
mod otlp;
mod page;
mod policies;
mod policy_gate;
mod prometheus;
mod public_reports;
mod reading;
mod replay;
mod schema;
mod serve;
mod verify;
