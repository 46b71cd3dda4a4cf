//! The block format, for fuzzing. No part of the public API: it may change in any version.

pub use crate::block::{Block, BlockError};

use crate::block::Content;

impl Block {
    /// Whether the block is the end of the shard.
    pub fn is_shard_end(&self) -> bool {
        matches!(self.content, Content::End(_))
    }
}
