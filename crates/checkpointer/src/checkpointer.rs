//! The task that writes the newest acknowledged position of one shard.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use lease_store::{PendingCheckpoint, Position, StoreErrorKind};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::cadence::{Cadence, Due, Unwritten};
use crate::error::{CheckpointError, CheckpointErrorKind, Reaction, checkpoint_error, reaction_to};
use crate::retry_policy::{Delays, RetryPolicy};
use crate::watermarks::Watermarks;
use crate::writer::CheckpointWriter;

/// The number of flushes that can wait in the channel to the task. Further ones wait to enter it.
const MAX_WAITING_FLUSHES: usize = 1;

/// A request to write the acknowledged position now.
#[derive(Debug)]
struct Flush {
    /// Written after the position, if there is one.
    prepared: Option<PendingCheckpoint>,
    answer: oneshot::Sender<Result<(), CheckpointError>>,
}

/// Writes the newest acknowledged position of one shard, at its cadence, in a task of its own.
///
/// Dropping it stops the task without a last write. Call [`flush`](Self::flush) first to checkpoint the acknowledged
/// records.
#[derive(Debug)]
pub struct Checkpointer {
    flusher: Flusher,
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

/// Writes checkpoints of one shard on request; see [`Checkpointer::flusher`].
#[derive(Debug, Clone)]
pub struct Flusher {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<Flush>,
    stopped: watch::Receiver<Option<CheckpointErrorKind>>,
}

impl Flusher {
    /// Like [`Checkpointer::flush`].
    ///
    /// # Errors
    /// As [`Checkpointer::flush`].
    pub async fn flush(&self) -> Result<(), CheckpointError> {
        if self.shared.progress().marks.unwritten().is_none() {
            return Ok(());
        }
        self.request(None).await
    }

    /// Announces a checkpoint at a delivered position, with bytes of the application: the first half of a checkpoint in two
    /// steps (KCL: `prepareCheckpoint`). Writes the acknowledged position first, since a checkpoint withdraws the
    /// announcement, and waits until the announcement is stored.
    ///
    /// # Errors
    /// `Invalid` when the position was not delivered, or is before the acknowledged one. Otherwise as
    /// [`Checkpointer::flush`].
    pub async fn prepare(&self, pending: PendingCheckpoint) -> Result<(), CheckpointError> {
        self.shared.progress().marks.check_prepared(&pending.position)?;
        self.request(Some(pending)).await
    }

    /// The newest acknowledged position.
    pub fn acknowledged(&self) -> Position {
        self.shared.progress().marks.acknowledged().clone()
    }

