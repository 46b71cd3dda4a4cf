//! What an application shows of its consumer: metrics by a recorder and by HTTP, liveness and readiness.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod allocations;
mod bed;
mod layers;
mod recorders;
mod router;
mod streams;
