//! The settings of the application's state.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use lease_store::{StreamIdentity, settings_format};
use serde::{Deserialize, Serialize};

/// How a shard starts when no snapshot holds the records before its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum LostState {
    /// The shard does not start; an error names the missing snapshot and the remedies. The default.
    #[default]
    Refuse,
    /// The shard starts at its position with an empty state and a warning: earlier records are missing from all totals. Use
    /// it also to add a state to an application that ran without one.
    BeginEmpty,
}

/// The settings of the application's state. In a file, a duration is a text like `"10s"`, or a number of milliseconds.
///
/// ```
/// use std::time::Duration;
/// use processor_state::StateSettings;
///
/// let settings = StateSettings { snapshot_interval: Duration::from_secs(10), ..StateSettings::default() };
/// assert!(settings.faults().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateSettings {
    /// The longest wait of a change for its snapshot; default 10 s. The checkpoint of the shard follows the snapshot, so this
    /// also limits the records that are read again after a crash.
    #[serde(with = "settings_format::duration")]
    pub snapshot_interval: Duration,
    /// A snapshot is due after this many records, even before the interval has passed; default 50,000.
    pub snapshot_records: NonZeroU64,
    /// How many of the newest snapshots of a shard are kept; default 2.
    pub keep: NonZeroUsize,
    /// Size limit of a snapshot, in bytes; default 64 MiB. While the state is larger, no record is acknowledged.
    pub max_snapshot_bytes: usize,
    /// Time limit of a request to the store; default 30 s.
    #[serde(with = "settings_format::duration")]
    pub store_time_limit: Duration,
    /// How a shard starts when no snapshot holds the records before its position; by default it does not start.
    pub lost_state: LostState,
    /// The identity of the stream, from [`StreamSource::describe`](shard_worker::StreamSource::describe). With it, snapshots of
    /// a stream of the same name that was deleted and created again are refused. `None`, the default: the identity in the lease
    /// of the shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_identity: Option<StreamIdentity>,
    /// Allows a volatile store, with a warning: a restart loses the state. Default `false`.
    pub accepts_loss_at_restart: bool,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self {
            snapshot_interval: Duration::from_secs(10),
            snapshot_records: NonZeroU64::MIN.saturating_add(49_999),
            keep: NonZeroUsize::MIN.saturating_add(1),
            max_snapshot_bytes: 64 * 1024 * 1024,
            store_time_limit: Duration::from_secs(30),
            lost_state: LostState::Refuse,
            stream_identity: None,
            accepts_loss_at_restart: false,
        }
    }
}

impl StateSettings {
    /// Every fault of the settings, one line each; empty when they are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.snapshot_interval.is_zero() {
            faults.push(
                "snapshot_interval 0 writes snapshots without pause; set snapshot_records = 1 for a snapshot of each batch"
                    .to_owned(),
            );
        }
        if self.store_time_limit.is_zero() {
            faults.push("store_time_limit 0 lets no request to the store succeed".to_owned());
        }
        if self.max_snapshot_bytes == 0 {
            faults.push("max_snapshot_bytes 0 allows no snapshot; set a limit in bytes".to_owned());
        }
        faults
    }
}
