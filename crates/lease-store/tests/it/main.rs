//! Integration tests of the lease stores and of held leases.

// Test helpers may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod conformance;
mod held_lease;
