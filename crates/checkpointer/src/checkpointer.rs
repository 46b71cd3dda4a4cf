//! The task that writes the newest acknowledged position of one shard.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use lease_store::Position;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::cadence::{Cadence, Due, Unwritten};
use crate::error::{CheckpointError, CheckpointErrorKind, Reaction, checkpoint_error, reaction_to};
use crate::retry_policy::{Delays, RetryPolicy};
use crate::watermarks::Watermarks;
use crate::writer::CheckpointWriter;

/// The number of flushes that can wait for the task. `flush` borrows the only handle, so there is at most one.
const MAX_WAITING_FLUSHES: usize = 1;

type FlushAnswer = oneshot::Sender<Result<(), CheckpointError>>;

/// Writes the newest acknowledged position of one shard, at its cadence, in a task of its own.
///
/// Dropping it stops the task without a last write. Call [`flush`](Self::flush) first to checkpoint the acknowledged
/// records.
#[derive(Debug)]
pub struct Checkpointer {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<FlushAnswer>,
    stopped: watch::Receiver<Option<CheckpointErrorKind>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    acknowledged: Notify,
}

#[derive(Debug)]
struct Progress {
    marks: Watermarks,
    unwritten: Unwritten,
    /// Whether a trigger requested a write before the cadence is due.
    is_triggered: bool,
    /// The time of the newest successful write.
    written_at: Option<Instant>,
}

/// Requests a checkpoint before the cadence is due; see [`Checkpointer::trigger`].
#[derive(Debug, Clone)]
pub struct CheckpointTrigger {
    shared: Arc<Shared>,
}

impl CheckpointTrigger {
    /// Requests a write of the acknowledged position now, without waiting for it. Returns `false` when there is nothing
    /// to write.
    pub fn write_now(&self) -> bool {
        {
            let mut progress = self.shared.progress();
            if progress.marks.unwritten().is_none() {
                return false;
            }
            progress.is_triggered = true;
        }
        self.shared.acknowledged.notify_one();
        true
    }
}

/// Acknowledges positions of one shard; see [`Checkpointer::acknowledger`].
#[derive(Debug, Clone)]
pub struct Acknowledger {
    shared: Arc<Shared>,
}

impl Acknowledger {
    /// Like [`Checkpointer::acknowledge`].
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered.
    pub fn acknowledge(&self, position: Position, records: u64) -> Result<(), CheckpointError> {
        {
            let mut progress = self.shared.progress();
            progress.marks.acknowledge(position)?;
            if progress.marks.unwritten().is_some() {
                // Count at least one record, so that a position without records becomes due too.
                progress.unwritten.records += records.max(1);
            }
        }
        self.shared.acknowledged.notify_one();
        Ok(())
    }

    /// The time of the newest checkpoint; `None` before the first one.
    pub fn written_at(&self) -> Option<Instant> {
        self.shared.progress().written_at
    }

