//! What a shard worker's steps do. `reading` is the way to a batch, `processing` what comes after it.

mod processing;
mod reading;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use checkpointer::Delays;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lease_store::{BoxError, Position, SequenceNumber};
use tokio::time::{Duration, Instant};

use crate::acknowledgement::{Deliveries, WindowLimits};
use crate::arrivals::Arrivals;
use crate::gathering::Gathering;
use crate::intake::Intake;
use crate::life::{Event, ShardLife, Step};
use crate::panics::panic_error;
use crate::rate_limit::AdaptiveRate;
use crate::reading_guard::ReadingGuard;
use crate::{
    ByteReservation, RecordBatch, RecordProcessor, Shard, ShardOutcome, ShardState, ShardWorker,
    SourceErrorKind,
};

/// What the steps work on.
pub(crate) struct Task {
    worker: ShardWorker,
    processor: Option<Box<dyn RecordProcessor>>,
    intake: Intake,
    guard: ReadingGuard,
    /// Reading is refused for a reason that somebody has to mend.
    refused: Option<ShardState>,
    /// The newest position that was delivered; whatever is not beyond it is dropped on arrival.
    delivered: Position,
    /// The first record that was delivered: where to start anew while nothing is acknowledged.
    first_delivered: Option<SequenceNumber>,
    arrivals: Arrivals,
    /// What is read and not yet in a batch.
    gathering: Gathering,
    /// The memory that the gathered records take.
    gathered_memory: Vec<Arc<ByteReservation>>,
    /// The end of the shard was read, behind what is gathered.
    is_end_read: bool,
    /// When the next batch may be handed over, once it is counted against the limits of the rate.
    paced_until: Option<Instant>,
    rate: AdaptiveRate,
    /// What has to be processed, in order.
    work: VecDeque<Work>,
    /// What the application has and had, and has not acknowledged.
    deliveries: Deliveries,
    /// The delivery that the application failed to acknowledge the last time.
    redelivered: Option<u64>,
    /// Until when a stop waits for what is acknowledged later.
    settle_until: Option<Instant>,
    /// A step has failed since one succeeded.
    has_failed: bool,
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
    /// The last resort is to be taken with it.
    given_up: Option<GivenUp>,
}

struct GivenUp {
    attempts: u32,
    error: String,
    /// With how many of its records the last resort was taken already.
    taken: usize,
}

impl Work {
    fn new(batch: RecordBatch, is_part: bool) -> Self {
        Self { batch, is_part, given_up: None }
    }
}

impl Task {
    pub(crate) fn new(mut worker: ShardWorker) -> Self {
        let delays = worker.context.retry.delays(worker.rng.fork());
        let context = &worker.context;
        let options = &worker.options;
        let limits = WindowLimits {
            records: options.max_unacknowledged_records.get(),
            bytes: options.max_unacknowledged_bytes,
        };
        Self {
            processor: None,
            intake: intake(&worker, options.read_ahead_bytes),
            guard: ReadingGuard::new(options, &context.start, Instant::now()),
            refused: None,
            delivered: context.start.clone(),
            first_delivered: None,
            arrivals: Arrivals::new(context.shard_id.clone(), options.deaggregates, context.hash_key_range),
            gathering: Gathering::default(),
            gathered_memory: Vec::new(),
            is_end_read: false,
            paced_until: None,
            rate: AdaptiveRate::default(),
            work: VecDeque::new(),
            deliveries: Deliveries::new(worker.checkpointer.acknowledger(), worker.progress.clone(), limits),
            redelivered: None,
            settle_until: None,
            has_failed: false,
            is_halted: false,
            children: Vec::new(),
            delays,
            last_delay: DEFAULT_RETRY_DELAY,
            worker,
        }
    }

