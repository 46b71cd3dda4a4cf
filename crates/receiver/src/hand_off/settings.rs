//! The settings of a hand-off buffer: plain data, checked as a whole.

use serde::{Deserialize, Serialize};

use super::{BlockStores, StorageLevel};

/// The most bytes of blocks in memory unless it is set otherwise: 128 MiB.
const DEFAULT_MAX_MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// The most bytes of stored blocks in each place unless it is set otherwise: 8 GiB.
const DEFAULT_MAX_STORED_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// The settings of a [`HandOffBuffer`](super::HandOffBuffer).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HandOffSettings {
    /// The name of the application, the same as that of the receiver: blocks of another one are not touched.
    pub application: String,
    /// Where blocks are kept.
    pub level: StorageLevel,
    /// The most bytes that blocks take in memory, over all shards; 128 MiB by default. Of the levels with a disk, a
    /// quarter of it, or all with `DISK_ONLY`, is for blocks on their way there.
    ///
    /// It is beside the memory budget of the receiver, which counts what was handed over.
    pub max_memory_bytes: u64,
    /// The most bytes that stored blocks take in each place, over all open shards; 8 GiB by default. A block counts from
    /// before it is written until it is deleted, which is after its last record is checkpointed.
    pub max_stored_bytes: u64,
}

impl Default for HandOffSettings {
    fn default() -> Self {
        Self {
            application: String::new(),
            level: StorageLevel::default(),
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            max_stored_bytes: DEFAULT_MAX_STORED_BYTES,
        }
    }
}

impl HandOffSettings {
    /// The defaults for an application.
    pub fn new(application: impl Into<String>, level: StorageLevel) -> Self {
        Self { application: application.into(), level, ..Self::default() }
    }

    /// The same with another [`max_memory_bytes`](Self::max_memory_bytes).
    #[must_use]
    pub fn max_memory_bytes(mut self, max_memory_bytes: u64) -> Self {
        self.max_memory_bytes = max_memory_bytes;
        self
    }

    /// The same with another [`max_stored_bytes`](Self::max_stored_bytes).
    #[must_use]
    pub fn max_stored_bytes(mut self, max_stored_bytes: u64) -> Self {
        self.max_stored_bytes = max_stored_bytes;
        self
    }

    /// Every fault of the settings with these stores, as one line each; empty when they are sound.
    pub fn faults(&self, stores: &BlockStores) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |sound: bool, fault: String| {
            if !sound {
                faults.push(fault);
            }
        };
        let level = self.level;
        check(
            !self.application.is_empty(),
            "application \"\" of the hand-off buffer must be the name of the receiver's application"
                .to_owned(),
        );
        check(
            self.max_memory_bytes > 0,
            "max_memory_bytes 0 leaves no memory for a block; set what blocks may take, in bytes".to_owned(),
        );
        check(
            self.max_stored_bytes > 0,
            "max_stored_bytes 0 leaves no room for a block; set what stored blocks may take, in bytes"
                .to_owned(),
        );
        check(
            !level.uses_disk() || stores.local.is_some(),
            format!(
                "level {level} has no place to write blocks to: call BlockStores::directory() or local()"
            ),
        );
        check(
            !level.is_replicated() || stores.replica.is_some(),
            format!("level {level} has no second place: call BlockStores::replica_directory() or replica()"),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_of_the_buffer_are_listed_at_once() {
        let settings = HandOffSettings {
            level: StorageLevel::DiskOnly2,
            max_memory_bytes: 0,
            max_stored_bytes: 0,
            ..HandOffSettings::default()
        };
        assert_eq!(settings.faults(&BlockStores::none()).len(), 5);
        let sound = HandOffSettings::new("words", StorageLevel::MemoryOnly);
        assert_eq!(sound.faults(&BlockStores::none()), Vec::<String>::new());
    }

    #[test]
    fn settings_of_the_buffer_are_read_from_a_file() {
        let json = r#"{"application": "words", "level": "MEMORY_AND_DISK_2", "max_memory_bytes": 1000}"#;
        let settings: HandOffSettings = serde_json::from_str(json).unwrap();
        let expected = HandOffSettings::new("words", StorageLevel::MemoryAndDisk2).max_memory_bytes(1000);
        assert_eq!(settings, expected);
        assert!(serde_json::from_str::<HandOffSettings>(r#"{"levle": "DISK_ONLY"}"#).is_err());
    }
}
