//! Builds a receiver, and checks its settings and components as a whole.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use lease_store::{LeaseStore, ShardId, WorkerId};
use shard_worker::{
    AggregateFilter, BatchLimits, ByteBudget, DataLossPolicy, FailurePolicy, RecordProcessorFactory,
    RetryPolicy, RunUntil, ShardWorkerOptions, StreamSource,
};

use crate::error::{ConsumerError, ConsumerErrorKind};
use crate::handle::{EndReporter, Shared};
use crate::process::{LiveProcess, host_name};
use crate::receiver::Consumer;
use crate::settings::ConsumerSettings;
use crate::shards::initial_position::{InitialPosition, ShardPosition};
use crate::streams::seat::Seat;
use crate::worker_name::new_worker_id;

/// Builds a [`Consumer`] from settings (plain data) and components (a stream, a lease store, record processors).
///
/// ```
/// use std::time::Duration;
/// use receiver::{Consumer, InitialPosition};
///
/// let builder = Consumer::builder()
///     .application("billing")
///     .initial_position(InitialPosition::Latest)
///     .failover_time(Duration::from_secs(20));
/// // What is missing is told all at once.
/// assert_eq!(builder.build().expect_err("there is no stream").kind(), receiver::ConsumerErrorKind::InvalidSettings);
/// ```
#[derive(Clone, Default)]
pub struct ConsumerBuilder {
    settings: ConsumerSettings,
    source: Option<Arc<dyn StreamSource>>,
    store: Option<Arc<dyn LeaseStore>>,
    processors: Option<Arc<dyn RecordProcessorFactory>>,
    /// `None`: the one of the settings.
    failure_policy: Option<FailurePolicy>,
    seed: Option<u64>,
    budget: Option<ByteBudget>,
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConsumerBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Starts to build a receiver.
    pub fn builder() -> ConsumerBuilder {
        ConsumerBuilder::default()
    }
}

impl ConsumerBuilder {
    /// All settings at once, for example read from a file. Single ones can be changed afterwards.
    #[must_use]
    pub fn settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The name of the application; see [`ConsumerSettings::application`].
    #[must_use]
    pub fn application(mut self, application: impl Into<String>) -> Self {
        self.settings.application = application.into();
        self
    }

    /// The former name of the application; see [`ConsumerSettings::former_application`].
    #[must_use]
    pub fn former_application(mut self, name: impl Into<String>) -> Self {
        self.settings.former_application = Some(name.into());
        self
    }

