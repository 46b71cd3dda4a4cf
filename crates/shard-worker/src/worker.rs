//! The task around the state machine: it carries the steps out.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use checkpointer::{CheckpointErrorKind, Checkpointer, Delays, RetryPolicy};
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lease_store::{BoxError, HashKeyRange, Position};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::arrivals::Arrivals;
use crate::intake::{Intake, Intaken};
use crate::life::{Event, ShardLife, Step};
use crate::reading_guard::ReadingGuard;
use crate::{
    ByteBudget, DataLossPolicy, FetchedBatch, ReadFrom, RecordBatch, RecordProcessor, RecordProcessorFactory,
    RunUntil, Shard, ShardContext, ShardEnd, ShardProgress, ShardState, SourceError, SourceErrorKind,
    StreamClock, StreamSource,
};

pub use crate::life::ShardOutcome;

/// How a shard worker behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardWorkerOptions {
    /// How long to wait before a failed step is done again. The number of attempts is not limited: a batch is never
    /// given up, and where a policy ends its last wait repeats.
    pub retry: RetryPolicy,
    /// Where a shard at [`Position::AtTimestamp`] or [`Position::Latest`] starts. Without one the first cannot be read, and
    /// the second starts at its tip as it is at the first read.
    pub initial_timestamp: Option<SystemTime>,
    /// Whether aggregated records of the Kinesis Producer Library are taken apart. Otherwise the application gets them
    /// as they are.
    pub deaggregates: bool,
    /// What the shard covers. Records of an aggregate that belong to another shard are left out; `None`: nothing is.
    pub hash_key_range: Option<HashKeyRange>,
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
}

/// How much is read ahead unless it is set otherwise, in bytes: the largest batch that Kinesis gives, with what its call
/// needs while it is under way.
pub const DEFAULT_READ_AHEAD_BYTES: u64 = 24 * 1024 * 1024;

impl Default for ShardWorkerOptions {
    /// Waits from 200 ms up to 30 s; aggregates are taken apart, and nothing is left out of them; a budget of its own of
    /// 128 MiB, and one batch of up to 24 MiB ahead.
    fn default() -> Self {
        let retry = RetryPolicy::exponential(Duration::from_millis(200), Duration::from_secs(30));
        Self {
            retry,
            initial_timestamp: None,
            deaggregates: true,
            hash_key_range: None,
            budget: ByteBudget::default(),
            read_ahead_bytes: DEFAULT_READ_AHEAD_BYTES,
            data_loss: DataLossPolicy::default(),
            retention: None,
            stream_clock: None,
            run_until: None,
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
    /// Cancelled to make the worker finish its batch, checkpoint and end.
    pub stop: CancellationToken,
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
                () = stop.cancelled(), if !life.is_stopping() && life.is_interruptible() => Event::StopRequested,
                event = task.carry_out(life) => event,
            };
            life.on(event);
        }
    }
}

/// What the steps work on.
struct Task {
    worker: ShardWorker,
    processor: Option<Box<dyn RecordProcessor>>,
    intake: Intake,
    guard: ReadingGuard,
    /// Reading is refused for a reason that somebody has to mend.
    refused: Option<ShardState>,
    /// The newest position that was delivered; whatever is not beyond it is dropped on arrival.
    delivered: Position,
    arrivals: Arrivals,
    /// The batch that is being processed.
    batch: Option<RecordBatch>,
    children: Vec<Shard>,
    delays: Delays,
    last_delay: Duration,
}

impl Task {
    fn new(mut worker: ShardWorker) -> Self {
        let delays = worker.options.retry.delays(worker.rng.fork());
        let shard_id = worker.context.shard_id.clone();
        Self {
            processor: None,
            intake: intake_of(&worker),
            guard: ReadingGuard::new(&worker.options, &worker.context.start, Instant::now()),
            refused: None,
            delivered: worker.context.start.clone(),
            arrivals: Arrivals::new(shard_id, worker.options.deaggregates, worker.options.hash_key_range),
            batch: None,
            children: Vec::new(),
            delays,
            last_delay: DEFAULT_RETRY_DELAY,
            worker,
        }
    }

