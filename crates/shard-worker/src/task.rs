//! What a shard worker's steps do.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use checkpointer::Delays;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lease_store::{BoxError, Position, SequenceNumber};
use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::acknowledgement::{Deliveries, Failure, WindowLimits};
use crate::arrivals::Arrivals;
use crate::failure_policy::Verdict;
use crate::gathering::{BatchLimits, Gathering, NextBatch};
use crate::intake::{Intake, Intaken};
use crate::last_resort::take_last_resort;
use crate::life::{Event, ShardLife, Step};
use crate::panics::panic_error;
use crate::rate_limit::AdaptiveRate;
use crate::reading_guard::ReadingGuard;
use crate::{
    ByteReservation, FetchedBatch, ReadFrom, Record, RecordBatch, RecordProcessor, Settling, Shard, ShardEnd,
    ShardOutcome, ShardState, ShardWorker, SourceError, SourceErrorKind,
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

    /// Decides what becomes of a batch that failed, or of the records of it that did.
    fn take_up_again(&mut self, work: Work, attempts: u32, error: &BoxError) -> Event {
        let verdict = self.worker.context.failure_policy.verdict(attempts, work.batch.len(), work.is_part);
        let position = work.batch.last_position();
        let records = work.batch.len();
        match verdict {
            Verdict::Again => {
                tracing::warn!(%error, attempts, records, %position, "a batch failed and is tried again");
                self.work.push_front(work);
                Event::Failed
            }
            Verdict::Halt => {
                if !self.is_halted {
                    tracing::error!(
                        %error, attempts, records, %position,
                        "the shard is halted: a batch fails again and again; it is tried again now and then, and nothing is skipped"
                    );
                }
                self.is_halted = true;
                self.work.push_front(work);
                Event::Failed
            }
            Verdict::Divide => {
                tracing::warn!(%error, attempts, records, %position, "a batch fails again and again, and is divided");
                for half in self.deliveries.halves(&work.batch).into_iter().rev() {
                    self.work.push_front(Work::new(half, true));
                }
                Event::MoreToProcess
            }
            Verdict::GiveUp => {
                let given_up = GivenUp { attempts, error: error.to_string(), taken: 0 };
                self.work.push_front(Work { given_up: Some(given_up), ..work });
                Event::MoreToProcess
            }
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

    async fn fetch(&mut self) -> Result<Event, SourceError> {
        // A shard that always has more to read lets the others have their turn.
        tokio::task::yield_now().await;
        loop {
            if let Some(failure) = self.deliveries.failure() {
                return Ok(self.redeliver(failure));
            }
            if !self.deliveries.has_room() {
                return Ok(Event::NoRoom);
            }
            let limits = self.batch_limits();
            let is_read_up = self.is_end_read || self.guard.is_at_bound();
            if let Some(next) = self.gathering.next(limits, Instant::now(), is_read_up) {
                if self.is_paced(next) {
                    return Ok(self.deliver(next));
                }
            } else if self.is_end_read {
                return Ok(Event::Fetched { records: false, end: true });
            } else if is_read_up {
                return Ok(Event::AtBound);
            }
            let due_at = self.paced_until.or_else(|| self.gathering.due_at(limits));
            let is_due = async {
                match due_at {
                    Some(due_at) => sleep_until(due_at).await,
                    None => std::future::pending().await,
                }
            };
            // While a batch waits for its time, only it is waited for: what is read beyond it would only take memory.
            let reads = self.paced_until.is_none() && !is_read_up;
            if reads && !self.intake.is_opened() {
                let from = self.guard.read_from(self.read_from()?);
                if let Err(error) = self.intake.open(&from).await {
                    self.take_in(Err(error))?;
                    continue;
                }
            }
            if reads {
                self.intake.checkpointed(self.worker.checkpointer.watermarks().checkpointed());
            }
            let read = tokio::select! {
                biased;
                read = self.intake.next(), if reads => Some(read),
                () = self.deliveries.changed() => None,
                () = is_due => None,
            };
            if let Some(read) = read {
                let is_new = self.take_in(read)?;
                if !is_new && !self.is_end_read && self.gathering.is_empty() {
                    return Ok(Event::Fetched { records: false, end: false });
                }
            }
        }
    }

    fn batch_limits(&self) -> BatchLimits {
        let options = &self.worker.options;
        let rate = &options.rate_limit;
        options
            .batch_limits
            .at_most(rate.records_at_once(), rate.payload_bytes_at_once())
            .at_most(self.rate.records_at_once(), None)
    }

    /// Whether the time of the next batch has come. It is counted when it is asked for first.
    fn is_paced(&mut self, next: NextBatch) -> bool {
        let now = Instant::now();
        let until = *self.paced_until.get_or_insert_with(|| {
            let fixed = self.worker.options.rate_limit.take(next.records as u64, next.payload_bytes, now);
            fixed.max(self.rate.take(next.records, now))
        });
        now >= until
    }

    /// Takes note of what a read gave; says whether there are new records. Nothing waits here, so that a stop or a lost
    /// lease cannot come between reading and taking note.
    fn take_in(&mut self, read: Result<Intaken, SourceError>) -> Result<bool, SourceError> {
        let (mut fetched, memory) = match read {
            Ok(Intaken { fetched, reservation }) => (fetched, Some(reservation)),
            Err(error) if error.kind() == SourceErrorKind::ShardNotFound => {
                self.guard.shard_is_gone(&error, Instant::now(), &self.worker.progress)?;
                let shard_end = Some(ShardEnd { children: Vec::new() });
                (FetchedBatch { records: Vec::new(), millis_behind_latest: None, shard_end }, None)
            }
            Err(error) if self.guard.is_start_refused(&error) => {
                self.intake = intake(&self.worker, self.worker.options.read_ahead_bytes);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = self.guard.look(&mut fetched, Instant::now(), &self.worker.progress) {
            // What was read is not delivered, so it has to be read again.
            self.intake = intake(&self.worker, self.worker.options.read_ahead_bytes);
            return Err(error);
        }
        self.refused = None;
        let fetched_bytes = fetched.memory_bytes();
        let (records, counts) = self.arrivals.unpack(fetched.records, &mut self.delivered);
        self.worker.progress.send_if_modified(|progress| {
            progress.millis_behind_latest = fetched.millis_behind_latest.or(progress.millis_behind_latest);
            counts.add_to(progress) || fetched.millis_behind_latest.is_some()
        });
        if let Some(shard_end) = fetched.shard_end {
            self.is_end_read = true;
            self.children = shard_end.children;
        }
        let is_new = !records.is_empty();
        if is_new && let Some(mut memory) = memory {
            // What is taken apart can take more than it came in, and keeps that alive as a whole.
            let taken_apart =
                counts.is_any_taken_apart().then(|| records.iter().map(Record::memory_bytes).sum());
            memory.resize(fetched_bytes.max(taken_apart.unwrap_or(0)));
            self.gathered_memory.push(Arc::new(memory));
        }
        self.gathering.add(records, Instant::now());
        Ok(is_new)
    }

    /// Puts the next batch up for processing.
    fn deliver(&mut self, next: NextBatch) -> Event {
        self.paced_until = None;
        let records = self.gathering.take(next);
        let memory = match self.gathering.is_empty() {
            true => std::mem::take(&mut self.gathered_memory),
            false => self.gathered_memory.clone(),
        };
        let millis_behind_latest = self.worker.progress.borrow().millis_behind_latest;
        if let Some(batch) = RecordBatch::new(records, millis_behind_latest) {
            self.worker.checkpointer.deliver(batch.last_position());
            if self.first_delivered.is_none() {
                let first = batch.first().and_then(|record| record.sequence_number.as_str().parse().ok());
                self.first_delivered = first;
            }
            let batch = self.deliveries.deliver(batch.holding(memory));
            self.work.push_back(Work::new(batch, false));
        }
        Event::Fetched { records: !self.work.is_empty(), end: self.is_end_read && self.gathering.is_empty() }
    }

    /// Where reading goes on.
    fn read_from(&self) -> Result<ReadFrom, SourceError> {
        match (&self.delivered, &self.first_delivered) {
            (Position::TrimHorizon | Position::AtTimestamp | Position::Latest, Some(first)) => {
                Ok(ReadFrom::At(first.clone()))
            }
            (delivered, _) => read_from(delivered, self.worker.options.initial_timestamp),
        }
    }

    fn redeliver(&mut self, failure: Failure) -> Event {
        let (batch, error) = match failure {
            Failure::Records { batch, error } => (batch, error),
            Failure::Untouched(batch) => {
                self.work.push_front(Work::new(batch, false));
                return Event::Redeliver { wait: false };
            }
            Failure::Restart(error) => {
                tracing::warn!(%error, "records are not done and have to be read again");
                self.has_failed = true;
                self.worker.progress.send_modify(|progress| progress.last_error = Some(error.to_string()));
                return Event::Restart;
            }
        };
        self.has_failed = true;
        self.worker.progress.send_modify(|progress| {
            progress.failed_attempts += 1;
            progress.last_error = Some(error.to_string());
        });
        let attempts = batch.attempt().saturating_sub(1);
        self.redelivered = batch.delivered().map(|delivered| delivered.delivery());
        // Each has a series of waits of its own, however many others have failed.
        self.delays = self.worker.context.retry.delays(self.worker.rng.fork());
        for _ in 1..attempts.min(MAX_WAITS) {
            self.last_delay = self.delays.next().unwrap_or(self.last_delay);
        }
        let event = self.take_up_again(Work::new(batch, false), attempts, &error);
        Event::Redeliver { wait: event == Event::Failed }
    }

    async fn process(&mut self) -> Result<Event, BoxError> {
        let Some(work) = self.work.front_mut() else { return Ok(Event::Succeeded) };
        if work.given_up.is_some() {
            self.give_up_first().await?;
            return Ok(self.after_a_part());
        }
        let batch = work.batch.clone();
        let time_limit = self.worker.context.failure_policy.handler_time_limit();
        let processing = call(&mut self.processor, |processor| processor.process(&batch));
        let in_time = async {
            let Some(time_limit) = time_limit else { return processing.await };
            let too_slow =
                || format!("the record processor took longer than {time_limit:?} and was cut short");
            timeout(time_limit, processing).await.unwrap_or_else(|_| Err(too_slow().into()))
        };
        let begun_at = Instant::now();
        self.intake.beside(in_time).await?;
        self.deliveries.processed(&batch);
        self.work.pop_front();
        if self.worker.options.adapts_rate {
            self.rate.succeeded(batch.len(), begun_at.elapsed());
        }
        Ok(self.after_a_part())
    }

    fn after_a_part(&self) -> Event {
        if self.work.is_empty() { Event::Succeeded } else { Event::MoreToProcess }
    }

    /// Takes the last resort with what is to be processed first.
    async fn give_up_first(&mut self) -> Result<(), BoxError> {
        let Some(Work { batch, given_up: Some(given_up), .. }) = self.work.front_mut() else { return Ok(()) };
        let context = &self.worker.context;
        while let Some(record) = batch.get(given_up.taken) {
            let taken = take_last_resort(context, record, given_up.attempts, &given_up.error).await?;
            given_up.taken += 1;
            self.worker.progress.send_modify(|progress| taken.count(progress));
        }
        self.deliveries.give_up(batch);
        self.work.pop_front();
        Ok(())
    }

    /// Waits for what the application acknowledges later.
    async fn settle(&mut self, life: ShardLife) -> Result<Event, BoxError> {
        if life.is_stopping() {
            for work in self.work.drain(..) {
                self.deliveries.abandon(&work.batch);
            }
        }
        if self.deliveries.is_settled() {
            return Ok(self.settled());
        }
        let reason = match (life.is_stopping(), life.settles_all()) {
            (true, _) => Settling::Stop,
            (false, true) => Settling::ShardEnd,
            (false, false) => Settling::Room,
        };
        call(&mut self.processor, |processor| processor.settle(reason)).await?;
        let stop = self.worker.stop.clone();
        let until = life.is_stopping().then(|| {
            let settle_time = self.worker.options.settle_time;
            *self.settle_until.get_or_insert_with(|| Instant::now() + settle_time)
        });
        loop {
            if let Some(failure) = self.deliveries.failure() {
                if !life.is_stopping() {
                    return Ok(self.redeliver(failure));
                }
                self.deliveries.abandon_failed(&failure);
                continue;
            }
            let is_enough = !life.settles_all() && self.deliveries.has_room();
            if is_enough || self.deliveries.is_settled() {
                return Ok(self.settled());
            }
            let time_is_up = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => stop.cancelled().await,
                }
            };
            tokio::select! {
                biased;
                () = self.deliveries.changed() => {}
                () = time_is_up => {
                    if life.is_stopping() {
                        tracing::warn!("stopping although not everything is acknowledged; what is not comes again");
                    }
                    return Ok(self.settled());
                }
            }
        }
    }

    fn settled(&self) -> Event {
        Event::Settled { all: self.deliveries.is_empty(), left: self.deliveries.is_anything_left() }
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
