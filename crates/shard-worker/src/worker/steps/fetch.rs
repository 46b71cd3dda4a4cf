//! The step `Fetch`: read, check, de-aggregate, buffer, wait for the rate limits, and queue a batch for processing.

use std::sync::Arc;
use std::time::SystemTime;

use lease_store::Position;
use tokio::time::{Duration, Instant, sleep_until};

use super::{ShardSteps, Work, prefetch};
use crate::acknowledgement::record_batch::RecordBatch;
use crate::age::Age;
use crate::aggregation::aggregate::has_magic;
use crate::error::{SourceError, SourceErrorKind};
use crate::memory::byte_budget::ByteReservation;
use crate::read::batching::{BatchLimits, NextBatch};
use crate::record::Record;
use crate::source::{FetchedBatch, ReadFrom, ShardEnd};
use crate::worker::state_machine::Event;

impl ShardSteps {
    pub(super) async fn fetch(&mut self) -> Result<Event, SourceError> {
        // Without this a shard that always has records to read would starve the others. Tokio yields only after many
        // calls: a yield after each read would make an idle shard poll the timers and sockets of the whole process.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(redelivery) = self.tracker.next_redelivery() {
                return Ok(self.redeliver(redelivery));
            }
            if !self.tracker.has_capacity() {
                return Ok(Event::AtCapacity);
            }
            if self.buffer.is_empty() && self.unpacker.has_more() {
                self.buffer_more();
            }
            let limits = self.batch_limits();
            let is_read_up = self.is_end_read || self.guard.is_at_bound();
            // More records cannot be buffered before these are delivered.
            let is_complete = is_read_up || self.unpacker.has_more();
            if let Some(next) = self.buffer.next(limits, Instant::now(), is_complete) {
                if self.is_paced(next) {
                    return Ok(self.deliver(next));
                }
            } else if self.is_end_read {
                return Ok(Event::Fetched { records: false, end: true });
            } else if is_read_up {
                return Ok(Event::AtBound);
            }
            let due_at = self.paced_until.or_else(|| self.buffer.due_at(limits));
            let is_due = async {
                match due_at {
                    Some(due_at) => sleep_until(due_at).await,
                    None => std::future::pending().await,
                }
            };
            // No reads while a batch waits for the rate limit: more records would only fill memory.
            let reads = self.paced_until.is_none() && !is_complete;
            if reads && !self.prefetch.is_opened() {
                let from = self.guard.read_from(self.read_from()?);
                if let Err(error) = self.prefetch.open(&from).await {
                    self.accept_read(Err(error))?;
                    continue;
                }
            }
            if reads {
                self.prefetch.checkpointed(self.worker.checkpointer.watermarks().checkpointed());
            }
            let read = tokio::select! {
                biased;
                read = self.prefetch.next(), if reads => Some(read),
                () = self.tracker.changed() => None,
                () = is_due => None,
            };
            if let Some(read) = read {
                if let Ok((fetched, _)) = &read
                    && self.guard.is_doubtful(fetched, Instant::now())
                {
                    // This answer is read again, so it can be dropped while the stream is described.
                    self.prefetch = prefetch(&self.worker, self.worker.options.read_ahead_bytes);
                    drop(read);
                    self.guard.describe_again(&*self.worker.source).await?;
                    continue;
                }
                // Sources also return without an answer of the stream; those returns have no lag.
                let is_answer =
                    read.as_ref().is_ok_and(|(fetched, _)| fetched.millis_behind_latest.is_some());
                let is_new = self.accept_read(read)?;
                if !is_new && !self.is_end_read && self.buffer.is_empty() {
                    if is_answer && self.worker.options.calls_for_empty_reads {
                        return Ok(Event::NothingRead);
                    }
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

    /// Whether the rate limits allow the next batch now. The first call for a batch counts it against the limits.
    fn is_paced(&mut self, next: NextBatch) -> bool {
        let now = Instant::now();
        let until = *self.paced_until.get_or_insert_with(|| {
            let fixed = self.worker.options.rate_limit.take(next.records as u64, next.payload_bytes, now);
            fixed.max(self.rate.take(next.records, now))
        });
        now >= until
    }

    /// Checks a read and buffers its records; returns whether there are new ones. It has no await point, so a stop or a
    /// lost lease cannot drop records between the read and the buffer.
    fn accept_read(
        &mut self,
        read: Result<(FetchedBatch, ByteReservation), SourceError>,
    ) -> Result<bool, SourceError> {
        let (mut fetched, memory) = match read {
            Ok((fetched, memory)) => (fetched, Some(memory)),
            Err(error) if error.kind() == SourceErrorKind::ShardNotFound => {
                self.guard.shard_is_gone(&error, Instant::now(), &self.worker.progress)?;
                let shard_end = Some(ShardEnd { children: Vec::new() });
                (FetchedBatch { records: Vec::new(), millis_behind_latest: None, shard_end }, None)
            }
            Err(error) if self.guard.is_start_refused(&error) => {
                self.prefetch = prefetch(&self.worker, self.worker.options.read_ahead_bytes);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = self.guard.check(&mut fetched, Instant::now(), &self.worker.progress) {
            // These records are not delivered, so they have to be read again.
            self.prefetch = prefetch(&self.worker, self.worker.options.read_ahead_bytes);
            return Err(error);
        }
        self.refused = None;
        if self.first_read.is_none()
            && let Some(first) = fetched.records.first()
        {
            self.first_read = first.sequence_number.as_str().parse().ok();
        }
        let fetched_bytes = fetched.memory_bytes();
        if !self.unpacker.knows_start()
            && let Some(first) = fetched.records.first()
        {
            let shard_id = &self.worker.context.shard_id;
            self.unpacker.set_start(self.worker.source.shard_started_at(shard_id, &first.sequence_number));
        }
        let has_aggregates = fetched.records.iter().any(|record| has_magic(&record.data));
        let (records, counts) = self.unpacker.unpack(fetched.records);
        self.worker.progress.send_if_modified(|progress| {
            progress.millis_behind_latest = fetched.millis_behind_latest.or(progress.millis_behind_latest);
            if let Some(millis) = fetched.millis_behind_latest {
                progress.read_up_to = Some(Age::new(Duration::from_millis(millis), Instant::now()));
            }
            counts.add_to(progress) || fetched.millis_behind_latest.is_some()
        });
        if let Some(shard_end) = fetched.shard_end {
            self.is_end_read = true;
            let children = shard_end.children.iter().map(|child| child.shard_id.clone());
            self.worker.context.set_children(children);
            self.children = shard_end.children;
        }
        let is_new = !records.is_empty();
        if is_new && let Some(mut memory) = memory {
            // Sub-records can need more memory than the aggregate they are slices of, and they keep all of it alive.
            let sub_record_bytes = if has_aggregates { memory_of(&records) } else { 0 };
            if self.unpacker.has_more() {
                memory.resize(fetched_bytes);
                self.fetched_memory = Some(Arc::new(memory));
                self.hold_memory(sub_record_bytes);
            } else {
                memory.resize(fetched_bytes.max(sub_record_bytes));
                self.buffered_memory.push(Arc::new(memory));
            }
        }
        self.buffer.add(records, Instant::now());
        Ok(is_new)
    }

    /// Unpacks more of the fetched records, when those unpacked before are delivered.
    fn buffer_more(&mut self) {
        let (records, counts) = self.unpacker.unpack_more();
        self.worker.progress.send_if_modified(|progress| counts.add_to(progress));
        self.hold_memory(memory_of(&records));
        self.buffer.add(records, Instant::now());
        if !self.unpacker.has_more() {
            self.fetched_memory = None;
        }
    }

    /// Counts the memory of a part of the fetched records. The part also keeps what was fetched alive.
    fn hold_memory(&mut self, part_bytes: u64) {
        let part = Arc::new(self.worker.options.budget.count(part_bytes));
        self.buffered_memory.push(part);
        self.buffered_memory.extend(self.fetched_memory.clone());
    }

    /// Queues the next batch for processing.
    fn deliver(&mut self, next: NextBatch) -> Event {
        self.paced_until = None;
        let records = self.buffer.take(next);
        let memory = match self.buffer.is_empty() {
            true => std::mem::take(&mut self.buffered_memory),
            false => self.buffered_memory.clone(),
        };
        let millis_behind_latest = self.worker.progress.borrow().millis_behind_latest;
        if let Some(batch) = RecordBatch::new(records, millis_behind_latest) {
            self.worker.checkpointer.deliver(batch.last_position());
            let age = self.age_of(&batch);
            let batch = self.tracker.deliver(batch.holding(memory), age);
            self.work.push_back(Work::new(batch, false));
        }
        let is_last = self.is_end_read && self.buffer.is_empty() && !self.unpacker.has_more();
        Event::Fetched { records: !self.work.is_empty(), end: is_last }
    }

    /// The age of the first record of a batch, by the clock of the stream; without one, zero.
    fn age_of(&self, batch: &RecordBatch) -> Age {
        let arrival = batch.first().and_then(|record| record.approximate_arrival);
        let now = self.worker.options.stream_clock.map(|clock| clock.read());
        let age = now.zip(arrival).and_then(|(now, arrival)| now.duration_since(arrival).ok());
        Age::new(age.unwrap_or_default(), Instant::now())
    }

    /// Where to open the shard.
    fn read_from(&self) -> Result<ReadFrom, SourceError> {
        match (self.unpacker.read_position(), &self.first_read) {
            (Position::TrimHorizon | Position::AtTimestamp | Position::Latest, Some(first)) => {
                Ok(ReadFrom::At(first.clone()))
            }
            (position, _) => read_from(position, self.worker.options.initial_timestamp),
        }
    }
}

fn memory_of(records: &[Record]) -> u64 {
    records.iter().map(Record::memory_bytes).sum()
}

/// Where to open a shard that is read up to a position.
fn read_from(position: &Position, initial_timestamp: Option<SystemTime>) -> Result<ReadFrom, SourceError> {
    match (position, initial_timestamp) {
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
            "the shard was read to its end, it cannot be opened again",
        )),
    }
}
