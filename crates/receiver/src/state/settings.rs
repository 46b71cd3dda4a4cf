//! The settings of the application's state.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use lease_store::StreamIdentity;

/// What a shard does whose records before its position are in no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostState {
    /// It does not begin: an error says what is missing and what can be done. The default.
    #[default]
    Refuse,
    /// It begins with an empty state at its position, with a warning: what came before is in no total any more. Also how an
    /// application that has run without a state comes to have one.
    BeginEmpty,
}

/// The settings of the application's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSettings {
    /// How long a change waits for a snapshot at most; default 10 s. The checkpoint of the shard follows the snapshot, so
    /// this also bounds how much is read again after a crash.
    pub snapshot_interval: Duration,
    /// After so many records a snapshot is due even before the interval has passed; default 50,000.
    pub snapshot_records: NonZeroU64,
    /// How many snapshots of a shard are kept, the newest ones; default 2.
    pub keep: NonZeroUsize,
    /// How large a snapshot may be, in bytes; default 64 MiB. Nothing is acknowledged as long as the state is larger.
    pub max_snapshot_bytes: usize,
    /// How long a request to the store may take; default 30 s.
    pub store_time_limit: Duration,
    /// What a shard does whose records before its position are in no snapshot; by default it does not begin.
    pub lost_state: LostState,
    /// Which stream it is, from [`StreamSource::describe`](shard_worker::StreamSource::describe): snapshots of a stream of the
    /// same name that was deleted and created again are refused. `None`, the default: only names are compared.
    pub stream_identity: Option<StreamIdentity>,
    /// A restart may lose the state: with it a store that keeps nothing is allowed, and warned about. Default `false`.
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
    /// Every fault of the settings, as one line each; empty when they are sound.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.snapshot_interval.is_zero() {
            faults.push(
                "snapshot_interval 0 writes without end; use snapshot_records = 1 if every batch is meant"
                    .to_owned(),
            );
        }
        if self.store_time_limit.is_zero() {
            faults.push("store_time_limit 0 lets no request to the store succeed".to_owned());
        }
        if self.max_snapshot_bytes == 0 {
            faults
                .push("max_snapshot_bytes 0 allows no snapshot; set what one may take, in bytes".to_owned());
        }
        faults
    }
}
