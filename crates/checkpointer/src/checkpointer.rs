//! The task that writes the newest acknowledged position of one shard.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use lease_store::Position;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::error::{Reaction, checkpoint_error, reaction_to};
use crate::{
    Cadence, CheckpointError, CheckpointErrorKind, CheckpointWriter, Delays, Due, RetryPolicy, Unwritten,
    Watermarks,
};

/// How many flushes can wait for the task. One handle asks for one at a time.
const MAX_WAITING_FLUSHES: usize = 1;

type FlushAnswer = oneshot::Sender<Result<(), CheckpointError>>;

/// Writes the newest acknowledged position of one shard, at its cadence, in a task of its own.
///
/// Dropping it stops the task without a last write; [`flush`](Self::flush) first to keep what is acknowledged.
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
    /// Somebody asked for a write before the cadence does.
    is_asked_for: bool,
    /// When the newest write succeeded.
    written_at: Option<Instant>,
}

/// Asks for a checkpoint before its time; see [`Checkpointer::trigger`].
#[derive(Debug, Clone)]
pub struct CheckpointTrigger {
    shared: Arc<Shared>,
}

impl CheckpointTrigger {
    /// Asks for a write of what is acknowledged, now, and says whether there is anything to write. It does not wait.
    pub fn write_now(&self) -> bool {
        {
            let mut progress = self.shared.progress();
            if progress.marks.unwritten().is_none() {
                return false;
            }
            progress.is_asked_for = true;
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
    /// As [`Checkpointer::acknowledge`].
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered.
    pub fn acknowledge(&self, position: Position, records: u64) -> Result<(), CheckpointError> {
        {
            let mut progress = self.shared.progress();
            progress.marks.acknowledge(position)?;
            if progress.marks.unwritten().is_some() {
                // At least one, so that a position without a count is due like any other.
                progress.unwritten.records += records.max(1);
            }
        }
        self.shared.acknowledged.notify_one();
        Ok(())
    }

    /// When the newest checkpoint was written; `None` before the first.
    pub fn written_at(&self) -> Option<Instant> {
        self.shared.progress().written_at
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpointer {
    /// Starts the task for a shard that is read from `start` on. Must be called inside a tokio runtime.
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
                is_asked_for: false,
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

    /// Notes that everything up to a position was handed to the application.
    pub fn deliver(&self, position: Position) {
        self.shared.progress().marks.deliver(position);
    }

    /// Notes that the application is done with everything up to a position, which are `records` more than before.
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered.
    pub fn acknowledge(&self, position: Position, records: u64) -> Result<(), CheckpointError> {
        self.acknowledger().acknowledge(position, records)
    }

    /// A handle by which others acknowledge, for as long as the checkpointer runs.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { shared: self.shared.clone() }
    }

    /// A handle by which others ask for a checkpoint before its time: whoever renews a lease, since a checkpoint renews
    /// it too and costs the same.
    pub fn trigger(&self) -> CheckpointTrigger {
        CheckpointTrigger { shared: self.shared.clone() }
    }

    /// The watermarks now.
    pub fn watermarks(&self) -> Watermarks {
        self.shared.progress().marks.clone()
    }

    /// Writes what is acknowledged now, with a fresh series of attempts, and waits until it is stored.
    ///
    /// # Errors
    /// The last attempt's error; `Closed` when the checkpointer has stopped after an earlier one.
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

    /// A future that ends when nothing can be written any more, and says why. It does not end otherwise.
    pub fn stopped(&self) -> impl Future<Output = CheckpointErrorKind> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            let kind = stopped.wait_for(Option::is_some).await.ok().and_then(|kind| *kind);
            match kind {
                Some(kind) => kind,
                // The task went away with its handle: nobody is left to care.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the task without a last write, and waits until no write of its own is under way.
    pub async fn close(mut self) {
        self.task.abort();
        // An aborted task is the expected end here; a panic of the writer was its own report.
        let _ = (&mut self.task).await;
    }

    fn closed_error(&self) -> CheckpointError {
        let why = *self.stopped.borrow();
        let kind = why.unwrap_or(CheckpointErrorKind::Closed);
        CheckpointError::new(kind, format!("the checkpointer has stopped ({kind:?}) and writes nothing more"))
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
                // The one who asked for the flush consumes the error; if it went away, nobody is left to tell.
                (Some(flush), written) => drop(flush.send(written)),
                (None, Err(error)) if error.kind() == CheckpointErrorKind::Fenced => {
                    tracing::debug!(%error, "checkpointing ends");
                }
                (None, Err(error)) => tracing::warn!(%error, "checkpoint not written; nothing is lost"),
                (None, Ok(())) => {}
            }
            if stop {
                return;
            }
        }
    }

    /// Returns when the cadence says so, or a flush was asked for.
    async fn wait_until_due(&mut self) {
        while self.waiting_flush.is_none() {
            let (unwritten, is_asked_for) = {
                let progress = self.shared.progress();
                (progress.unwritten, progress.is_asked_for)
            };
            if is_asked_for {
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
                // The order does not matter, but it must not be left to a generator that nobody seeds.
                biased;
                () = due => {}
                () = self.shared.acknowledged.notified() => {}
                flush = self.flushes.recv() => self.waiting_flush = flush,
            }
        }
    }

    /// Writes the newest position, trying again as the policy says. Each attempt writes what is newest by then.
    async fn write_newest(&mut self) -> Result<(), WriteFailure> {
        let mut delays = self.new_delays();
        loop {
            let (position, records) = {
                let mut progress = self.shared.progress();
                progress.unwritten.last_write_at = Instant::now();
                progress.is_asked_for = false;
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
            tracing::debug!(%error, ?delay, "trying the checkpoint again");
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
