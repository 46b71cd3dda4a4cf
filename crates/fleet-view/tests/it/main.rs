//! Tests of the public interface: histories with their verdicts, generated fleets, plans over generated lineages, rendering.

// Test helpers may unwrap and panic too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod adoption;
mod generated_fleets;
mod histories;
mod integrity;
mod live_plans;
mod model;
mod plans;
mod plans_skip_nothing;
mod recorded;
mod rendering;
mod snapshots;
mod table;