    /// Does one step, after a wait if it failed before. Safe to cancel in reads and waits.
    pub(crate) async fn carry_out(&mut self, life: ShardLife) -> Event {
        if life.is_retrying() {
            self.wait_to_retry(life.step()).await;
        }
        let step = life.step();
        let state = self.refused.filter(|_| step == Step::Fetch).unwrap_or(state_of(step));
        self.worker
            .progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.state, state) != state);
        let done = match step {
            Step::Fetch => match self.fetch().await {
                Ok(event) => Ok(event),
                Err(error) => {
                    // The service is there, and says when to come again; or what is lost is lost for all. Any other failure
                    // that lasts is for others to try.
                    if matches!(error.kind(), SourceErrorKind::Throttled | SourceErrorKind::DataLost) {
                        self.note_progress();
                    }
                    self.refused = refusal(error.kind());
                    Err(error.into())
                }
            },
            Step::Initialize => self.initialize().await.map(|()| Event::Succeeded),
            Step::Process => self.process().await,
            Step::Settle => self.settle(life).await.inspect(|event| {
                let is_all = matches!(event, Event::Settled { all: true, .. });
                if life.is_at_bound() && is_all {
                    self.worker.progress.send_modify(|progress| progress.has_reached_bound = true);
                }
            }),
            Step::NotifyEnd => self.call(|processor| processor.shard_ended()).await,
            Step::RecordEnd => self.record_end().await.map(|()| Event::Succeeded),
            Step::NotifyStop => {
                self.let_go();
                self.call(|processor| processor.shutdown_requested()).await
            }
            Step::Flush => {
                let flushed = self.worker.checkpointer.flush().await;
                flushed.map(|()| Event::Succeeded).map_err(Into::into)
            }
            Step::NotifyLoss => {
                self.let_go();
                if life.is_giving_up() {
                    // What the application has beside its processor ends as well.
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
        // A batch is never given up: where a policy ends, its last wait repeats.
        let delay = self.delays.next().unwrap_or(self.last_delay);
        self.last_delay = delay;
        let wait = tokio::time::sleep(delay);
        match step {
            Step::Process => self.intake.beside(wait).await,
            _ => wait.await,
        }
    }

    fn succeeded(&mut self, event: Event) -> Event {
        self.note_progress();
        if matches!(event, Event::Redeliver { .. } | Event::Restart) {
            return event;
        }
        if self.redelivered.is_some_and(|delivery| self.deliveries.is_open(delivery)) {
            // What failed before is only handed over again, and not done.
            return event;
        }
        self.redelivered = None;
        self.is_halted = false;
        if std::mem::take(&mut self.has_failed) {
            self.delays = self.worker.context.retry.delays(self.worker.rng.fork());
            self.worker.progress.send_modify(|progress| progress.last_error = None);
        }
        event
    }

    /// The lag of a quiet shard moves; what somebody has and does not acknowledge makes no progress by that.
    fn note_progress(&self) {
        if self.deliveries.is_empty() {
            self.worker.progress.send_if_modified(|progress| {
                progress.progressed_at = Some(Instant::now());
                false
            });
        }
    }

    fn failed(&mut self, step: Step, error: &BoxError) -> Event {
        self.has_failed = true;
        let is_application = !matches!(step, Step::Fetch | Step::RecordEnd | Step::Flush);
        self.worker.progress.send_modify(|progress| {
            progress.failed_attempts += u64::from(is_application);
            progress.last_error = Some(error.to_string());
        });
        let is_attempt =
            step == Step::Process && self.work.front().is_some_and(|work| work.given_up.is_none());
        if !is_attempt {
            let is_reported = step == Step::Fetch && self.refused == Some(ShardState::DataLost);
            if !is_reported {
                tracing::warn!(?step, %error, "the step failed and is done again; nothing is skipped");
            }
            return Event::Failed;
        }
        let Some(work) = self.work.pop_front() else { return Event::Failed };
        if self.worker.options.adapts_rate {
            self.rate.failed();
        }
        match self.deliveries.deliver_again(&work.batch) {
            Some(batch) => {
                let attempts = work.batch.attempt();
                self.take_up_again(Work { batch, ..work }, attempts, error)
            }
            // It failed only after all its records were acknowledged one by one.
            None => self.after_a_part(),
        }
    }

    async fn initialize(&mut self) -> Result<(), BoxError> {
        if self.processor.is_none() {
            let create = || self.worker.processors.create(self.worker.context.clone());
            self.processor = Some(
                std::panic::catch_unwind(AssertUnwindSafe(create))
                    .map_err(|panic| panic_error(PROCESSOR, &*panic))?,
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
        // With nothing left to write the checkpointer stays quiet, and does not come behind the end of the shard.
        self.worker.checkpointer.flush().await?;
        self.worker.end_recorder.record_end(&self.children).await?;
        self.intake.checkpointed(&Position::ShardEnd);
        Ok(())
    }

    /// Lets go of everything but the processor. Whatever was read ahead was not delivered, so nobody misses it, and its
    /// memory is for others; handles that the application still has do nothing any more.
    fn let_go(&mut self) {
        self.intake = intake(&self.worker, 0);
        self.gathering = Gathering::default();
        self.gathered_memory.clear();
        self.work.clear();
        self.deliveries.clear();
    }

    /// Goes back to what is acknowledged, with a new processor.
    pub(crate) fn start_anew(&mut self) {
        self.let_go();
        self.intake = intake(&self.worker, self.worker.options.read_ahead_bytes);
        self.processor = None;
        self.is_end_read = false;
        self.paced_until = None;
        self.children.clear();
        self.delivered = self.worker.checkpointer.watermarks().acknowledged().clone();
        self.guard.start_anew(&self.worker.options, &self.delivered, self.first_delivered.as_ref());
        tracing::warn!(from = %self.delivered, "the work on the shard starts anew, with a new processor");
        self.worker.progress.send_modify(|progress| progress.restarts += 1);
    }

    pub(crate) async fn finish(self, outcome: ShardOutcome) {
        self.worker.progress.send_modify(|progress| progress.state = ShardState::Finished);
        self.worker.checkpointer.close().await;
        tracing::info!(?outcome, delivered = %self.delivered, "the work on the shard is over");
    }
}

fn intake(worker: &ShardWorker, read_ahead_bytes: u64) -> Intake {
    let shard_id = worker.context.shard_id.clone();
    Intake::new(worker.source.clone(), shard_id, worker.options.budget.clone(), read_ahead_bytes)
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
        .map_err(|panic| panic_error(PROCESSOR, &*panic))?
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

/// After so many failed attempts the wait grows no more.
const MAX_WAITS: u32 = 64;

/// Who panics, in errors.
const PROCESSOR: &str = "the record processor";

/// The wait before a retry when the policy gives none at all.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);

fn state_of(step: Step) -> ShardState {
    match step {
        Step::Initialize => ShardState::Initializing,
        Step::Fetch => ShardState::Reading,
        Step::Process => ShardState::Processing,
        Step::Settle => ShardState::Settling,
        Step::NotifyEnd | Step::RecordEnd => ShardState::Ending,
        Step::NotifyStop | Step::Flush | Step::NotifyLoss => ShardState::Stopping,
        Step::Finish(_) => ShardState::Finished,
    }
}
