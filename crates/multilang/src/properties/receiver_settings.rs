//! The settings of a receiver from those of the daemon.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use receiver::{ConsumerSettings, InitialPosition};

use super::settings::{DaemonSettings, StartPosition};

impl DaemonSettings {
    /// The settings of the receiver that runs children.
    ///
    /// Three of them follow from the protocol. Each checkpoint of a child is written at once, because the child decides how
    /// often it checkpoints. Unacknowledged records have no limit, because a child checkpoints only while it processes a
    /// batch, so a limit would stop the shard for ever. There is no watchdog, because most children checkpoint rarely, and
    /// some need long for a batch; `timeoutInSeconds` takes its place.
    pub fn receiver_settings(&self) -> ConsumerSettings {
        let mut settings = ConsumerSettings::default();
        settings.application.clone_from(&self.application);
        settings.worker_id.clone_from(&self.worker_id);
        settings.initial_position = match self.start {
            StartPosition::Latest => InitialPosition::Latest,
            StartPosition::TrimHorizon => InitialPosition::TrimHorizon,
            StartPosition::AtSeconds(seconds) => InitialPosition::AtTimestamp(after_1970(seconds)),
        };
        settings.failover_time = self.failover_time;
        settings.max_leases = self.max_leases;
        settings.max_lease_moves = self.max_lease_moves;
        if let Some(hand_over_time) = self.hand_over_time {
            settings.hand_over_time = hand_over_time;
        }
        settings.shard_sync_interval = self.shard_sync_interval;
        settings.drain_time = self.shutdown_grace;
        settings.checkpoint_records = Some(NonZeroU64::MIN);
        settings.max_unacknowledged_records = NonZeroUsize::MAX;
        settings.max_unacknowledged_bytes = u64::MAX;
        settings.no_progress_time = Duration::ZERO;
        settings
    }
}

fn after_1970(seconds: i64) -> SystemTime {
    let time = Duration::from_secs(seconds.unsigned_abs());
    // A time that this system cannot represent is far beyond each record; the settings refuse one before 1970.
    let shifted = if seconds < 0 { UNIX_EPOCH.checked_sub(time) } else { UNIX_EPOCH.checked_add(time) };
    shifted.unwrap_or(UNIX_EPOCH)
}
