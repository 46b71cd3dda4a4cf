//! The settings of a fleet member: plain data, checked as a whole.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use lease_store::{ShardId, WorkerId};
use serde::{Deserialize, Serialize};
use shard_worker::{
    BatchLimits, DEFAULT_MAX_BUFFERED_BYTES, DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
    DEFAULT_MAX_UNACKNOWLEDGED_RECORDS, DEFAULT_READ_AHEAD_BYTES, DataLossPolicy, RunUntil, WatchdogLimits,
};

use crate::initial_position::millis_since_1970;
use crate::{InitialPosition, ShardPosition};

/// The shortest fail-over time: below it a renewal has no time to be answered.
const MIN_FAILOVER_TIME: Duration = Duration::from_millis(100);

/// The settings of a fleet member. All times are in milliseconds when read from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReceiverSettings {
    /// The name of the application: all receivers with this name share the work. By default also the name of its lease
    /// table, so 3 to 255 letters, digits, `_`, `.` and `-` (the rule of DynamoDB).
    pub application: String,
    /// The name of this fleet member, unique among the running ones; `None`: made anew at each start. A name that stays
    /// the same over restarts lets the worker have its own leases back at once.
    pub worker_id: Option<String>,
    /// Where a shard without a checkpoint starts.
    pub initial_position: InitialPosition,
    /// Where single shards start whose leases are created for the first time, such as positions that the application has kept
    /// elsewhere; all others start at `initial_position`. A shard that has a lease, or whose descendants have, goes on from
    /// there. The same in the whole fleet.
    pub initial_positions: BTreeMap<ShardId, ShardPosition>,
    /// What to do when records that were not read are no longer in the stream: a shard that has most likely lost records is
    /// not read on (the default), or it is.
    pub data_loss_policy: DataLossPolicy,
    /// A bounded run: each shard is read up to there and released, and the receiver ends by itself when nothing is left for
    /// it; `None`: it works until it is stopped.
    pub run_until: Option<RunUntil>,
    /// After so long without a sign of life from its owner a lease is free to take (KCL: `failoverTimeMillis`, 10 s).
    /// The same in the whole fleet. A lease is renewed three times in it.
    #[serde(rename = "failover_time_ms", with = "millis")]
    pub failover_time: Duration,
    /// The most shards this worker holds.
    pub max_leases: usize,
    /// The most leases of other live workers that are on their way to this one at a time.
    pub max_lease_moves: usize,
    /// How long another worker may leave a request for one of its leases unanswered; then the lease is taken from it, as
    /// the KCL would. Workers of this library answer with their next renewal; those of the KCL never do.
    #[serde(rename = "hand_over_time_ms", with = "millis")]
    pub hand_over_time: Duration,
    /// At least this long between two checkpoints of a shard.
    #[serde(rename = "checkpoint_interval_ms", with = "millis")]
    pub checkpoint_interval: Duration,
    /// Checkpoint earlier when so many records are acknowledged; `None`: only time counts.
    pub checkpoint_records: Option<NonZeroU64>,
    /// Whether records that the Kinesis Producer Library has aggregated are taken apart. Off, each aggregate is handed over
    /// as the one record that it is in the stream.
    pub deaggregates: bool,
    /// How often the leader of the fleet lists the shards of the stream, beside the times when a shard ends or a hole in
    /// the leases is found (KCL: `leasesRecoveryAuditorExecutionFrequencyMillis`, 2 minutes).
    #[serde(rename = "shard_sync_interval_ms", with = "millis")]
    pub shard_sync_interval: Duration,
    /// How long the application has to finish the batches it has: all of them when this worker stops, those of one shard
    /// when another worker asks for it.
    #[serde(rename = "drain_time_ms", with = "millis")]
    pub drain_time: Duration,
    /// The most bytes that records take in memory, over all shards of this receiver, or of its group: what is being
    /// processed, what is read ahead, and what is set aside for reads under way; 128 MiB by default. What alone is larger
    /// gets through alone.
    pub max_buffered_bytes: u64,
    /// While the application has a batch of a shard, the next one is read ahead if it cannot be larger than this, in bytes;
    /// 24 MiB by default, which is the largest batch with what its call needs; 0: nothing is read ahead.
    pub read_ahead_bytes: u64,
    /// The most records of a batch, those of aggregates counted one by one; `None`: as many as a read gave.
    pub max_batch_records: Option<NonZeroUsize>,
    /// The most payload bytes of a batch; a record that alone is larger goes alone. `None`: as many as a read gave.
    pub max_batch_bytes: Option<NonZeroU64>,
    /// How long a batch that is not full waits for more records after its first one was read; 0 by default.
    #[serde(rename = "batch_time_ms", with = "millis")]
    pub batch_time: Duration,
    /// The most records handed over in a second, over all shards of this receiver, those of aggregates counted one by one;
    /// they come evenly. `None`: as many as there are.
    pub max_records_per_second: Option<NonZeroU64>,
    /// The same in payload bytes.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Whether a shard is slowed down to half after a failure of the application, and speeds up again with its successes.
    pub adapts_rate: bool,
    /// No more of a shard is read while so many of its records are delivered and not acknowledged; 100,000 by default. Only
    /// applications that acknowledge later than their processors return come there.
    pub max_unacknowledged_records: NonZeroUsize,
    /// The same in bytes of memory that those records took when they were delivered; 64 MiB by default.
    pub max_unacknowledged_bytes: u64,
    /// After so long without progress the work on a shard is started anew, and its lease is given up in the end; 5 minutes
    /// by default, 0: never. Longer than the application needs for a batch.
    #[serde(rename = "no_progress_time_ms", with = "millis")]
    pub no_progress_time: Duration,
    /// How often the work on a shard that makes no progress is started anew before its lease is given up.
    pub max_restarts: u32,
}

