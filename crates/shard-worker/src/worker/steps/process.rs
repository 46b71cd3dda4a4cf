//! The steps `Process` and `Flush`: call the processor, apply the failure policy, deliver again, wait for late
//! acknowledgements.

use lease_store::BoxError;
use tokio::time::{Instant, sleep_until, timeout};

use super::{MAX_WAITS, PendingLastResort, ShardSteps, Work, call};
use crate::acknowledgement::tracker::Redelivery;
use crate::failure::failure_policy::Verdict;
use crate::failure::last_resort::apply_last_resort;
use crate::failure::process_error::{ErrorTexts, ProcessError};
use crate::processor::FlushReason;
use crate::worker::state_machine::{Event, ShardStateMachine};

impl ShardSteps {
    /// Applies the failure policy to a batch that failed, or to its failed records.
    pub(super) fn apply_failure_policy(&mut self, work: Work, attempts: u32, error: &BoxError) -> Event {
        let is_permanent = ProcessError::is_permanent(&**error);
        let position = work.batch.last_position();
        let records = work.batch.len();
        let verdict =
            self.worker.options.failure_policy.verdict(attempts, records, work.is_part, is_permanent);
        match verdict {
            Verdict::Retry => {
                tracing::warn!(%error, attempts, records, %position, "batch failed, retrying it");
                self.work.push_front(work);
                Event::Failed
            }
            Verdict::Halt => {
                if !self.is_halted {
                    tracing::error!(
                        %error, attempts, records, %position,
                        "shard halted: a batch keeps failing; fix the cause, the batch is retried at the longest wait and \
                         no record is skipped"
                    );
                }
                self.is_halted = true;
                if is_permanent {
                    // The attempts that would have brought the waits to their longest were skipped.
                    for _ in 0..MAX_WAITS {
                        self.last_delay = self.delays.next().unwrap_or(self.last_delay);
                    }
                }
                self.work.push_front(work);
                Event::Failed
            }
            Verdict::Divide => {
                tracing::warn!(%error, attempts, records, %position, "batch keeps failing, dividing it");
                for half in self.tracker.halves(&work.batch).into_iter().rev() {
                    self.work.push_front(Work::new(half, true));
                }
                Event::MoreToProcess
            }
            Verdict::LastResort => {
                let last_resort = PendingLastResort { attempts, texts: ErrorTexts::of(&**error), applied: 0 };
                self.work.push_front(Work { last_resort: Some(last_resort), ..work });
                Event::MoreToProcess
            }
        }
    }

    pub(super) fn redeliver(&mut self, redelivery: Redelivery) -> Event {
        let (batch, error) = match redelivery {
            Redelivery::Failed { batch, error } => (batch, error),
            Redelivery::Released(batch) => {
                self.work.push_front(Work::new(batch, false));
                return Event::Redeliver { wait: false };
            }
            Redelivery::Reread(error) => {
                tracing::warn!(%error, "records without their data failed, reading them again");
                self.has_failed = true;
                self.worker.progress.send_modify(|progress| progress.record_error(error.to_string()));
                return Event::Restart;
            }
        };
        self.has_failed = true;
        self.worker.progress.send_modify(|progress| {
            progress.failed_attempts += 1;
            progress.record_error(error.to_string());
        });
        let attempts = batch.attempt().saturating_sub(1);
        self.redelivered_batch = batch.delivery().map(|delivery| delivery.batch_number());
        // The wait depends on the attempts at these records, not on the failures of others.
        self.delays = self.worker.options.retry.delays(self.worker.rng.fork());
        for _ in 1..attempts.min(MAX_WAITS) {
            self.last_delay = self.delays.next().unwrap_or(self.last_delay);
        }
        let event = self.apply_failure_policy(Work::new(batch, false), attempts, &error);
        Event::Redeliver { wait: event == Event::Failed }
    }

    pub(super) async fn process(&mut self) -> Result<Event, BoxError> {
        let Some(work) = self.work.front_mut() else { return Ok(Event::Succeeded) };
        if work.last_resort.is_some() {
            self.run_last_resort().await?;
            return Ok(self.after_part());
        }
        let batch = work.batch.clone();
        let time_limit = self.worker.options.failure_policy.handler_time_limit();
        let processing = call(&mut self.processor, |processor| processor.process(&batch));
        let in_time = async {
            let Some(time_limit) = time_limit else { return processing.await };
            let too_slow =
                || format!("the record processor took longer than {time_limit:?} and was cancelled");
            timeout(time_limit, processing).await.unwrap_or_else(|_| Err(too_slow().into()))
        };
        let started_at = Instant::now();
        self.prefetch.prefetch_during(in_time).await?;
        self.tracker.processed(&batch);
        self.work.pop_front();
        if self.worker.options.adapts_rate {
            self.rate.succeeded(batch.len(), started_at.elapsed());
        }
        Ok(self.after_part())
    }

    pub(super) fn after_part(&self) -> Event {
        if self.work.is_empty() { Event::Succeeded } else { Event::MoreToProcess }
    }

    /// Applies the last resort to each record of the first batch in the queue.
    async fn run_last_resort(&mut self) -> Result<(), BoxError> {
        let Some(Work { batch, last_resort: Some(pending), .. }) = self.work.front_mut() else {
            return Ok(());
        };
        let context = &self.worker.context;
        while let Some(record) = batch.get(pending.applied) {
            let applied = apply_last_resort(context, record, pending.attempts, &pending.texts).await?;
            pending.applied += 1;
            self.worker.progress.send_modify(|progress| applied.count(progress));
        }
        self.tracker.pass(batch);
        self.work.pop_front();
        Ok(())
    }

    /// Waits for late acknowledgements.
    pub(super) async fn flush(&mut self, machine: ShardStateMachine) -> Result<Event, BoxError> {
        if machine.is_stopping() {
            for work in self.work.drain(..) {
                self.tracker.abandon(&work.batch);
            }
        }
        if self.tracker.is_flushed() {
            return Ok(self.flushed());
        }
        let reason = match (machine.is_stopping(), machine.flushes_all()) {
            (true, _) => FlushReason::Stop,
            (false, true) => FlushReason::ShardEnd,
            (false, false) => FlushReason::Capacity,
        };
        call(&mut self.processor, |processor| processor.flush(reason)).await?;
        let stop = self.worker.context.stopping.clone();
        let until = machine.is_stopping().then(|| {
            let settle_time = self.worker.options.settle_time;
            *self.flush_until.get_or_insert_with(|| Instant::now() + settle_time)
        });
        loop {
            if let Some(redelivery) = self.tracker.next_redelivery() {
                if !machine.is_stopping() {
                    return Ok(self.redeliver(redelivery));
                }
                self.tracker.abandon_redelivery(&redelivery);
                continue;
            }
            let is_enough = !machine.flushes_all() && self.tracker.has_capacity();
            if is_enough || self.tracker.is_flushed() {
                return Ok(self.flushed());
            }
            let time_is_up = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => stop.cancelled().await,
                }
            };
            tokio::select! {
                biased;
                () = self.tracker.changed() => {}
                () = time_is_up => {
                    if machine.is_stopping() {
                        tracing::warn!("stopping with unacknowledged records, the next owner reads them again");
                    }
                    return Ok(self.flushed());
                }
            }
        }
    }

    fn flushed(&self) -> Event {
        Event::Flushed { all: self.tracker.is_empty(), has_unfinished: self.tracker.has_unfinished() }
    }
}
