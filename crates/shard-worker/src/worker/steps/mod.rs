//! The steps of a shard worker, and the data they share. `fetch` reads and builds batches, `process` delivers them.

mod fetch;
mod process;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use checkpointer::Delays;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lease_store::{BoxError, Position, SequenceNumber};
use tokio::time::{Duration, Instant};

use super::shard_worker::ShardWorker;
use super::state_machine::{Event, ShardOutcome, ShardStateMachine, Step};
use crate::acknowledgement::record_batch::RecordBatch;
use crate::acknowledgement::tracker::{AcknowledgementTracker, WindowLimits};
use crate::aggregation::filter_rule::FilterRule;
use crate::checkpoint_access::ExplicitCheckpoints;
use crate::error::SourceErrorKind;
use crate::failure::panics::panic_error;
use crate::failure::process_error::ErrorTexts;
use crate::memory::byte_budget::ByteReservation;
use crate::processor::RecordProcessor;
use crate::progress::ShardState;
use crate::read::batching::BatchBuffer;
use crate::read::prefetch::Prefetch;
use crate::read::rate_limit::AdaptiveRate;
use crate::read::read_guard::ReadGuard;
use crate::read::unpack::Unpacker;
use crate::shard::Shard;

/// The steps of one shard worker.
pub(crate) struct ShardSteps {
    worker: ShardWorker,
    processor: Option<Box<dyn RecordProcessor>>,
    prefetch: Prefetch,
    guard: ReadGuard,
    /// Why reads are refused until an operator acts; `None`: they are not.
    refused: Option<ShardState>,
    /// Knows the read position: how far the shard was read.
    unpacker: Unpacker,
    /// The first record that was read: a restart begins there while no record is acknowledged. At `LATEST` nothing else
    /// leads back to records that were read and not delivered.
    first_read: Option<SequenceNumber>,
    /// Records that were read and are in no batch yet.
    buffer: BatchBuffer,
    /// The memory of the buffered records.
    buffered_memory: Vec<Arc<ByteReservation>>,
    /// The memory of the fetched records of which some are not unpacked yet.
    fetched_memory: Option<Arc<ByteReservation>>,
    /// The end of the shard was read; it follows the buffered records.
    is_end_read: bool,
    /// When the next batch may be delivered; set once the batch is counted against the rate limits.
    paced_until: Option<Instant>,
    rate: AdaptiveRate,
    /// The batches to process, in order.
    work: VecDeque<Work>,
    /// The records that are delivered and not acknowledged.
    tracker: AcknowledgementTracker,
    /// The number of the batch that is delivered again because a deferred acknowledgement failed.
    redelivered_batch: Option<u64>,
    /// When a stop ends its wait for late acknowledgements.
    flush_until: Option<Instant>,
    /// A step failed, and none has succeeded since then.
    has_failed: bool,
    /// The newest failure was that of a read.
    is_read_failing: bool,
    /// The application has failed as often as its policy allows, and the policy is to halt.
    is_halted: bool,
    children: Vec<Shard>,
    delays: Delays,
    last_delay: Duration,
}

/// A batch, or a part of one, that has to be processed.
struct Work {
    batch: RecordBatch,
    /// It is a part of a batch that failed as a whole.
    is_part: bool,
    /// Set when the failure policy wants the last resort for it.
    last_resort: Option<PendingLastResort>,
}

/// The last resort that has to be applied to each record of a batch.
struct PendingLastResort {
    attempts: u32,
    texts: ErrorTexts,
    /// For how many records it has been applied.
    applied: usize,
}

impl Work {
    fn new(batch: RecordBatch, is_part: bool) -> Self {
        Self { batch, is_part, last_resort: None }
    }
}