impl Default for ReceiverSettings {
    fn default() -> Self {
        Self {
            application: String::new(),
            worker_id: None,
            initial_position: InitialPosition::default(),
            initial_positions: BTreeMap::new(),
            data_loss_policy: DataLossPolicy::default(),
            run_until: None,
            failover_time: Duration::from_secs(10),
            max_leases: usize::MAX,
            max_lease_moves: 16,
            hand_over_time: Duration::from_secs(10),
            checkpoint_interval: Duration::from_secs(5),
            checkpoint_records: None,
            deaggregates: true,
            shard_sync_interval: Duration::from_secs(60),
            drain_time: Duration::from_secs(30),
            max_buffered_bytes: DEFAULT_MAX_BUFFERED_BYTES.get(),
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            max_batch_records: None,
            max_batch_bytes: None,
            batch_time: Duration::ZERO,
            max_records_per_second: None,
            max_bytes_per_second: None,
            adapts_rate: false,
            max_unacknowledged_records: DEFAULT_MAX_UNACKNOWLEDGED_RECORDS,
            max_unacknowledged_bytes: DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
            no_progress_time: Duration::from_secs(300),
            max_restarts: 2,
        }
    }
}

impl ReceiverSettings {
    /// When a batch is closed.
    pub(crate) fn batch_limits(&self) -> BatchLimits {
        let (max_records, max_payload_bytes) = (self.max_batch_records, self.max_batch_bytes);
        BatchLimits { max_records, max_payload_bytes, max_wait: self.batch_time }
    }

    /// What the watchdog goes by; `None`: there is none.
    pub(crate) fn watchdog_limits(&self) -> Option<WatchdogLimits> {
        let (no_progress_time, max_restarts) = (self.no_progress_time, self.max_restarts);
        (!no_progress_time.is_zero()).then_some(WatchdogLimits { no_progress_time, max_restarts })
    }

