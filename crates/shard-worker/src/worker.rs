//! A shard worker: its parts, how it behaves, and the loop that asks the state machine what to do.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use checkpointer::{CheckpointErrorKind, Checkpointer};
use fastrand::Rng;
use lease_store::BoxError;
use tokio::sync::watch;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::life::{Event, ShardLife, Step};
use crate::task::Task;
use crate::{
    BatchLimits, ByteBudget, DataLossPolicy, Interventions, RateLimit, RecordProcessorFactory, RunUntil,
    Shard, ShardContext, ShardProgress, StreamClock, StreamSource,
};

pub use crate::life::ShardOutcome;

/// How a shard worker behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardWorkerOptions {
    /// Where a shard starts that has no checkpoint at a record. Without one,
    /// [`Position::AtTimestamp`](lease_store::Position::AtTimestamp) cannot be read,
    /// [`Position::Latest`](lease_store::Position::Latest) starts at the tip as it is at the first read, and
    /// [`Position::TrimHorizon`](lease_store::Position::TrimHorizon) at the oldest record.
    pub initial_timestamp: Option<SystemTime>,
    /// Whether aggregated records of the Kinesis Producer Library are taken apart. Otherwise the application gets them
    /// as they are.
    pub deaggregates: bool,
    /// The memory for records; clones of one budget share it over all shards.
    pub budget: ByteBudget,
    /// While the application has a batch, the next one is read if it cannot be larger than this, in bytes; 0: never.
    pub read_ahead_bytes: u64,
    /// What to do when records that were not read are no longer in the stream.
    pub data_loss: DataLossPolicy,
    /// How long the stream keeps records, where that is known.
    pub retention: Option<Duration>,
    /// The clock that stamps the records, where the stream tells its time. Without it, or without the retention period, a loss
    /// of records is never more than possible.
    pub stream_clock: Option<StreamClock>,
    /// Where the worker stops by itself, drained: everything before it is acknowledged and checkpointed, and nothing
    /// beyond it is delivered. [`ShardProgress::has_reached_bound`] says that this is why. `None`: never.
    pub run_until: Option<RunUntil>,
    /// No more is read while so many records are delivered and not acknowledged; only applications that acknowledge later
    /// come there.
    pub max_unacknowledged_records: NonZeroUsize,
    /// No more is read while what is delivered and not acknowledged took so many bytes.
    pub max_unacknowledged_bytes: u64,
    /// When a batch is closed.
    pub batch_limits: BatchLimits,
    /// How fast records are handed over; clones of one limit share it over all shards.
    pub rate_limit: RateLimit,
    /// Whether the shard is slowed down when the application fails, and speeds up again when it does not.
    pub adapts_rate: bool,
    /// How long a stop waits for what the application acknowledges later.
    pub settle_time: Duration,
}

/// How many records may be delivered and not acknowledged, unless it is set otherwise.
pub const DEFAULT_MAX_UNACKNOWLEDGED_RECORDS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

/// How much memory they may have taken, unless it is set otherwise, in bytes.
pub const DEFAULT_MAX_UNACKNOWLEDGED_BYTES: u64 = 64 * 1024 * 1024;

/// How much is read ahead unless it is set otherwise, in bytes: the largest batch that Kinesis gives, with what its call
/// needs while it is under way.
pub const DEFAULT_READ_AHEAD_BYTES: u64 = 24 * 1024 * 1024;

impl Default for ShardWorkerOptions {
    /// Aggregates are taken apart, and nothing is left out of them; a budget of its own of 128 MiB, and one batch of up to
    /// 24 MiB ahead; up to 100,000 records and 64 MiB unacknowledged, for which a stop waits 20 s; a batch is what a read gave, at any
    /// rate.
    fn default() -> Self {
        Self {
            initial_timestamp: None,
            deaggregates: true,
            budget: ByteBudget::default(),
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            data_loss: DataLossPolicy::default(),
            retention: None,
            stream_clock: None,
            run_until: None,
            max_unacknowledged_records: DEFAULT_MAX_UNACKNOWLEDGED_RECORDS,
            max_unacknowledged_bytes: DEFAULT_MAX_UNACKNOWLEDGED_BYTES,
            batch_limits: BatchLimits::default(),
            rate_limit: RateLimit::default(),
            adapts_rate: false,
            settle_time: Duration::from_secs(20),
        }
    }
}

/// Records the end of a shard: children first, then the shard itself.
#[async_trait]
pub trait ShardEndRecorder: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that the children can be read, then marks the shard as ended. Repeating it is safe.
    ///
    /// # Errors
    /// Any error is logged, and the call is made again after a wait.
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError>;
}

/// Reads one shard, delivers it, and ends.
///
/// The parts are given to it; [`run`](Self::run) does the work until the shard ends, the lease is lost or somebody asks
/// it to stop. Dropping the running future is a crash: nothing is flushed.
pub struct ShardWorker {
    /// Which shard, for whom, and from where. Its `lease_lost` token stops everything at once.
    pub context: ShardContext,
    /// The stream.
    pub source: Arc<dyn StreamSource>,
    /// Makes the application's processor.
    pub processors: Arc<dyn RecordProcessorFactory>,
    /// Writes what is acknowledged.
    pub checkpointer: Checkpointer,
    /// Records the end of the shard.
    pub end_recorder: Arc<dyn ShardEndRecorder>,
    /// Cancelled to make the worker finish its batch, checkpoint and end; the context's `stopping` should be the same.
    pub stop: CancellationToken,
    /// How others interfere when it makes no progress.
    pub interventions: Interventions,
    /// Where to report how it is going.
    pub progress: watch::Sender<ShardProgress>,
    /// How it behaves.
    pub options: ShardWorkerOptions,
    /// The generator for its waits.
    pub rng: Rng,
}

impl fmt::Debug for ShardWorker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShardWorker").field("context", &self.context).finish_non_exhaustive()
    }
}

impl ShardWorker {
    /// Works on the shard until it ends, the lease is lost, or a stop is asked for.
    pub async fn run(self) -> ShardOutcome {
        let lease_lost = self.context.lease_lost.clone();
        let stop = self.stop.clone();
        let interventions = self.interventions.clone();
        let mut checkpointer_stopped = Box::pin(self.checkpointer.stopped());
        let mut life = ShardLife::new();
        let mut task = Task::new(self);
        loop {
            if stop.is_cancelled() && !life.is_stopping() {
                life.on(Event::StopRequested);
            }
            if let Step::Finish(outcome) = life.step() {
                task.finish(outcome).await;
                return outcome;
            }
            let losing = life.step() == Step::NotifyLoss;
            let event = tokio::select! {
                biased;
                () = lease_lost.cancelled(), if !losing => Event::LeaseLost,
                kind = &mut checkpointer_stopped, if !losing => {
                    match kind {
                        CheckpointErrorKind::Fenced => tracing::info!("the lease was taken by another worker"),
                        _ => tracing::warn!(?kind, "nothing can be checkpointed any more; giving the shard up"),
                    }
                    // The application learns it the same way, whoever noticed first.
                    lease_lost.cancel();
                    Event::LeaseLost
                }
                () = interventions.given_up(), if life.is_breakable() => Event::GiveUp,
                () = interventions.restart_asked(), if life.is_breakable() => Event::Restart,
                () = stop.cancelled(), if !life.is_stopping() && life.is_interruptible() => Event::StopRequested,
                event = task.carry_out(life) => event,
            };
            if event == Event::Restart {
                task.start_anew();
            }
            life.on(event);
        }
    }
}