    /// The name of this worker; see [`ConsumerSettings::worker_id`].
    #[must_use]
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.settings.worker_id = Some(worker_id.into());
        self
    }

    /// Where a shard without a checkpoint starts; see [`ConsumerSettings::initial_position`].
    #[must_use]
    pub fn initial_position(mut self, initial_position: InitialPosition) -> Self {
        self.settings.initial_position = initial_position;
        self
    }

    /// Where one shard starts when its lease is created; see [`ConsumerSettings::initial_positions`].
    #[must_use]
    pub fn initial_position_of(mut self, shard_id: ShardId, position: ShardPosition) -> Self {
        self.settings.initial_positions.insert(shard_id, position);
        self
    }

    /// What to do when records were lost; see [`ConsumerSettings::data_loss_policy`].
    #[must_use]
    pub fn data_loss_policy(mut self, policy: DataLossPolicy) -> Self {
        self.settings.data_loss_policy = policy;
        self
    }

    /// The bound of a bounded run; see [`ConsumerSettings::run_until`].
    #[must_use]
    pub fn run_until(mut self, run_until: RunUntil) -> Self {
        self.settings.run_until = Some(run_until);
        self
    }

    /// How long a lease may stay without a renewal; see [`ConsumerSettings::failover_time`].
    #[must_use]
    pub fn failover_time(mut self, failover_time: Duration) -> Self {
        self.settings.failover_time = failover_time;
        self
    }

    /// How long a start may wait for services that are throttled or cannot be reached; see
    /// [`ConsumerSettings::start_timeout`].
    #[must_use]
    pub fn start_timeout(mut self, start_timeout: Duration) -> Self {
        self.settings.start_timeout = Some(start_timeout);
        self
    }

    /// The most shards this worker holds; see [`ConsumerSettings::max_leases`].
    #[must_use]
    pub fn max_leases(mut self, max_leases: usize) -> Self {
        self.settings.max_leases = max_leases;
        self
    }

    /// How long another worker may leave a request for a lease unanswered; see [`ConsumerSettings::hand_over_time`].
    #[must_use]
    pub fn hand_over_time(mut self, hand_over_time: Duration) -> Self {
        self.settings.hand_over_time = hand_over_time;
        self
    }

    /// The shortest time between two checkpoints of a shard; see [`ConsumerSettings::checkpoint_interval`].
    #[must_use]
    pub fn checkpoint_interval(mut self, checkpoint_interval: Duration) -> Self {
        self.settings.checkpoint_interval = checkpoint_interval;
        self
    }

    /// Whether aggregates are de-aggregated; see [`ConsumerSettings::deaggregates`].
    #[must_use]
    pub fn deaggregates(mut self, deaggregates: bool) -> Self {
        self.settings.deaggregates = deaggregates;
        self
    }

    /// Which records of an aggregate are dropped as those of another shard; see [`ConsumerSettings::aggregate_filter`].
    #[must_use]
    pub fn aggregate_filter(mut self, filter: AggregateFilter) -> Self {
        self.settings.aggregate_filter = filter;
        self
    }

    /// How long a stop waits for the application; see [`ConsumerSettings::drain_time`].
    #[must_use]
    pub fn drain_time(mut self, drain_time: Duration) -> Self {
        self.settings.drain_time = drain_time;
        self
    }

    /// The most memory that records take over all shards; see [`ConsumerSettings::max_buffered_bytes`].
    #[must_use]
    pub fn max_buffered_bytes(mut self, max_buffered_bytes: u64) -> Self {
        self.settings.max_buffered_bytes = max_buffered_bytes;
        self
    }

    /// How much of a shard is prefetched; see [`ConsumerSettings::read_ahead_bytes`].
    #[must_use]
    pub fn read_ahead_bytes(mut self, read_ahead_bytes: u64) -> Self {
        self.settings.read_ahead_bytes = read_ahead_bytes;
        self
    }

    /// A memory budget that is shared with other receivers of this process. It overrides
    /// [`max_buffered_bytes`](Self::max_buffered_bytes). The receivers of a group always share one.
    #[must_use]
    pub fn byte_budget(mut self, budget: ByteBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The stream to read.
    #[must_use]
    pub fn source(self, source: impl StreamSource) -> Self {
        self.shared_source(Arc::new(source))
    }

    /// The stream to read, shared with other receivers.
    #[must_use]
    pub fn shared_source(mut self, source: Arc<dyn StreamSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// The store of the leases.
    #[must_use]
    pub fn lease_store(self, store: impl LeaseStore) -> Self {
        self.shared_lease_store(Arc::new(store))
    }

    /// The store of the leases, shared with other receivers.
    #[must_use]
    pub fn shared_lease_store(mut self, store: Arc<dyn LeaseStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// The factory of the application's record processors, one for each shard.
    #[must_use]
    pub fn processors(self, processors: impl RecordProcessorFactory) -> Self {
        self.shared_processors(Arc::new(processors))
    }

    /// The factory of the application's record processors, shared with other receivers, or chosen at run time.
    #[must_use]
    pub fn shared_processors(mut self, processors: Arc<dyn RecordProcessorFactory>) -> Self {
        self.processors = Some(processors);
        self
    }

    /// What happens to records that the application cannot process, with any dead-letter sink; instead of
    /// [`ConsumerSettings::failure`].
    #[must_use]
    pub fn failure_policy(mut self, failure_policy: FailurePolicy) -> Self {
        self.failure_policy = Some(failure_policy);
        self
    }

    /// How long a shard may make no progress before a restart; see [`ConsumerSettings::no_progress_time`].
    #[must_use]
    pub fn no_progress_time(mut self, no_progress_time: Duration) -> Self {
        self.settings.no_progress_time = no_progress_time;
        self
    }

    /// How many times a shard without progress is restarted; see [`ConsumerSettings::max_restarts`].
    #[must_use]
    pub fn max_restarts(mut self, max_restarts: u32) -> Self {
        self.settings.max_restarts = max_restarts;
        self
    }

    /// When a batch is full: by records, payload bytes or time, the first that is reached; see
    /// [`ConsumerSettings::max_batch_records`].
    #[must_use]
    pub fn batch_limits(mut self, limits: BatchLimits) -> Self {
        self.settings.max_batch_records = limits.max_records;
        self.settings.max_batch_bytes = limits.max_payload_bytes;
        self.settings.batch_time = limits.max_wait;
        self
    }

    /// The most records delivered per second; see [`ConsumerSettings::max_records_per_second`].
    #[must_use]
    pub fn max_records_per_second(mut self, max_records_per_second: NonZeroU64) -> Self {
        self.settings.max_records_per_second = Some(max_records_per_second);
        self
    }

    /// The most payload bytes delivered per second; see [`ConsumerSettings::max_bytes_per_second`].
    #[must_use]
    pub fn max_bytes_per_second(mut self, max_bytes_per_second: NonZeroU64) -> Self {
        self.settings.max_bytes_per_second = Some(max_bytes_per_second);
        self
    }

    /// Whether a shard slows down after failures of the application; see [`ConsumerSettings::adapts_rate`].
    #[must_use]
    pub fn adapts_rate(mut self, adapts_rate: bool) -> Self {
        self.settings.adapts_rate = adapts_rate;
        self
    }

    /// How many records of a shard may be delivered and not acknowledged; see
    /// [`ConsumerSettings::max_unacknowledged_records`].
    #[must_use]
    pub fn max_unacknowledged_records(mut self, max_unacknowledged_records: NonZeroUsize) -> Self {
        self.settings.max_unacknowledged_records = max_unacknowledged_records;
        self
    }

    /// How long to wait before a failed batch or a failed read is retried; by default from 200 ms up to 30 s. After the
    /// last wait of a policy with a limit, that wait repeats: the [`failure_policy`](Self::failure_policy) alone limits the
    /// attempts of a batch.
    #[must_use]
    pub fn processing_retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.processing_retry = retry;
        self
    }

    /// How a failed checkpoint is retried; by default 8 attempts over about ten seconds. [`RetryPolicy::spark`] has the
    /// numbers of Spark's receiver.
    #[must_use]
    pub fn checkpoint_retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.checkpoint_retry = retry;
        self
    }

    /// The seed of all random choices: waits, jitter, which lease to take. By default each receiver draws its own.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The settings so far.
    pub fn current_settings(&self) -> &ConsumerSettings {
        &self.settings
    }

    pub(crate) fn current_seed(&self) -> Option<u64> {
        self.seed
    }

    /// The shared budget, or else a new one of `max_buffered_bytes`.
    pub(crate) fn budget_or_new(&self) -> ByteBudget {
        let size = NonZeroU64::new(self.settings.max_buffered_bytes).unwrap_or(NonZeroU64::MIN);
        self.budget.clone().unwrap_or_else(|| ByteBudget::new(size))
    }

    pub(crate) fn current_processors(&self) -> Option<Arc<dyn RecordProcessorFactory>> {
        self.processors.clone()
    }

    /// Whether a stream or a store was set, which are those of a consumer of one stream.
    pub(crate) fn has_source_or_store(&self) -> bool {
        self.source.is_some() || self.store.is_some()
    }

    /// All faults of settings and components, one line each. Empty when [`build`](Self::build) succeeds.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.settings.faults();
        for (is_missing, fault) in [
            (self.source.is_none(), "the stream is missing: call source()"),
            (self.store.is_none(), "the lease store is missing: call lease_store()"),
            (self.processors.is_none(), "the record processors are missing: call processors()"),
        ] {
            if is_missing {
                faults.push(fault.to_owned());
            }
        }
        faults
    }

    /// Checks settings and components, and builds the receiver.
    ///
    /// # Errors
    /// `InvalidSettings`, whose message lists all faults at once.
    pub fn build(self) -> Result<Consumer, ConsumerError> {
        let faults = self.faults();
        let (Some(source), Some(store), Some(processors), []) =
            (self.source.clone(), self.store.clone(), self.processors.clone(), faults.as_slice())
        else {
            return Err(invalid_settings(&faults));
        };
        let worker = WorkerParts::new(&self)?;
        let rng = worker.rng.clone();
        Ok(worker.consumer(self.settings, StreamParts { source, store, processors, rng, seat: None }))
    }
}

