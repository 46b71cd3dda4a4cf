//! The targets of fuzzing: everything that reads bytes from outside, and the properties that hold for any bytes.
//!
//! A *target* is one kind of input with its property, a function that panics when the property does not hold. Two
//! runs call this function: [`bounded`], a seeded run of a few seconds that is an ordinary test, and the
//! coverage-guided run of `fuzz/` (`cargo xtask fuzz`). `docs/fuzzing.md` lists the targets.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // a property fails by a panic

#[path = "../../../crates/shard-worker/tests/support/aggregate_checks.rs"]
mod aggregate_checks;
mod aggregated_record;
pub mod block_file;
pub mod bounded;
mod configuration;
mod position;
mod state_snapshot;
mod target;

#[cfg(feature = "aws")]
mod aws;
#[cfg(not(feature = "aws"))]
mod aws {
    /// A build without the feature `aws` has none of its targets.
    pub(crate) static TARGETS: [crate::target::Target; 0] = [];
}

pub use target::{Reading, Target};

/// The targets that need no AWS crate.
static PLAIN: [Target; 5] = [
    aggregated_record::TARGET,
    block_file::TARGET,
    configuration::TARGET,
    position::TARGET,
    state_snapshot::TARGET,
];

/// Returns all targets of this build.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    PLAIN.iter().chain(&aws::TARGETS)
}

/// Returns the target of this name.
pub fn target_named(name: &str) -> Option<&'static Target> {
    targets().find(|target| target.name == name)
}