impl ShardSteps {
    pub(crate) fn new(mut worker: ShardWorker) -> Self {
        worker.context.failure_policy = worker.options.failure_policy.clone();
        worker.context.retry = worker.options.retry;
        worker.context.checkpoints = ExplicitCheckpoints::through(worker.checkpointer.flusher());
        let delays = worker.options.retry.delays(worker.rng.fork());
        let context = &worker.context;
        let options = &worker.options;
        let limits = WindowLimits {
            records: options.max_unacknowledged_records.get(),
            bytes: options.max_unacknowledged_bytes,
        };
        Self {
            processor: None,
            prefetch: prefetch(&worker, options.read_ahead_bytes),
            guard: ReadGuard::new(options.read_checks(), &context.start, Instant::now()),
            refused: None,
            unpacker: Unpacker::new(
                context.shard_id.clone(),
                options.deaggregates,
                FilterRule {
                    filter: options.aggregate_filter,
                    range: context.hash_key_range,
                    has_parents: !context.parent_shard_ids.is_empty(),
                    distribution: options.distribution,
                },
                context.start.clone(),
            ),
            first_read: None,
            buffer: BatchBuffer::default(),
            buffered_memory: Vec::new(),
            fetched_memory: None,
            is_end_read: false,
            paced_until: None,
            rate: AdaptiveRate::default(),
            work: VecDeque::new(),
            tracker: AcknowledgementTracker::new(
                worker.checkpointer.acknowledger(),
                worker.progress.clone(),
                limits,
            ),
            redelivered_batch: None,
            flush_until: None,
            has_failed: false,
            is_read_failing: false,
            is_halted: false,
            children: Vec::new(),
            delays,
            last_delay: DEFAULT_RETRY_DELAY,
            worker,
        }
    }

