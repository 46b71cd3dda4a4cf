//! How a shard worker behaves: everything that is the same for all shards of a receiver, and what the stream reports.

use std::num::NonZeroUsize;
use std::time::SystemTime;

use checkpointer::RetryPolicy;
use tokio::time::Duration;

use crate::aggregation::filter_rule::AggregateFilter;
use crate::failure::failure_policy::FailurePolicy;
use crate::memory::byte_budget::ByteBudget;
use crate::read::batching::BatchLimits;
use crate::read::data_loss::DataLossPolicy;
use crate::read::rate_limit::RateLimit;
use crate::read::read_guard::ReadChecks;
use crate::read::run_until::RunUntil;
use crate::read::stream_clock::StreamClock;
use crate::read::stream_retention::StreamRetention;
use crate::shard_context::DEFAULT_PROCESSING_RETRY;
use crate::source::RecordDistribution;

/// How a shard worker behaves.
///
/// One value can serve all shards of a process: clones share the memory budget, the rate limit and the dead-letter sink.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardWorkerOptions {
    /// Where a shard starts that has no checkpoint at a record. `None`:
    /// [`Position::AtTimestamp`](lease_store::Position::AtTimestamp) cannot be read,
    /// [`Position::Latest`](lease_store::Position::Latest) starts at the tip at the time of the first read, and
    /// [`Position::TrimHorizon`](lease_store::Position::TrimHorizon) at the oldest record.
    pub initial_timestamp: Option<SystemTime>,
    /// Whether aggregated records of the Kinesis Producer Library are de-aggregated. Otherwise the application gets each
    /// aggregate as one record.
    pub deaggregates: bool,
    /// Which records of an aggregate are dropped because their hash key belongs to another shard.
    pub aggregate_filter: AggregateFilter,
    /// How the stream distributes records over its shards. `None`: not reported.
    pub distribution: Option<RecordDistribution>,
    /// The memory for records; clones of one budget share it over all shards.
    pub budget: ByteBudget,
    /// While the application processes a batch, the worker prefetches the next one if it cannot be larger than this, in
    /// bytes; 0: never.
    pub read_ahead_bytes: u64,
    /// What to do when the stream has removed records that were not read.
    pub data_loss: DataLossPolicy,
    /// How long the stream keeps records. `None`: not known.
    pub retention: Option<Duration>,
    /// The retention period with all later readings, shared by all shards. `None`: each shard begins with `retention`.
    pub stream_retention: Option<StreamRetention>,
    /// The clock that stamps the records. Without it, or without the retention period, a loss of records is never more
    /// than possible.
    pub stream_clock: Option<StreamClock>,
    /// Where the worker stops by itself, drained: all records before it are acknowledged and checkpointed, and none beyond
    /// it is delivered. [`ShardProgress::has_reached_bound`](crate::ShardProgress::has_reached_bound) reports that this
    /// was the reason. `None`: never.
    pub run_until: Option<RunUntil>,
    /// The worker stops reading while this many records are delivered and not acknowledged. Only applications that defer
    /// acknowledgements reach it.
    pub max_unacknowledged_records: NonZeroUsize,
    /// The worker stops reading while the records that are delivered and not acknowledged took this much memory, in bytes.
    pub max_unacknowledged_bytes: u64,
    /// When a batch is closed.
    pub batch_limits: BatchLimits,
    /// Whether the processor is called after a read that found no records:
    /// [`RecordProcessor::nothing_read`](crate::RecordProcessor::nothing_read).
    pub calls_for_empty_reads: bool,
    /// How fast records are delivered; clones of one limit share it over all shards.
    pub rate_limit: RateLimit,
    /// Whether the delivery rate of a shard falls when the application fails, and recovers when it succeeds.
    pub adapts_rate: bool,
    /// What happens to records that the application cannot process. The worker copies it into
    /// [`ShardContext`](crate::ShardContext), for processors that handle records one by one.
    pub failure_policy: FailurePolicy,
    /// How long to wait before a failed step or a failed record is retried. The worker copies it into
    /// [`ShardContext`](crate::ShardContext).
    pub retry: RetryPolicy,
    /// How long a stop waits for late acknowledgements before it checkpoints the acknowledged records and leaves the others to
    /// the next owner.
    pub settle_time: Duration,
}

/// The default of [`ShardWorkerOptions::max_unacknowledged_records`].
pub const DEFAULT_MAX_UNACKNOWLEDGED_RECORDS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

/// The default of [`ShardWorkerOptions::max_unacknowledged_bytes`].
pub const DEFAULT_MAX_UNACKNOWLEDGED_BYTES: u64 = 64 * 1024 * 1024;

/// The default of [`ShardWorkerOptions::read_ahead_bytes`]: the largest batch that Kinesis returns, plus the memory of its
/// call while it is in flight.
pub const DEFAULT_READ_AHEAD_BYTES: u64 = 24 * 1024 * 1024;

impl ShardWorkerOptions {
    /// The limits that an answer is checked against before its records are delivered.
    pub(crate) fn read_checks(&self) -> ReadChecks {
        ReadChecks {
            data_loss: self.data_loss,
            retention: self
                .stream_retention
                .clone()
                .unwrap_or_else(|| StreamRetention::described(self.retention)),
            stream_clock: self.stream_clock,
            run_until: self.run_until,
        }
    }
}

impl Default for ShardWorkerOptions {
    /// De-aggregates, and drops records of aggregates only where the KPL can have put them again. Has its own budget of
    /// 128 MiB, and prefetches one batch of up to 24 MiB. Allows 100,000 unacknowledged records and 64 MiB of them; a stop
    /// waits 20 s for their acknowledgements. Delivers the records of a read as one batch, without a rate limit. Halts the
    /// shard at a batch that keeps failing.
    fn default() -> Self {
        Self {
            initial_timestamp: None,
            deaggregates: true,
            aggregate_filter: AggregateFilter::default(),
            distribution: None,
            budget: ByteBudget::default(),
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            data_loss: DataLossPolicy::default(),
            retention: None,
            stream_retention: None,
            stream_clock: None,
            run_until: None,
            max_unacknowledged_records: DEFAULT_MAX_UNACKNOWLEDGED_RECORDS,
            max_unacknowledged_bytes: DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
            batch_limits: BatchLimits::default(),
            calls_for_empty_reads: false,
            rate_limit: RateLimit::default(),
            adapts_rate: false,
            failure_policy: FailurePolicy::default(),
            retry: DEFAULT_PROCESSING_RETRY,
            settle_time: Duration::from_secs(20),
        }
    }
}