    /// Does one step, after a wait if it failed before. Safe to cancel in reads and waits.
    async fn carry_out(&mut self, life: ShardLife) -> Event {
        if life.is_retrying() {
            let state = self.refused.unwrap_or(ShardState::BackingOff);
            self.worker.progress.send_modify(|progress| progress.state = state);
            self.guard.watch_retention(Instant::now(), &self.worker.progress);
            // A batch is never given up: where a policy ends, its last wait repeats.
            let delay = self.delays.next().unwrap_or(self.last_delay);
            self.last_delay = delay;
            let wait = tokio::time::sleep(delay);
            match life.step() {
                Step::Process => self.intake.beside(wait).await,
                _ => wait.await,
            }
        }
        let step = life.step();
        let refused = self.refused.filter(|_| step == Step::Fetch);
        self.worker.progress.send_if_modified(|progress| {
            let state = refused.unwrap_or(state_of(step));
            std::mem::replace(&mut progress.state, state) != state
        });
        let done = match step {
            Step::Fetch => match self.fetch().await {
                Ok(event) => return self.succeeded(event),
                Err(error) => {
                    self.refused = refusal(error.kind());
                    Err(error.into())
                }
            },
            Step::Initialize => self.initialize().await,
            Step::Process => self.process().await,
            Step::NotifyEnd => call(&mut self.processor, |processor| processor.shard_ended()).await,
            Step::RecordEnd => self.record_end().await,
            Step::NotifyStop => {
                self.drop_intake();
                call(&mut self.processor, |processor| processor.shutdown_requested()).await
            }
            Step::Flush => self.worker.checkpointer.flush().await.map_err(Into::into),
            Step::NotifyLoss => {
                self.drop_intake();
                call(&mut self.processor, |processor| {
                    async move {
                        processor.lease_lost().await;
                        Ok(())
                    }
                    .boxed()
                })
                .await
            }
            Step::Finish(_) => Ok(()),
        };
        match done {
            Ok(()) => self.succeeded(Event::Succeeded),
            Err(error) => self.failed(step, &error),
        }
    }

    fn succeeded(&mut self, event: Event) -> Event {
        if self.worker.progress.borrow().last_error.is_some() {
            self.delays = self.worker.options.retry.delays(self.worker.rng.fork());
            self.worker.progress.send_modify(|progress| progress.last_error = None);
        }
        event
    }

    fn failed(&self, step: Step, error: &BoxError) -> Event {
        let application = !matches!(step, Step::Fetch | Step::RecordEnd | Step::Flush);
        if self.refused != Some(ShardState::DataLost) {
            tracing::warn!(?step, %error, "the step failed and is done again; nothing is skipped");
        }
        self.worker.progress.send_modify(|progress| {
            progress.failed_attempts += u64::from(application);
            progress.last_error = Some(error.to_string());
        });
        Event::Failed
    }

    async fn initialize(&mut self) -> Result<(), BoxError> {
        if self.processor.is_none() {
            let create = || self.worker.processors.create(self.worker.context.clone());
            self.processor = Some(
                std::panic::catch_unwind(AssertUnwindSafe(create)).map_err(|panic| panic_error(&*panic))?,
            );
        }
        call(&mut self.processor, |processor| processor.initialize()).await
    }

    async fn record_end(&mut self) -> Result<(), BoxError> {
        // With nothing left to write the checkpointer stays quiet, and does not come behind the end of the shard.
        self.worker.checkpointer.flush().await?;
        self.worker.end_recorder.record_end(&self.children).await
    }

