//! The block format, for fuzzing. No part of the public API: it may change in any version.

pub use crate::block::{Block, BlockError};