    /// Runs one step, after a wait if it failed before. Safe to cancel in reads and waits.
    pub(crate) async fn run_step(&mut self, machine: ShardStateMachine) -> Event {
        if machine.is_retrying() {
            self.wait_to_retry(machine.step()).await;
        }
        let step = machine.step();
        let state = self.refused.filter(|_| step == Step::Fetch).unwrap_or(state_of(step));
        self.worker
            .progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.state, state) != state);
        let done = match step {
            Step::Fetch => match self.fetch().await {
                Ok(event) => Ok(event),
                Err(error) => {
                    // A throttled stream answers, and lost data is lost for every worker: neither is a reason for another
                    // worker to try. Any other failure that lasts is.
                    if matches!(error.kind(), SourceErrorKind::Throttled | SourceErrorKind::DataLost) {
                        self.record_progress();
                    }
                    self.refused = refusal(error.kind());
                    Err(error.into())
                }
            },
            Step::Initialize => self.initialize().await.map(|()| Event::Succeeded),
            Step::Process => self.process().await,
            Step::NotifyEmpty => {
                let millis_behind_latest = self.worker.progress.borrow().millis_behind_latest;
                self.call(move |processor| processor.nothing_read(millis_behind_latest)).await
            }
            Step::Flush => self.flush(machine).await.inspect(|event| {
                let is_all = matches!(event, Event::Flushed { all: true, .. });
                if machine.is_at_bound() && is_all {
                    self.worker.progress.send_modify(|progress| progress.has_reached_bound = true);
                }
            }),
            Step::NotifyEnd => self.call(|processor| processor.shard_ended()).await,
            Step::RecordEnd => self.record_end().await.map(|()| Event::Succeeded),
            Step::NotifyStop => {
                self.discard();
                self.call(|processor| processor.shutdown_requested()).await
            }
            Step::Checkpoint => {
                let flushed = self.worker.checkpointer.flush().await;
                flushed.map(|()| Event::Succeeded).map_err(Into::into)
            }
            Step::NotifyLoss => {
                self.discard();
                if machine.is_giving_up() {
                    // Stops work that the application runs outside its processor.
                    self.worker.context.lease_lost.cancel();
                }
                self.call(|processor| processor.lease_lost().map(Ok).boxed()).await
            }
            Step::Finish(_) => Ok(Event::Succeeded),
        };
        match done {
            Ok(event) => self.succeeded(event),
            Err(error) => self.failed(step, &error),
        }
    }

    async fn wait_to_retry(&mut self, step: Step) {
        let state = match step {
            Step::Process if self.is_halted => ShardState::Halted,
            _ => self.refused.unwrap_or(ShardState::BackingOff),
        };
        self.worker.progress.send_modify(|progress| progress.state = state);
        self.guard.watch_retention(Instant::now(), &self.worker.progress);
        // Where the retry policy ends, its last wait repeats: a batch is retried without a limit.
        let delay = self.delays.next().unwrap_or(self.last_delay);
        self.last_delay = delay;
        let wait = tokio::time::sleep(delay);
        match step {
            Step::Process => self.prefetch.prefetch_during(wait).await,
            _ => wait.await,
        }
    }

    fn succeeded(&mut self, event: Event) -> Event {
        self.record_progress();
        let records = match event {
            Event::Fetched { records, .. } => Some(records),
            Event::NothingRead => Some(false),
            _ => None,
        };
        if let Some(records) = records
            && (self.is_read_failing || (!records && self.tracker.is_empty()))
        {
            self.worker.progress.send_if_modified(|progress| progress.failing_since.take().is_some());
        }
        if matches!(event, Event::Redeliver { .. } | Event::Restart) {
            return event;
        }
        if self.redelivered_batch.is_some_and(|batch| self.tracker.is_open(batch)) {
            // The failed records are delivered again, but not acknowledged yet.
            return event;
        }
        self.redelivered_batch = None;
        self.is_halted = false;
        if std::mem::take(&mut self.has_failed) {
            self.delays = self.worker.options.retry.delays(self.worker.rng.fork());
            self.worker.progress.send_modify(|progress| progress.last_error = None);
        }
        event
    }

    /// Records progress, unless records wait for their acknowledgement: then only an acknowledgement is progress.
    fn record_progress(&self) {
        if self.tracker.is_empty() {
            self.worker.progress.send_if_modified(|progress| {
                progress.progressed_at = Some(Instant::now());
                false
            });
        }
    }

    fn failed(&mut self, step: Step, error: &BoxError) -> Event {
        self.has_failed = true;
        self.is_read_failing = step == Step::Fetch;
        let is_application = !matches!(step, Step::Fetch | Step::RecordEnd | Step::Checkpoint);
        self.worker.progress.send_modify(|progress| {
            progress.failed_attempts += u64::from(is_application);
            progress.record_error(error.to_string());
        });
        let is_attempt =
            step == Step::Process && self.work.front().is_some_and(|work| work.last_resort.is_none());
        if !is_attempt {
            let is_reported = step == Step::Fetch && self.refused == Some(ShardState::DataLost);
            if !is_reported {
                tracing::warn!(?step, %error, "step failed, retrying it; no record is skipped");
            }
            return Event::Failed;
        }
        let Some(work) = self.work.pop_front() else { return Event::Failed };
        if self.worker.options.adapts_rate {
            self.rate.failed();
        }
        match self.tracker.deliver_again(&work.batch) {
            Some(batch) => {
                let attempts = work.batch.attempt();
                self.apply_failure_policy(Work { batch, ..work }, attempts, error)
            }
            // The processor failed after it had acknowledged all records one by one.
            None => self.after_part(),
        }
    }

    async fn initialize(&mut self) -> Result<(), BoxError> {
        if self.processor.is_none() {
            let create = || self.worker.processors.create(self.worker.context.clone());
            self.processor = Some(
                std::panic::catch_unwind(AssertUnwindSafe(create))
                    .map_err(|panic| panic_error(PROCESSOR, &*panic))??,
            );
        }
        call(&mut self.processor, |processor| processor.initialize()).await
    }

    async fn call<'a, F>(&'a mut self, callback: F) -> Result<Event, BoxError>
    where
        F: FnOnce(&'a mut Box<dyn RecordProcessor>) -> BoxFuture<'a, Result<(), BoxError>>,
    {
        call(&mut self.processor, callback).await.map(|()| Event::Succeeded)
    }

    async fn record_end(&mut self) -> Result<(), BoxError> {
        // After a flush the checkpointer has nothing to write, so no checkpoint can follow the end of the shard.
        self.worker.checkpointer.flush().await?;
        self.worker.end_recorder.record_end(&self.children).await?;
        self.prefetch.checkpointed(&Position::ShardEnd);
        Ok(())
    }

    /// Drops everything but the processor. Prefetched records were not delivered, so no record is lost and their memory is
    /// free for other shards. Acknowledgements that the application still holds do nothing from now on.
    fn discard(&mut self) {
        self.prefetch = prefetch(&self.worker, 0);
        self.buffer = BatchBuffer::default();
        self.buffered_memory.clear();
        self.unpacker.discard();
        self.fetched_memory = None;
        self.work.clear();
        self.tracker.clear();
    }

    /// Restarts at the acknowledged position, with a new processor.
    pub(crate) fn restart(&mut self) {
        self.discard();
        self.prefetch = prefetch(&self.worker, self.worker.options.read_ahead_bytes);
        self.processor = None;
        self.is_end_read = false;
        self.paced_until = None;
        self.children.clear();
        let acknowledged = self.worker.checkpointer.watermarks().acknowledged().clone();
        self.guard.restart(self.worker.options.read_checks(), &acknowledged, self.first_read.as_ref());
        tracing::warn!(from = %acknowledged, "restarting the shard with a new processor");
        self.unpacker.read_again_from(acknowledged);
        self.worker.progress.send_modify(|progress| progress.restarts += 1);
    }

    pub(crate) async fn finish(self, outcome: ShardOutcome) {
        self.worker.progress.send_modify(|progress| progress.state = ShardState::Finished);
        self.worker.checkpointer.close().await;
        tracing::info!(?outcome, read_position = %self.unpacker.read_position(), "shard worker finished");
    }
}

