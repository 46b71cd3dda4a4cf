//! The steps from a batch on: process, take up again what failed, settle what is acknowledged later.

use lease_store::BoxError;
use tokio::time::{Instant, sleep_until, timeout};

use super::{GivenUp, MAX_WAITS, Task, Work, call};
use crate::Settling;
use crate::acknowledgement::Failure;
use crate::failure_policy::Verdict;
use crate::last_resort::take_last_resort;
use crate::life::{Event, ShardLife};

impl Task {
    /// Decides what becomes of a batch that failed, or of the records of it that did.
    pub(super) fn take_up_again(&mut self, work: Work, attempts: u32, error: &BoxError) -> Event {
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

    pub(super) fn redeliver(&mut self, failure: Failure) -> Event {
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

    pub(super) async fn process(&mut self) -> Result<Event, BoxError> {
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

    pub(super) fn after_a_part(&self) -> Event {
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
    pub(super) async fn settle(&mut self, life: ShardLife) -> Result<Event, BoxError> {
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
}
