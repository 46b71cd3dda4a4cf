//! The steps up to a batch: read, look, gather, wait for the rate, put up for processing.

use std::sync::Arc;
use std::time::SystemTime;

use lease_store::Position;
use tokio::time::{Instant, sleep_until};

use super::{Task, Work, intake};
use crate::gathering::{BatchLimits, NextBatch};
use crate::intake::Intaken;
use crate::life::Event;
use crate::{FetchedBatch, ReadFrom, Record, RecordBatch, ShardEnd, SourceError, SourceErrorKind};

impl Task {
    pub(super) async fn fetch(&mut self) -> Result<Event, SourceError> {
        // A shard that always has more to read lets the others have their turn. It does so after some reads and not after
        // each, since a shard at rest would pay for that with a look at the timers and sockets of the whole process.
        tokio::task::coop::consume_budget().await;
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
}

/// Where reading goes on after a position.
fn read_from(delivered: &Position, initial_timestamp: Option<SystemTime>) -> Result<ReadFrom, SourceError> {
    match (delivered, initial_timestamp) {
        (Position::TrimHorizon | Position::AtTimestamp | Position::Latest, Some(timestamp)) => {
            Ok(ReadFrom::AtTimestamp(timestamp))
        }
        (Position::TrimHorizon, None) => Ok(ReadFrom::TrimHorizon),
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
