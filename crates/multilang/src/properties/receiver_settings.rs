//! The settings of a receiver from those of the daemon.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkpointer::RetryPolicy;
use receiver::{ConsumerSettings, InitialPosition};

use super::settings::{DaemonSettings, StartPosition};

/// The share of a stop in which children may finish. The rest is for leases: their last checkpoints and releases.
const DRAIN_SHARE: f64 = 0.75;

/// The attempts to write the checkpoint of a child, which waits for the answer and has retries of its own.
const CHECKPOINT_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

/// The waits between them.
const CHECKPOINT_RETRY: RetryPolicy =
    RetryPolicy::exponential(Duration::from_millis(200), Duration::from_secs(1));

/// The most records of a read (KCL).
const ALL_RECORDS: u32 = 10_000;

impl DaemonSettings {
    /// The settings of the receiver that runs children.
    ///
    /// Three of them follow from the protocol. A checkpoint of a child is answered after a few attempts to write it, because
    /// the child retries as it sees fit. Unacknowledged records have no limit, because a child checkpoints only while it processes a
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
        settings.hand_over_time = self.hand_over_time.unwrap_or_default();
        settings.shard_sync_interval = self.shard_sync_interval;
        settings.drain_time = self.shutdown_grace.mul_f64(DRAIN_SHARE);
        settings.checkpoint_retry = CHECKPOINT_RETRY.with_max_attempts(CHECKPOINT_ATTEMPTS);
        let max_records = usize::try_from(self.max_records).ok().filter(|_| self.max_records < ALL_RECORDS);
        settings.max_batch_records = max_records.and_then(NonZeroUsize::new);
        settings.calls_for_empty_reads = self.calls_for_empty_reads;
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