    /// The acknowledged position that is not known to be checkpointed; `None` when there is none.
    pub fn unwritten(&self) -> Option<Position> {
        self.shared.progress().marks.unwritten().cloned()
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpointer {
    /// Starts the task for a shard that is read from `start`. Must be called inside a tokio runtime.
    pub fn start(
        writer: Arc<dyn CheckpointWriter>,
        start: Position,
        cadence: Cadence,
        retry: RetryPolicy,
        rng: Rng,
    ) -> Self {
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress {
                marks: Watermarks::starting_at(start),
                unwritten: Unwritten { records: 0, last_write_at: Instant::now() },
                is_triggered: false,
                written_at: None,
            }),
            acknowledged: Notify::new(),
        });
        let (flush_sender, flush_receiver) = mpsc::channel(MAX_WAITING_FLUSHES);
        let (stop_sender, stopped) = watch::channel(None);
        let driver = Driver {
            writer,
            cadence,
            retry,
            rng,
            shared: shared.clone(),
            flushes: flush_receiver,
            waiting_flush: None,
            stopped: stop_sender,
        };
        let span = tracing::Span::current();
        let task = tokio::spawn(tracing::Instrument::instrument(driver.run(), span));
        Self { shared, flushes: flush_sender, stopped, task }
    }

    /// Records that everything up to a position was delivered to the application.
    pub fn deliver(&self, position: Position) {
        self.shared.progress().marks.deliver(position);
    }

    /// Records that the application acknowledged everything up to a position: `records` more records than before.
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered.
    pub fn acknowledge(&self, position: Position, records: u64) -> Result<(), CheckpointError> {
        self.acknowledger().acknowledge(position, records)
    }

    /// A handle to acknowledge from elsewhere, while the checkpointer runs.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { shared: self.shared.clone() }
    }

    /// A handle to request a checkpoint before the cadence is due. The renewal of a lease uses it: a checkpoint renews
    /// the lease too, at the same cost.
    pub fn trigger(&self) -> CheckpointTrigger {
        CheckpointTrigger { shared: self.shared.clone() }
    }

    /// The present watermarks.
    pub fn watermarks(&self) -> Watermarks {
        self.shared.progress().marks.clone()
    }

    /// Writes the acknowledged position now, with a new series of attempts, and waits until it is stored.
    ///
    /// # Errors
    /// The error of the last attempt. If the checkpointer has already stopped: the kind of error that stopped it, or
    /// `Closed`.
    pub async fn flush(&mut self) -> Result<(), CheckpointError> {
        if self.shared.progress().marks.unwritten().is_none() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        if self.flushes.send(answer).await.is_err() {
            return Err(self.closed_error());
        }
        answered.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    /// A future that resolves to the cause once no further checkpoint can be written. Otherwise it stays pending.
    pub fn stopped(&self) -> impl Future<Output = CheckpointErrorKind> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            let kind = stopped.wait_for(Option::is_some).await.ok().and_then(|kind| *kind);
            match kind {
                Some(kind) => kind,
                // The task was stopped by its handle, without an error.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the task without a last write, and waits until none of its writes is in flight.
    pub async fn close(mut self) {
        self.task.abort();
        // The expected result is an aborted task. A panic of the writer was already reported by the panic hook.
        let _ = (&mut self.task).await;
    }

    fn closed_error(&self) -> CheckpointError {
        let why = *self.stopped.borrow();
        let kind = why.unwrap_or(CheckpointErrorKind::Closed);
        CheckpointError::new(
            kind,
            format!("the checkpointer has stopped ({kind:?}); this checkpoint was not written"),
        )
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    writer: Arc<dyn CheckpointWriter>,
    cadence: Cadence,
    retry: RetryPolicy,
    rng: Rng,
    shared: Arc<Shared>,
    flushes: mpsc::Receiver<FlushAnswer>,
    waiting_flush: Option<FlushAnswer>,
    stopped: watch::Sender<Option<CheckpointErrorKind>>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.wait_until_due().await;
            let written = self.write_newest().await;
            let stop = written.as_ref().is_err_and(|failure| failure.reaction == Reaction::Stop);
            let written = written.map_err(|failure| failure.error);
            if stop {
                let kind =
                    written.as_ref().map_or_else(lease_store::Error::kind, |()| CheckpointErrorKind::Closed);
                self.stopped.send_replace(Some(kind));
            }
            match (self.waiting_flush.take(), written) {
                // The caller of `flush` gets the result. If it was cancelled, the result is dropped.
                (Some(flush), written) => drop(flush.send(written)),
                (None, Err(error)) if error.kind() == CheckpointErrorKind::Fenced => {
                    tracing::debug!(%error, "the lease is fenced, the checkpointer stops");
                }
                (None, Err(error)) => {
                    tracing::warn!(%error, "cannot write the checkpoint; no record is lost");
                }
                (None, Ok(())) => {}
            }
            if stop {
                return;
            }
        }
    }

    /// Waits until the cadence is due, or a trigger or a flush requests a write.
    async fn wait_until_due(&mut self) {
        while self.waiting_flush.is_none() {
            let (unwritten, is_triggered) = {
                let progress = self.shared.progress();
                (progress.unwritten, progress.is_triggered)
            };
            if is_triggered {
                return;
            }
            let due_at = match self.cadence.due(Instant::now(), unwritten) {
                Due::Now => return,
                Due::At(due_at) => Some(due_at),
                Due::Never => None,
            };
            let due = async {
                match due_at {
                    Some(due_at) => sleep_until(due_at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The order is irrelevant, but without `biased` an unseeded generator would choose it.
                biased;
                () = due => {}
                () = self.shared.acknowledged.notified() => {}
                flush = self.flushes.recv() => self.waiting_flush = flush,
            }
        }
    }

    /// Writes the newest position, with the retries of the policy. Each attempt writes the newest position at its time.
    async fn write_newest(&mut self) -> Result<(), WriteFailure> {
        let mut delays = self.new_delays();
        loop {
            let (position, records) = {
                let mut progress = self.shared.progress();
                progress.unwritten.last_write_at = Instant::now();
                progress.is_triggered = false;
                let Some(position) = progress.marks.unwritten().cloned() else { return Ok(()) };
                (position, progress.unwritten.records)
            };
            let error = match self.writer.write(&position).await {
                Ok(()) => {
                    let mut progress = self.shared.progress();
                    progress.marks.checkpoint(position);
                    progress.written_at = Some(Instant::now());
                    progress.unwritten.records -= records;
                    return Ok(());
                }
                Err(error) => error,
            };
            let reaction = reaction_to(error.kind());
            let error = checkpoint_error(error);
            let delay = if reaction == Reaction::Retry { delays.next() } else { None };
            let Some(delay) = delay else { return Err(WriteFailure { reaction, error }) };
            tracing::debug!(%error, ?delay, "retrying the checkpoint after the delay");
            tokio::select! {
                biased;
                () = tokio::time::sleep(delay) => {}
                flush = self.flushes.recv(), if self.waiting_flush.is_none() => {
                    self.waiting_flush = flush;
                    delays = self.new_delays();
                }
            }
        }
    }

    fn new_delays(&mut self) -> Delays {
        self.retry.delays(self.rng.fork())
    }
}

struct WriteFailure {
    reaction: Reaction,
    error: CheckpointError,
}
