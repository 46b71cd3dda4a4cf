//! The settings of a receiver: plain data, checked as a whole, and converted to the options of its shard workers.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use lease_store::{ShardId, WorkerId, settings_format};
use serde::{Deserialize, Serialize};
use shard_worker::{
    AggregateFilter, BatchLimits, ByteBudget, DEFAULT_MAX_BUFFERED_BYTES, DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
    DEFAULT_MAX_UNACKNOWLEDGED_RECORDS, DEFAULT_PROCESSING_RETRY, DEFAULT_READ_AHEAD_BYTES, DataLossPolicy,
    FailureSettings, RateLimit, RetryPolicy, RunUntil, ShardWorkerOptions, WatchdogLimits,
};

use crate::shards::initial_position::{InitialPosition, ShardPosition, millis_since_1970};

/// The shortest fail-over time: below it a renewal would not be answered in time.
const MIN_FAILOVER_TIME: Duration = Duration::from_millis(100);

/// The default drain time: 20 s. What follows it takes up to 7 s. Kubernetes and ECS kill a process after 30 s, unless they are told
/// otherwise, so 3 s remain for what the application does last.
const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(20);

/// The share of the drain time for which a stop waits for late acknowledgements. The rest is for the last checkpoint.
const FLUSH_WAIT_SHARE: f64 = 0.75;