fn prefetch(worker: &ShardWorker, read_ahead_bytes: u64) -> Prefetch {
    let shard_id = worker.context.shard_id.clone();
    Prefetch::new(worker.source.clone(), shard_id, worker.options.budget.clone(), read_ahead_bytes)
}

/// Calls the application's code; a panic becomes an error.
async fn call<'a, F>(processor: &'a mut Option<Box<dyn RecordProcessor>>, callback: F) -> Result<(), BoxError>
where
    F: FnOnce(&'a mut Box<dyn RecordProcessor>) -> BoxFuture<'a, Result<(), BoxError>>,
{
    let Some(processor) = processor else { return Ok(()) };
    // A processor that panicked gets the same batch again, as after an error. Replacing it could lose the state it holds.
    AssertUnwindSafe(async move { callback(processor).await })
        .catch_unwind()
        .await
        .map_err(|panic| panic_error(PROCESSOR, &*panic))?
}

/// The state of a shard whose reads are refused until an operator acts.
fn refusal(kind: SourceErrorKind) -> Option<ShardState> {
    match kind {
        SourceErrorKind::Denied => Some(ShardState::Denied),
        SourceErrorKind::KeyUnavailable => Some(ShardState::KeyUnavailable),
        SourceErrorKind::DataLost => Some(ShardState::DataLost),
        _ => None,
    }
}

/// After this many failed attempts the wait no longer grows.
const MAX_WAITS: u32 = 64;

/// The name of the processor in errors about panics.
const PROCESSOR: &str = "the record processor";

/// The wait before a retry when the retry policy returns none.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

fn state_of(step: Step) -> ShardState {
    match step {
        Step::Initialize => ShardState::Initializing,
        Step::Fetch => ShardState::Reading,
        Step::Process | Step::NotifyEmpty => ShardState::Processing,
        Step::Flush => ShardState::Flushing,
        Step::NotifyEnd | Step::RecordEnd => ShardState::Ending,
        Step::NotifyStop | Step::Checkpoint | Step::NotifyLoss => ShardState::Stopping,
        Step::Finish(_) => ShardState::Finished,
    }
}
