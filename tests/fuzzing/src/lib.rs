//! Everything that reads bytes from outside, and what must hold for any bytes it reads.
//!
//! A *target* is one kind of input with its property, a function that panics when the property does not hold. Both ways of
//! trying inputs call the same function: [`bounded`], a seeded run of a few seconds that is an ordinary test, and the
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

#[cfg(feature = "aws")]
mod aws;
#[cfg(not(feature = "aws"))]
#[path = "aws_left_out.rs"]
mod aws;

/// One kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name; also of the directory of its corpus.
    pub name: &'static str,
    /// The property: reads the input, and panics when something does not hold that must.
    pub check: fn(&[u8]) -> Reading,
    /// What means something to the format: for mutations.
    pub tokens: &'static [&'static [u8]],
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It was read.
    Accepted,
    /// It was refused, with a clear error.
    Refused,
    /// It is not for this reader, which leaves it as it is.
    LeftAlone,
}

/// What needs no crate of AWS.
static PLAIN: [Target; 5] = [
    aggregated_record::TARGET,
    block_file::TARGET,
    configuration::TARGET,
    position::TARGET,
    state_snapshot::TARGET,
];

/// All targets of this build.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    PLAIN.iter().chain(&aws::TARGETS)
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    targets().find(|target| target.name == name)
}