/// The settings of a receiver. In a file, a duration is a text like `"10s"` or `"500ms"`, or a number of milliseconds, and a time is
/// in RFC 3339 or in milliseconds since 1970.
///
/// ```
/// use std::time::Duration;
/// use receiver::ConsumerSettings;
///
/// let settings: ConsumerSettings = serde_json::from_str(r#"{"application":"billing","failover_time":"20s"}"#)?;
/// assert_eq!(settings.failover_time, Duration::from_secs(20));
/// assert!(settings.faults().is_empty());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsumerSettings {
    /// The name of the application: all receivers with this name share the shards. It is by default also the name of the
    /// lease table, so 3 to 255 letters, digits, `_`, `.` and `-` (the rule of DynamoDB).
    pub application: String,
    /// The name that the application had when its lease table was made, if it was renamed and keeps the table. Rows record the
    /// application, and those of another one are refused. Set it in all workers, for as long as the table is used.
    pub former_application: Option<String>,
    /// The name of this worker, unique among the running ones. `None`: a new name at each start. A worker that keeps its
    /// name over a restart takes its own leases back at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// Where a shard without a checkpoint starts.
    pub initial_position: InitialPosition,
    /// Where single shards start when their leases are created, for example positions that the application has stored
    /// elsewhere. All others start at `initial_position`. A shard resumes from its lease instead if it, or a descendant of
    /// it, has one. The same in the whole fleet.
    pub initial_positions: BTreeMap<ShardId, ShardPosition>,
    /// What to do when unread records are no longer in the stream. By default a shard that has most likely lost records is
    /// halted.
    pub data_loss_policy: DataLossPolicy,
    /// The bound of a bounded run: each shard is read up to it and released, and the receiver stops when it has nothing
    /// more to do. `None`: the receiver works until it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_until: Option<RunUntil>,
    /// How long a lease may stay without a heartbeat of its owner before other workers take it (KCL: `failoverTimeMillis`);
    /// 10 s by default. The same in the whole fleet. A lease is renewed three times in this time.
    #[serde(alias = "failover_time_ms", with = "settings_format::duration")]
    pub failover_time: Duration,
    /// How long a start may wait for a stream or a lease store that is throttled or cannot be reached. `None`, the default:
    /// without an end. Only what waiting cannot cure ends such a start: a call that is denied or invalid, a stream that
    /// does not exist, a table of another stream.
    #[serde(
        alias = "start_timeout_ms",
        with = "settings_format::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_timeout: Option<Duration>,
    /// The most shards this worker holds. By default without a limit, which is left out of a file.
    #[serde(skip_serializing_if = "is_unlimited")]
    pub max_leases: usize,
    /// The most leases that this worker requests from other live workers at a time.
    pub max_lease_moves: usize,
    /// How long another worker may leave a request for one of its leases unanswered. After that the lease is stolen from
    /// it, as the KCL does. Workers of this library answer with their next renewal, those of the KCL never do.
    #[serde(alias = "hand_over_time_ms", with = "settings_format::duration")]
    pub hand_over_time: Duration,
    /// The shortest time between two checkpoints of a shard.
    #[serde(alias = "checkpoint_interval_ms", with = "settings_format::duration")]
    pub checkpoint_interval: Duration,
    /// How many acknowledged records make a checkpoint due before the interval. `None`: the interval alone decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_records: Option<NonZeroU64>,
    /// Whether records that the Kinesis Producer Library has aggregated are de-aggregated. If `false`, each aggregate is
    /// delivered as the one record that it is in the stream.
    pub deaggregates: bool,
    /// Which records of an aggregate are dropped because their hash key belongs to another shard: those that the Kinesis Producer
    /// Library can have put again after a reshard, all, or none.
    pub aggregate_filter: AggregateFilter,
    /// The time between two periodic shard syncs of the leader (KCL: `leasesRecoveryAuditorExecutionFrequencyMillis`,
    /// 2 minutes). The end of a shard and a hole in the leases cause a listing in addition.
    #[serde(alias = "shard_sync_interval_ms", with = "settings_format::duration")]
    pub shard_sync_interval: Duration,
    /// How long the application may take to finish its batches: all of them when this worker stops, those of one shard
    /// when another worker requests the shard; 20 s by default. A stop takes up to 7 s more, to abort what is not done and to
    /// release the leases, so that it ends within the 30 s that Kubernetes and ECS wait unless told otherwise. If their grace period is
    /// longer, set it to that less 10 s.
    #[serde(alias = "drain_time_ms", with = "settings_format::duration")]
    pub drain_time: Duration,
    /// The most bytes that records take in memory, over all shards of this receiver or of its group; 128 MiB by default. It
    /// covers delivered batches, prefetched batches and the reservations of reads in flight. A batch that alone is larger
    /// is read alone.
    pub max_buffered_bytes: u64,
    /// While the application processes a batch of a shard, the next one is prefetched if it cannot be larger than this, in
    /// bytes. 24 MiB by default: the largest batch and the memory that its read needs. 0: no prefetch.
    pub read_ahead_bytes: u64,
    /// The most records of a batch, each sub-record of an aggregate counted. `None`: all records of a read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_records: Option<NonZeroUsize>,
    /// The most payload bytes of a batch. A single larger record is a batch of its own. `None`: all records of a read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_bytes: Option<NonZeroU64>,
    /// How long a batch waits for more records after its first one; 0 by default.
    #[serde(alias = "batch_time_ms", with = "settings_format::duration")]
    pub batch_time: Duration,
    /// Whether processors are called after reads that found no records: `RecordProcessor::nothing_read`.
    pub calls_for_empty_reads: bool,
    /// The most records delivered per second, evenly spaced, over all shards of this receiver. Each sub-record of an
    /// aggregate counts. `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_records_per_second: Option<NonZeroU64>,
    /// The most payload bytes delivered per second, over all shards of this receiver. `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Whether the rate of a shard is halved after a failure of the application, and grows again with its successes.
    pub adapts_rate: bool,
    /// How many records of a shard may be delivered and not acknowledged before reading pauses; 100,000 by default. Only an
    /// application that acknowledges after its processor has returned reaches this limit.
    pub max_unacknowledged_records: NonZeroUsize,
    /// The same limit in bytes of memory that those records took when they were delivered; 64 MiB by default.
    pub max_unacknowledged_bytes: u64,
    /// How long a shard may make no progress before its processor is restarted, and after the last restart its lease is
    /// released; 5 minutes by default. 0: no watchdog. Set it longer than the application needs for a batch.
    #[serde(alias = "no_progress_time_ms", with = "settings_format::duration")]
    pub no_progress_time: Duration,
    /// How many times the processor of a shard without progress is restarted before the lease is released.
    pub max_restarts: u32,
    /// What happens to records that the application cannot process. By default the shard is halted and no record is skipped.
    pub failure: FailureSettings,
    /// How long to wait before a failed batch or a failed read is retried; by default from 200 ms up to 30 s. After the last wait
    /// of a policy with a limit, that wait repeats: `failure` alone limits the attempts of a batch.
    pub processing_retry: RetryPolicy,
    /// How a failed checkpoint is retried; by default 8 attempts over about ten seconds.
    pub checkpoint_retry: RetryPolicy,
}

