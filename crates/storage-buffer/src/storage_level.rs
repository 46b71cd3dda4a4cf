//! Spark's storage levels: where received blocks are kept.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where received blocks are kept until they are processed. The names are those of Spark.
///
/// ```
/// use storage_buffer::StorageLevel;
///
/// let level = StorageLevel::MemoryAndDisk2;
/// assert!(level.uses_memory() && level.uses_disk() && level.is_replicated());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StorageLevel {
    /// In memory. Receiving pauses while the memory is full.
    #[serde(rename = "MEMORY_ONLY")]
    MemoryOnly,
    /// In memory; blocks that do not fit there are written to disk.
    #[default]
    #[serde(rename = "MEMORY_AND_DISK")]
    MemoryAndDisk,
    /// On disk only.
    #[serde(rename = "DISK_ONLY")]
    DiskOnly,
    /// Like `MemoryOnly`, with a copy in the replica store before a block counts as received.
    #[serde(rename = "MEMORY_ONLY_2")]
    MemoryOnly2,
    /// Like `MemoryAndDisk`, with a copy in the replica store before a block counts as received.
    #[serde(rename = "MEMORY_AND_DISK_2")]
    MemoryAndDisk2,
    /// Like `DiskOnly`, with a copy in the replica store before a block counts as received.
    #[serde(rename = "DISK_ONLY_2")]
    DiskOnly2,
}

impl StorageLevel {
    /// Whether blocks wait in memory.
    pub fn uses_memory(self) -> bool {
        !matches!(self, Self::DiskOnly | Self::DiskOnly2)
    }

    /// Whether blocks are written to the local store.
    pub fn uses_disk(self) -> bool {
        !matches!(self, Self::MemoryOnly | Self::MemoryOnly2)
    }

    /// Whether each block is copied to the replica store.
    pub fn is_replicated(self) -> bool {
        matches!(self, Self::MemoryOnly2 | Self::MemoryAndDisk2 | Self::DiskOnly2)
    }

    /// Spark's name for it, such as `MEMORY_AND_DISK_2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryOnly => "MEMORY_ONLY",
            Self::MemoryAndDisk => "MEMORY_AND_DISK",
            Self::DiskOnly => "DISK_ONLY",
            Self::MemoryOnly2 => "MEMORY_ONLY_2",
            Self::MemoryAndDisk2 => "MEMORY_AND_DISK_2",
            Self::DiskOnly2 => "DISK_ONLY_2",
        }
    }
}

impl fmt::Display for StorageLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_spark_names() {
        use StorageLevel::{DiskOnly, DiskOnly2, MemoryAndDisk, MemoryAndDisk2, MemoryOnly, MemoryOnly2};
        for level in [MemoryOnly, MemoryAndDisk, DiskOnly, MemoryOnly2, MemoryAndDisk2, DiskOnly2] {
            let written = serde_json::to_string(&level).unwrap();
            assert_eq!(written, format!("\"{level}\""));
            assert_eq!(serde_json::from_str::<StorageLevel>(&written).unwrap(), level);
            assert_eq!(level.is_replicated(), level.name().ends_with("_2"));
        }
        assert!(serde_json::from_str::<StorageLevel>("\"MEMORY_ONLY_SER\"").is_err());
    }
}