/// The parts of a worker that all its streams share.
pub(crate) struct WorkerParts {
    pub(crate) worker_id: WorkerId,
    pub(crate) rng: Rng,
    budget: ByteBudget,
    worker_options: ShardWorkerOptions,
    process: LiveProcess,
}

/// The parts of a worker that belong to one stream.
pub(crate) struct StreamParts {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) processors: Arc<dyn RecordProcessorFactory>,
    pub(crate) rng: Rng,
    pub(crate) seat: Option<Seat>,
}

impl WorkerParts {
    /// The parts by the settings, which have no faults.
    pub(crate) fn new(builder: &ConsumerBuilder) -> Result<Self, ConsumerError> {
        let settings = &builder.settings;
        let budget = builder.budget_or_new();
        let mut rng = builder.seed.map_or_else(fresh_rng, Rng::with_seed);
        let worker_id = settings.worker_id.clone().unwrap_or_else(|| new_worker_id(&mut rng, host_name()));
        let worker_id = WorkerId::new(worker_id).map_err(|error| invalid_settings(&[error.to_string()]))?;
        let mut worker_options = settings.worker_options(budget.clone());
        if let Some(failure_policy) = builder.failure_policy.clone() {
            worker_options.failure_policy = failure_policy;
        }
        let process = LiveProcess::register(&worker_id);
        Ok(Self { worker_id, rng, budget, worker_options, process })
    }

    /// The consumer of one stream. Its options share memory and rate limits with those of the others.
    pub(crate) fn consumer(&self, settings: ConsumerSettings, stream: StreamParts) -> Consumer {
        let shared = Arc::new(Shared::new(self.worker_id.clone(), self.budget.clone()));
        Consumer {
            worker_options: self.worker_options.clone(),
            checkpoint_retry: settings.checkpoint_retry,
            settings,
            source: stream.source,
            store: stream.store,
            processors: stream.processors,
            rng: stream.rng,
            process: self.process.clone(),
            worker_id: self.worker_id.clone(),
            end: Arc::new(EndReporter(shared.clone())),
            shared,
            seat: stream.seat,
        }
    }
}

pub(crate) fn invalid_settings(faults: &[String]) -> ConsumerError {
    let message = format!("the receiver cannot be built:\n- {}", faults.join("\n- "));
    ConsumerError::new(ConsumerErrorKind::InvalidSettings, message)
}

/// The only source of randomness from outside the process.
#[allow(clippy::disallowed_methods)]
pub(crate) fn fresh_rng() -> Rng {
    Rng::new()
}