/// The largest number stands for no limit; TOML cannot write it.
fn is_unlimited(max_leases: &usize) -> bool {
    *max_leases == usize::MAX
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            application: String::new(),
            former_application: None,
            worker_id: None,
            initial_position: InitialPosition::default(),
            initial_positions: BTreeMap::new(),
            data_loss_policy: DataLossPolicy::default(),
            run_until: None,
            failover_time: Duration::from_secs(10),
            start_timeout: None,
            max_leases: usize::MAX,
            max_lease_moves: 16,
            hand_over_time: Duration::from_secs(10),
            checkpoint_interval: Duration::from_secs(5),
            checkpoint_records: None,
            deaggregates: true,
            aggregate_filter: AggregateFilter::default(),
            shard_sync_interval: Duration::from_secs(60),
            drain_time: DEFAULT_DRAIN_TIME,
            max_buffered_bytes: DEFAULT_MAX_BUFFERED_BYTES.get(),
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            max_batch_records: None,
            max_batch_bytes: None,
            batch_time: Duration::ZERO,
            calls_for_empty_reads: false,
            max_records_per_second: None,
            max_bytes_per_second: None,
            adapts_rate: false,
            max_unacknowledged_records: DEFAULT_MAX_UNACKNOWLEDGED_RECORDS,
            max_unacknowledged_bytes: DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
            no_progress_time: Duration::from_secs(300),
            max_restarts: 2,
            failure: FailureSettings::default(),
            processing_retry: DEFAULT_PROCESSING_RETRY,
            checkpoint_retry: RetryPolicy::default(),
        }
    }
}

impl ConsumerSettings {
    /// The options of every shard worker. The start adds the start time of the shard and the retention of the stream.
    pub(crate) fn worker_options(&self, budget: ByteBudget) -> ShardWorkerOptions {
        let mut options = ShardWorkerOptions::default();
        options.deaggregates = self.deaggregates;
        options.aggregate_filter = self.aggregate_filter;
        options.budget = budget;
        options.read_ahead_bytes = self.read_ahead_bytes;
        options.data_loss = self.data_loss_policy;
        options.run_until = self.run_until;
        options.max_unacknowledged_records = self.max_unacknowledged_records;
        options.max_unacknowledged_bytes = self.max_unacknowledged_bytes;
        options.batch_limits =
            BatchLimits::new(self.max_batch_records, self.max_batch_bytes, self.batch_time);
        options.calls_for_empty_reads = self.calls_for_empty_reads;
        options.rate_limit = RateLimit::new(self.max_records_per_second, self.max_bytes_per_second);
        options.adapts_rate = self.adapts_rate;
        options.failure_policy = self.failure.policy();
        options.retry = self.processing_retry;
        options.settle_time = self.drain_time.mul_f64(FLUSH_WAIT_SHARE);
        options
    }

    /// The limits of the watchdog. `None`: no watchdog.
    pub(crate) fn watchdog_limits(&self) -> Option<WatchdogLimits> {
        let (no_progress_time, max_restarts) = (self.no_progress_time, self.max_restarts);
        (!no_progress_time.is_zero()).then_some(WatchdogLimits::new(no_progress_time, max_restarts))
    }

