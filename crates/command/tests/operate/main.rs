//! The commands that write, as a program over local servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod adopt;
mod bed;
mod live;
mod rows;
mod wrong_clock;