    async fn fetch(&mut self) -> Result<Event, SourceError> {
        // A shard that always has more to read lets the others have their turn.
        tokio::task::yield_now().await;
        if self.guard.is_at_bound() {
            // All before the bound is processed; the stop checkpoints it.
            self.worker.stop.cancel();
            return Ok(Event::Fetched { records: false, end: false });
        }
        let (mut fetched, memory) = match self.next_batch().await {
            Ok(Intaken { fetched, reservation }) => (fetched, Some(reservation)),
            Err(error) if error.kind() == SourceErrorKind::ShardNotFound => {
                self.guard.shard_is_gone(&error, Instant::now(), &self.worker.progress)?;
                let shard_end = Some(ShardEnd { children: Vec::new() });
                (FetchedBatch { records: Vec::new(), millis_behind_latest: None, shard_end }, None)
            }
            Err(error) if self.guard.is_start_refused(&error) => {
                self.intake = intake_of(&self.worker);
                return Ok(Event::Fetched { records: false, end: false });
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = self.guard.look(&mut fetched, Instant::now(), &self.worker.progress) {
            // What was read is not delivered, so it has to be read again.
            self.intake = intake_of(&self.worker);
            return Err(error);
        }
        // From here on nothing waits, so that a stop or a lost lease cannot come between reading and delivering.
        self.refused = None;
        let fetched_bytes = fetched.memory_bytes();
        let (records, counts) = self.arrivals.unpack(fetched.records, &mut self.delivered);
        self.worker.progress.send_if_modified(|progress| {
            progress.millis_behind_latest = fetched.millis_behind_latest.or(progress.millis_behind_latest);
            counts.add_to(progress) || fetched.millis_behind_latest.is_some()
        });
        let end = fetched.shard_end.is_some();
        if let Some(shard_end) = fetched.shard_end {
            self.children = shard_end.children;
        }
        self.batch = RecordBatch::new(records, fetched.millis_behind_latest).map(|batch| match memory {
            Some(mut memory) => {
                // What is taken apart can take more than it came in, and keeps that alive as a whole.
                memory.resize(batch.memory_bytes().max(fetched_bytes));
                batch.holding(memory)
            }
            None => batch,
        });
        if let Some(batch) = &self.batch {
            self.worker.checkpointer.deliver(batch.last_position());
        }
        Ok(Event::Fetched { records: self.batch.is_some(), end })
    }

    async fn next_batch(&mut self) -> Result<Intaken, SourceError> {
        if !self.intake.is_opened() {
            let from = read_from(&self.delivered, self.worker.options.initial_timestamp)?;
            self.intake.open(&self.guard.read_from(from)).await?;
        }
        self.intake.checkpointed(self.worker.checkpointer.watermarks().checkpointed());
        self.intake.next().await
    }

    /// Whatever was read ahead was not delivered, so nobody misses it; its memory is for others.
    fn drop_intake(&mut self) {
        let shard_id = self.worker.context.shard_id.clone();
        self.intake =
            Intake::new(self.worker.source.clone(), shard_id, self.worker.options.budget.clone(), 0);
        self.batch = None;
    }

    async fn process(&mut self) -> Result<(), BoxError> {
        let Some(batch) = self.batch.clone() else { return Ok(()) };
        let processing = call(&mut self.processor, |processor| processor.process(&batch));
        self.intake.beside(processing).await?;
        let position = batch.last_position();
        self.worker.checkpointer.acknowledge(position.clone(), batch.len() as u64)?;
        self.batch = None;
        self.worker.progress.send_modify(|progress| {
            progress.acknowledged_records += batch.len() as u64;
            progress.acknowledged_bytes += batch.payload_bytes();
            progress.acknowledged = Some(position);
        });
        Ok(())
    }

    async fn finish(self, outcome: ShardOutcome) {
        self.worker.progress.send_modify(|progress| progress.state = ShardState::Finished);
        self.worker.checkpointer.close().await;
        tracing::info!(?outcome, delivered = %self.delivered, "the work on the shard is over");
    }
}

/// What reads the shard of a worker, not opened yet.
fn intake_of(worker: &ShardWorker) -> Intake {
    let (source, shard_id) = (worker.source.clone(), worker.context.shard_id.clone());
    Intake::new(source, shard_id, worker.options.budget.clone(), worker.options.read_ahead_bytes)
}

/// Calls the application's code; a panic in it is an error like any other.
async fn call<'a, F>(processor: &'a mut Option<Box<dyn RecordProcessor>>, callback: F) -> Result<(), BoxError>
where
    F: FnOnce(&'a mut Box<dyn RecordProcessor>) -> BoxFuture<'a, Result<(), BoxError>>,
{
    let Some(processor) = processor else { return Ok(()) };
    // A processor that panicked is called again with the same batch, as after an error: its own state is its own
    // business, and replacing it could lose what it holds.
    AssertUnwindSafe(async move { callback(processor).await })
        .catch_unwind()
        .await
        .map_err(|panic| panic_error(&*panic))?
}

/// The state of a shard that cannot be read until somebody mends something.
fn refusal(kind: SourceErrorKind) -> Option<ShardState> {
    match kind {
        SourceErrorKind::Denied => Some(ShardState::Denied),
        SourceErrorKind::KeyUnavailable => Some(ShardState::KeyUnavailable),
        SourceErrorKind::DataLost => Some(ShardState::DataLost),
        _ => None,
    }
}

/// The wait before a retry when the policy gives none at all.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

fn state_of(step: Step) -> ShardState {
    match step {
        Step::Initialize => ShardState::Initializing,
        Step::Fetch => ShardState::Reading,
        Step::Process => ShardState::Processing,
        Step::NotifyEnd | Step::RecordEnd => ShardState::Ending,
        Step::NotifyStop | Step::Flush | Step::NotifyLoss => ShardState::Stopping,
        Step::Finish(_) => ShardState::Finished,
    }
}

/// Where reading goes on after a position.
fn read_from(delivered: &Position, initial_timestamp: Option<SystemTime>) -> Result<ReadFrom, SourceError> {
    match (delivered, initial_timestamp) {
        (Position::TrimHorizon, _) => Ok(ReadFrom::TrimHorizon),
        (Position::AtTimestamp | Position::Latest, Some(timestamp)) => Ok(ReadFrom::AtTimestamp(timestamp)),
        (Position::Latest, None) => Ok(ReadFrom::Latest),
        (Position::AtTimestamp, None) => Err(SourceError::new(
            SourceErrorKind::Invalid,
            "the lease starts at AT_TIMESTAMP but no timestamp is configured; set the initial position to the \
             timestamp that the application first started with",
        )),
        (Position::After(record), _) => Ok(ReadFrom::At(record.sequence_number.clone())),
        (Position::ShardEnd, _) => Err(SourceError::new(
            SourceErrorKind::Invalid,
            "the shard is read to its end; there is nothing to open",
        )),
    }
}

fn panic_error(panic: &(dyn std::any::Any + Send)) -> BoxError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    format!("the record processor panicked: {message}").into()
}