    /// All faults of the settings, one line each. Empty when they are valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |is_valid: bool, fault: String| {
            if !is_valid {
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
            check(false, format!("worker_id is invalid: {error}"));
        }
        let times = self.initial_positions.iter().filter_map(|(shard_id, position)| match position {
            ShardPosition::AtTimestamp(timestamp) => Some((shard_id.as_str(), *timestamp)),
            _ => None,
        });
        for (setting, timestamp) in
            times.chain(self.initial_position.timestamp().map(|timestamp| ("initial_position", timestamp)))
        {
            let fault = format!("{setting} starts at a time before 1970; set a later time");
            check(millis_since_1970(timestamp).is_some(), fault);
        }
        check(
            self.failover_time >= MIN_FAILOVER_TIME,
            format!("failover_time {:?} must be at least {MIN_FAILOVER_TIME:?}", self.failover_time),
        );
        check(self.max_leases > 0, "max_leases 0 lets this worker take no shard; set at least 1".to_owned());
        check(
            self.max_lease_moves > 0,
            "max_lease_moves 0 never balances the fleet; set at least 1".to_owned(),
        );
        check(
            !self.checkpoint_interval.is_zero(),
            "checkpoint_interval 0 writes on every batch; use checkpoint_records = 1 to do so on purpose"
                .to_owned(),
        );
        check(!self.shard_sync_interval.is_zero(), "shard_sync_interval must be above 0".to_owned());
        check(
            self.max_buffered_bytes > 0,
            "max_buffered_bytes 0 leaves no memory for records; set a limit in bytes".to_owned(),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_stop_fits_a_grace_period_of_30_seconds() {
        use crate::coordinator::STOP_TAIL;
        assert_eq!(STOP_TAIL, Duration::from_secs(7), "as the doc comment of `drain_time` says");
        let longest = ConsumerSettings::default().drain_time + STOP_TAIL;
        assert!(longest <= Duration::from_secs(28), "{longest:?} leaves the application no time of its own");
    }

    #[test]
    fn the_defaults_lack_only_the_application() {
        let mut settings = ConsumerSettings::default();
        assert_eq!(settings.faults().len(), 1);
        settings.application = "word-count".to_owned();
        assert_eq!(settings.faults(), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let before_1970 = std::time::UNIX_EPOCH - Duration::from_secs(1);
        let settings = ConsumerSettings {
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
            ..ConsumerSettings::default()
        };
        assert_eq!(settings.faults().len(), 10, "{:#?}", settings.faults());
    }

    #[test]
    fn times_have_units_and_unknown_fields_are_refused() {
        let json = r#"{"application": "words", "failover_time": "2500ms", "start_timeout_ms": 90000, "initial_position": "LATEST",
            "initial_positions": {"shardId-000000000007": "TRIM_HORIZON"}, "data_loss_policy": "CONTINUE", "run_until": "TIP"}"#;
        let settings: ConsumerSettings = serde_json::from_str(json).unwrap();
        let named = BTreeMap::from([(ShardId::numbered(7), ShardPosition::TrimHorizon)]);
        assert_eq!(settings.initial_positions, named);
        assert_eq!(settings.data_loss_policy, DataLossPolicy::Continue);
        assert_eq!(settings.run_until, Some(RunUntil::Tip));
        assert_eq!(settings.failover_time, Duration::from_millis(2500));
        assert_eq!(settings.start_timeout, Some(Duration::from_secs(90)));
        assert_eq!(settings.initial_position, InitialPosition::Latest);
        let written = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<ConsumerSettings>(&written).unwrap(), settings);
        assert!(written.contains(r#""failover_time":"2500ms""#), "{written}");
        assert!(serde_json::from_str::<ConsumerSettings>(r#"{"failover_tme_ms": 1}"#).is_err());
    }
}