    /// Every fault of the settings, as one line each; empty when they are sound.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |sound: bool, fault: String| {
            if !sound {
                faults.push(fault);
            }
        };
        let name = &self.application;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        check(
            (3..=255).contains(&name.len()) && name.bytes().all(allowed),
            format!("application {name:?} must be 3 to 255 letters, digits, '_', '.' or '-'"),
        );
        if let Some(worker_id) = &self.worker_id
            && let Err(error) = WorkerId::new(worker_id.clone())
        {
            check(false, format!("worker_id cannot be used: {error}"));
        }
        let times = self.initial_positions.iter().filter_map(|(shard_id, position)| match position {
            ShardPosition::AtTimestamp(timestamp) => Some((shard_id.as_str(), *timestamp)),
            _ => None,
        });
        for (what, timestamp) in
            times.chain(self.initial_position.timestamp().map(|timestamp| ("initial_position", timestamp)))
        {
            let fault = || format!("{what} starts at a time before 1970; no stream has records from then");
            check(millis_since_1970(timestamp).is_some(), fault());
        }
        check(
            self.failover_time >= MIN_FAILOVER_TIME,
            format!("failover_time {:?} must be at least {MIN_FAILOVER_TIME:?}", self.failover_time),
        );
        check(self.max_leases > 0, "max_leases 0 lets this worker do nothing; set at least 1".to_owned());
        check(
            self.max_lease_moves > 0,
            "max_lease_moves 0 never balances the fleet; set at least 1".to_owned(),
        );
        check(
            !self.checkpoint_interval.is_zero(),
            "checkpoint_interval 0 writes on every batch; use checkpoint_records = 1 if that is meant"
                .to_owned(),
        );
        check(!self.shard_sync_interval.is_zero(), "shard_sync_interval must be above 0".to_owned());
        check(
            self.max_buffered_bytes > 0,
            "max_buffered_bytes 0 leaves no memory for records; set what they may take, in bytes".to_owned(),
        );
        faults
    }
}

mod millis {
    //! Durations as whole milliseconds.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_only_lack_a_name() {
        let mut settings = ReceiverSettings::default();
        assert_eq!(settings.faults().len(), 1);
        settings.application = "word-count".to_owned();
        assert_eq!(settings.faults(), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let before_1970 = std::time::UNIX_EPOCH - Duration::from_secs(1);
        let settings = ReceiverSettings {
            application: "no spaces".to_owned(),
            worker_id: Some(String::new()),
            failover_time: Duration::ZERO,
            max_leases: 0,
            max_lease_moves: 0,
            checkpoint_interval: Duration::ZERO,
            shard_sync_interval: Duration::ZERO,
            max_buffered_bytes: 0,
            initial_position: InitialPosition::AtTimestamp(before_1970),
            initial_positions: BTreeMap::from([
                (ShardId::numbered(0), ShardPosition::AtTimestamp(before_1970)),
                (ShardId::numbered(1), ShardPosition::Latest),
            ]),
            ..ReceiverSettings::default()
        };
        assert_eq!(settings.faults().len(), 10, "{:#?}", settings.faults());
    }

    #[test]
    fn settings_are_read_in_milliseconds_and_typing_errors_are_refused() {
        let json = r#"{"application": "words", "failover_time_ms": 2500, "initial_position": "LATEST",
            "initial_positions": {"shardId-000000000007": "TRIM_HORIZON"}, "data_loss_policy": "CONTINUE", "run_until": "TIP"}"#;
        let settings: ReceiverSettings = serde_json::from_str(json).unwrap();
        let named = BTreeMap::from([(ShardId::numbered(7), ShardPosition::TrimHorizon)]);
        assert_eq!(settings.initial_positions, named);
        assert_eq!(settings.data_loss_policy, DataLossPolicy::Continue);
        assert_eq!(settings.run_until, Some(RunUntil::Tip));
        assert_eq!(settings.failover_time, Duration::from_millis(2500));
        assert_eq!(settings.initial_position, InitialPosition::Latest);
        let written = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<ReceiverSettings>(&written).unwrap(), settings);
        assert!(serde_json::from_str::<ReceiverSettings>(r#"{"failover_tme_ms": 1}"#).is_err());
    }
}
