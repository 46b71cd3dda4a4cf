//! The settings of a storage buffer: plain data, checked as a whole.

use serde::{Deserialize, Serialize};

use crate::block_stores::BlockStores;
use crate::storage_level::StorageLevel;

/// Default of `max_memory_bytes`: 128 MiB.
const DEFAULT_MAX_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// Default of `max_stored_bytes`: 8 GiB.
const DEFAULT_MAX_STORED_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// The settings of a [`StorageBuffer`](crate::StorageBuffer).
///
/// ```
/// use storage_buffer::{BlockStores, StorageLevel, StorageSettings};
///
/// let settings = StorageSettings::new("billing", StorageLevel::MemoryOnly).max_memory_bytes(64 << 20);
/// assert!(settings.faults(&BlockStores::none()).is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StorageSettings {
    /// The name of the receiver's application. Blocks of other applications are never touched.
    pub application: String,
    /// Where blocks are kept.
    pub level: StorageLevel,
    /// Limit of the memory for blocks, in bytes, over all shards; 128 MiB by default. Levels with memory and disk reserve a
    /// quarter of it for blocks that are being written to disk, `DISK_ONLY` all of it.
    ///
    /// The receiver's memory budget comes in addition: it counts the records that the buffer has served.
    pub max_memory_bytes: u64,
    /// Limit of the blocks in each store, in bytes, over all open shards; 8 GiB by default. A block counts from before its
    /// write until its deletion, which follows the checkpoint of its last record.
    pub max_stored_bytes: u64,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self {
            application: String::new(),
            level: StorageLevel::default(),
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            max_stored_bytes: DEFAULT_MAX_STORED_BYTES,
        }
    }
}

impl StorageSettings {
    /// The default settings for an application, at a storage level.
    pub fn new(application: impl Into<String>, level: StorageLevel) -> Self {
        Self { application: application.into(), level, ..Self::default() }
    }

    /// Sets [`max_memory_bytes`](Self::max_memory_bytes).
    #[must_use]
    pub fn max_memory_bytes(mut self, max_memory_bytes: u64) -> Self {
        self.max_memory_bytes = max_memory_bytes;
        self
    }

    /// Sets [`max_stored_bytes`](Self::max_stored_bytes).
    #[must_use]
    pub fn max_stored_bytes(mut self, max_stored_bytes: u64) -> Self {
        self.max_stored_bytes = max_stored_bytes;
        self
    }

    /// Every fault of the settings with these stores, one line each; empty when they are valid.
    pub fn faults(&self, stores: &BlockStores) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |is_valid: bool, fault: String| {
            if !is_valid {
                faults.push(fault);
            }
        };
        let level = self.level;
        check(
            !self.application.is_empty(),
            "application \"\" of the storage buffer must be the name of the receiver's application"
                .to_owned(),
        );
        check(
            self.max_memory_bytes > 0,
            "max_memory_bytes 0 leaves no memory for a block; set a limit in bytes".to_owned(),
        );
        check(
            self.max_stored_bytes > 0,
            "max_stored_bytes 0 leaves no capacity for a block; set a limit in bytes".to_owned(),
        );
        check(
            !level.uses_disk() || stores.local.is_some(),
            format!("level {level} needs a local store for blocks: call BlockStores::directory() or local()"),
        );
        check(
            !level.is_replicated() || stores.replica.is_some(),
            format!(
                "level {level} needs a replica store: call BlockStores::replica_directory() or replica()"
            ),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_listed_at_once() {
        let settings = StorageSettings {
            level: StorageLevel::DiskOnly2,
            max_memory_bytes: 0,
            max_stored_bytes: 0,
            ..StorageSettings::default()
        };
        assert_eq!(settings.faults(&BlockStores::none()).len(), 5);
        let valid = StorageSettings::new("words", StorageLevel::MemoryOnly);
        assert_eq!(valid.faults(&BlockStores::none()), Vec::<String>::new());
    }

    #[test]
    fn settings_are_read_from_json() {
        let json = r#"{"application": "words", "level": "MEMORY_AND_DISK_2", "max_memory_bytes": 1000}"#;
        let settings: StorageSettings = serde_json::from_str(json).unwrap();
        let expected = StorageSettings::new("words", StorageLevel::MemoryAndDisk2).max_memory_bytes(1000);
        assert_eq!(settings, expected);
        assert!(serde_json::from_str::<StorageSettings>(r#"{"levle": "DISK_ONLY"}"#).is_err());
    }
}
