//! Tests of the planner with whole fleets.

#![allow(clippy::unwrap_used)] // a test may

mod balancing;