    async fn request(&self, prepared: Option<PendingCheckpoint>) -> Result<(), CheckpointError> {
        let (answer, answered) = oneshot::channel();
        if self.flushes.send(Flush { prepared, answer }).await.is_err() {
            return Err(self.closed_error());
        }
        answered.await.unwrap_or_else(|_| Err(self.closed_error()))
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
        self.shared.progress().acknowledge(position, records)?;
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

impl Progress {
    fn new(start: Position, now: Instant) -> Self {
        Self {
            marks: Watermarks::starting_at(start),
            unwritten: Unwritten { records: 0, last_write_at: now },
            is_triggered: false,
            written_at: None,
        }
    }

    fn acknowledge(&mut self, position: Position, records: u64) -> Result<(), CheckpointError> {
        let moves = position > *self.marks.acknowledged();
        self.marks.acknowledge(position)?;
        if moves {
            // Count at least one record, so that a position without records becomes due too.
            self.unwritten.records = self.unwritten.records.saturating_add(records.max(1));
        }
        Ok(())
    }

    /// The position to write now, and the records that it includes.
    fn next_write(&mut self, now: Instant) -> Option<(Position, u64)> {
        self.unwritten.last_write_at = now;
        self.is_triggered = false;
        let position = self.marks.unwritten().cloned();
        if position.is_none() {
            self.unwritten.records = 0;
        }
        Some((position?, self.unwritten.records))
    }

    /// Records that a write of [`next_write`](Self::next_write) succeeded. Without an unwritten position no records
    /// stay counted, or another write would be due.
    fn written(&mut self, position: Position, records: u64, now: Instant) {
        self.marks.checkpoint(position);
        self.written_at = Some(now);
        let left = self.unwritten.records.saturating_sub(records);
        self.unwritten.records = if self.marks.unwritten().is_some() { left.max(1) } else { 0 };
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
            progress: Mutex::new(Progress::new(start, Instant::now())),
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
        Self { flusher: Flusher { shared, flushes: flush_sender, stopped }, task }
    }

    /// Records that everything up to a position was delivered to the application.
    pub fn deliver(&self, position: Position) {
        self.flusher.shared.progress().marks.deliver(position);
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
        Acknowledger { shared: self.flusher.shared.clone() }
    }

    /// A handle to request a checkpoint before the cadence is due. The renewal of a lease uses it: a checkpoint renews
    /// the lease too, at the same cost.
    pub fn trigger(&self) -> CheckpointTrigger {
        CheckpointTrigger { shared: self.flusher.shared.clone() }
    }

    /// The present watermarks.
    pub fn watermarks(&self) -> Watermarks {
        self.flusher.shared.progress().marks.clone()
    }

    /// Writes the acknowledged position now, with a new series of attempts, and waits until it is stored.
    ///
    /// # Errors
    /// The error of the last attempt. If the checkpointer has already stopped: the kind of error that stopped it, or
    /// `Closed`.
    pub async fn flush(&mut self) -> Result<(), CheckpointError> {
        self.flusher.flush().await
    }

    /// A handle to write checkpoints on request from elsewhere, while the checkpointer runs.
    pub fn flusher(&self) -> Flusher {
        self.flusher.clone()
    }

    /// A future that resolves to the cause once no further checkpoint can be written. Otherwise it stays pending.
    pub fn stopped(&self) -> impl Future<Output = CheckpointErrorKind> + Send + 'static {
        let mut stopped = self.flusher.stopped.clone();
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
    flushes: mpsc::Receiver<Flush>,
    waiting_flush: Option<Flush>,
    stopped: watch::Sender<Option<CheckpointErrorKind>>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.wait_until_due().await;
            let mut written = self.write_newest().await;
            let prepared = self.waiting_flush.as_ref().and_then(|flush| flush.prepared.clone());
            if written.is_ok()
                && let Some(pending) = prepared
            {
                written = self.write_prepared(&pending).await;
            }
            let stop = written.as_ref().is_err_and(|failure| failure.reaction == Reaction::Stop);
            let written = written.map_err(|failure| failure.error);
            if stop {
                let kind =
                    written.as_ref().map_or_else(lease_store::Error::kind, |()| CheckpointErrorKind::Closed);
                self.stopped.send_replace(Some(kind));
            }
            match (self.waiting_flush.take(), written) {
                // The caller of `flush` gets the result. If it was cancelled, the result is dropped.
                (Some(flush), written) => drop(flush.answer.send(written)),
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
            let next_write = self.shared.progress().next_write(Instant::now());
            let Some((position, records)) = next_write else { return Ok(()) };
            let error = match self.writer.write(&position).await {
                Ok(()) => {
                    self.shared.progress().written(position, records, Instant::now());
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

    /// Writes an announcement, with the retries of the policy.
    async fn write_prepared(&mut self, pending: &PendingCheckpoint) -> Result<(), WriteFailure> {
        let mut delays = self.new_delays();
        loop {
            let Err(error) = self.writer.prepare(pending).await else { return Ok(()) };
            let reaction = match (error.kind(), reaction_to(error.kind())) {
                // Refused for its position, or not supported: checkpoints can be written all the same.
                (StoreErrorKind::Invalid, _) => Reaction::NextInterval,
                (_, reaction) => reaction,
            };
            let error = checkpoint_error(error);
            let delay = if reaction == Reaction::Retry { delays.next() } else { None };
            let Some(delay) = delay else { return Err(WriteFailure { reaction, error }) };
            tracing::debug!(%error, ?delay, "retrying the prepared checkpoint after the delay");
            tokio::time::sleep(delay).await;
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;

    fn at(number: u8) -> Position {
        Position::after(u128::from(number).into(), 0)
    }

    proptest! {
        /// In any order of acknowledgements and writes, a write is due exactly while a position is not written.
        #[test]
        fn write_is_due_only_while_a_position_is_unwritten(
            steps in prop::collection::vec((0..3u8, any::<u8>(), 0..3u64), 0..64),
        ) {
            let cadence = Cadence { interval: std::time::Duration::from_secs(5), records: NonZeroU64::new(1) };
            let now = Instant::now();
            let mut progress = Progress::new(Position::TrimHorizon, now);
            progress.marks.deliver(at(u8::MAX));
            let mut in_flight = None;
            for (step, number, records) in steps {
                match (step, in_flight.take()) {
                    (0, write) => {
                        progress.acknowledge(at(number), records).unwrap();
                        in_flight = write;
                    }
                    (1, None) => in_flight = progress.next_write(now),
                    (_, Some((position, records))) => progress.written(position, records, now),
                    (_, None) => {}
                }
                let is_due = cadence.due(now, progress.unwritten) == Due::Now;
                prop_assert_eq!(is_due, progress.marks.unwritten().is_some());
            }
        }
    }
}
