//! The worker's side of acknowledgement: delivers batches, and returns the records that have to be delivered again.

use std::sync::Arc;

use checkpointer::Acknowledger;
use lease_store::BoxError;
use tokio::sync::watch;

use super::record_batch::{Delivery, FailedRecords, RecordBatch, Shared};
use crate::age::Age;
use crate::progress::ShardProgress;

pub(crate) use super::record_batch::WindowLimits;

/// Tracks the delivered records of one shard until they are acknowledged.
#[derive(Debug)]
pub(crate) struct AcknowledgementTracker {
    shared: Arc<Shared>,
}

/// Records that have to be delivered again.
#[derive(Debug)]
pub(crate) enum Redelivery {
    /// These records failed.
    Failed { batch: RecordBatch, error: BoxError },
    /// The application released these records without starting them.
    Released(RecordBatch),
    /// Records failed that no handle holds any more: they have to be read again.
    Reread(BoxError),
}

impl AcknowledgementTracker {
    pub(crate) fn new(
        acknowledger: Acknowledger,
        progress: watch::Sender<ShardProgress>,
        limits: WindowLimits,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(acknowledger, progress, limits)) }
    }

    /// The first delivery of a batch, whose first record has this age.
    pub(crate) fn deliver(&self, batch: RecordBatch, age: Age) -> RecordBatch {
        let batch_number = {
            let window = &mut self.shared.inner().window;
            let batch_number = window.push(batch.records(), batch.memory_bytes());
            window.set_age(batch_number, Some(age));
            self.shared.report_oldest(window.oldest());
            batch_number
        };
        self.with_new_delivery(batch, batch_number, None, 1)
    }

    /// A new delivery of the unacknowledged records of a batch; `None` when all are acknowledged. Handles of the earlier
    /// delivery do nothing from now on.
    pub(crate) fn deliver_again(&self, batch: &RecordBatch) -> Option<RecordBatch> {
        let delivery = batch.delivery()?;
        let open: Vec<usize> = {
            let inner = self.shared.inner();
            delivery.make_void(&inner);
            let is_open =
                |index: &usize| inner.window.is_open(delivery.batch_number(), delivery.index(*index));
            (0..batch.len()).filter(is_open).collect()
        };
        self.redeliver(delivery, batch, &open, delivery.attempts() + 1)
    }

    fn redeliver(
        &self,
        delivery: &Delivery,
        batch: &RecordBatch,
        open: &[usize],
        attempts: u32,
    ) -> Option<RecordBatch> {
        if open.len() == batch.len() {
            return Some(self.with_new_delivery(
                batch.clone(),
                delivery.batch_number(),
                delivery.indexes(),
                attempts,
            ));
        }
        // The records of a part are acknowledged one by one, so the window needs all positions.
        delivery.split(batch);
        let indexes = open.iter().map(|index| delivery.index(*index)).collect();
        let records = open.iter().filter_map(|index| batch.get(*index).cloned()).collect();
        Some(self.with_new_delivery(batch.part(records)?, delivery.batch_number(), Some(indexes), attempts))
    }

    /// The first delivery of each half of a batch.
    pub(crate) fn halves(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let Some(delivery) = batch.delivery() else { return Vec::new() };
        delivery.split(batch);
        let middle = batch.len().div_ceil(2);
        let half = |range: std::ops::Range<usize>| {
            let indexes = range.clone().map(|index| delivery.index(index)).collect();
            let part = batch.part(batch.records().get(range)?.to_vec())?;
            Some(self.with_new_delivery(part, delivery.batch_number(), Some(indexes), 1))
        };
        [0..middle, middle..batch.len()].into_iter().filter_map(half).collect()
    }

    fn with_new_delivery(
        &self,
        batch: RecordBatch,
        batch_number: u64,
        indexes: Option<Box<[usize]>>,
        attempts: u32,
    ) -> RecordBatch {
        batch.with_delivery(Delivery::new(self.shared.clone(), batch_number, indexes, attempts))
    }

    /// Acknowledges a batch that was processed, unless the application deferred it.
    pub(crate) fn processed(&self, batch: &RecordBatch) {
        if let Some(delivery) = batch.delivery()
            && !delivery.is_deferred()
        {
            delivery.acknowledge_all(batch.len());
        }
    }

    /// Acknowledges a batch after the last resort, deferred or not.
    pub(crate) fn pass(&self, batch: &RecordBatch) {
        if let Some(delivery) = batch.delivery() {
            delivery.acknowledge_all(batch.len());
        }
    }

    /// The next records that have to be delivered again, if there are any.
    pub(crate) fn next_redelivery(&self) -> Option<Redelivery> {
        let failed = {
            let mut inner = self.shared.inner();
            if let Some(error) = inner.reread.take() {
                return Some(Redelivery::Reread(error));
            }
            loop {
                let failed = inner.failed.pop_front()?;
                // Skip void deliveries: their batch is already queued for redelivery.
                if !failed.delivery.is_void(&inner) {
                    break failed;
                }
            }
        };
        let FailedRecords { delivery, batch, mut indexes, error } = failed;
        indexes.sort_unstable();
        let attempts = delivery.attempts() + u32::from(error.is_some());
        // `None` is impossible: failed records are not acknowledged.
        let batch = self.redeliver(&delivery, &batch, &indexes, attempts)?;
        Some(match error {
            Some(error) => Redelivery::Failed { batch, error },
            None => Redelivery::Released(batch),
        })
    }

    /// Waits for a change since the last call that waited.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whether another batch may be delivered.
    pub(crate) fn has_capacity(&self) -> bool {
        let inner = self.shared.inner();
        let limits = self.shared.limits;
        inner.window.is_empty()
            || (inner.window.records() < limits.records && inner.window.bytes() < limits.bytes)
    }

    /// Whether the application works on no record any more: all are acknowledged, abandoned or released.
    pub(crate) fn is_flushed(&self) -> bool {
        let inner = self.shared.inner();
        inner.window.open() == inner.abandoned + inner.released
    }

    /// Whether the application started records that are not acknowledged.
    pub(crate) fn has_unfinished(&self) -> bool {
        let inner = self.shared.inner();
        inner.window.open() > inner.released
    }

    /// Whether all delivered records are acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.inner().window.open() == 0
    }

    /// Whether a batch of the window has unacknowledged records.
    pub(crate) fn is_open(&self, batch_number: u64) -> bool {
        self.shared.inner().window.is_any_open(batch_number)
    }

    /// Leaves the unacknowledged records of a batch to the next owner of the shard.
    pub(crate) fn abandon(&self, batch: &RecordBatch) {
        if let Some(batch) = self.deliver_again(batch) {
            self.shared.inner().abandoned += batch.len();
        }
    }

    /// Like [`abandon`](Self::abandon), for records that would be delivered again.
    pub(crate) fn abandon_redelivery(&self, redelivery: &Redelivery) {
        match redelivery {
            Redelivery::Failed { batch, .. } => self.abandon(batch),
            Redelivery::Released(batch) => {
                if let Some(batch) = self.deliver_again(batch) {
                    self.shared.inner().released += batch.len();
                }
            }
            // The number of these records is not known, so the flush no longer waits for open records.
            Redelivery::Reread(_) => {
                let mut inner = self.shared.inner();
                inner.abandoned = inner.window.open() - inner.released;
            }
        }
    }

    /// Forgets all delivered records; their handles do nothing from now on.
    pub(crate) fn clear(&self) {
        let mut inner = self.shared.inner();
        inner.window.clear();
        inner.failed.clear();
        inner.reread = None;
        inner.abandoned = 0;
        inner.released = 0;
        self.shared.report_oldest(None);
    }
}

impl Drop for AcknowledgementTracker {
    fn drop(&mut self) {
        // Failed records hold a reference to the shared window, which holds them: break the cycle.
        self.clear();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a race of two threads, which the test joins
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use async_trait::async_trait;
    use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
    use lease_store::{Position, StoreError};

    use super::*;
    use crate::record::Record;

    #[derive(Debug)]
    struct Discarding;

    #[async_trait]
    impl CheckpointWriter for Discarding {
        async fn write(&self, _position: &Position) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn record(number: u64) -> Record {
        Record {
            sequence_number: u128::from(number).into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: bytes::Bytes::new(),
            approximate_arrival: None,
        }
    }

    /// The handle is used while the worker, holding the lock, makes its delivery void. The schedule of the threads only
    /// decides how often the handle is first. In both cases the open and the abandoned batches agree afterwards.
    #[tokio::test(start_paused = true)]
    async fn late_acknowledgement_of_void_delivery_changes_nothing() {
        for _ in 0..50 {
            let rng = fastrand::Rng::with_seed(1);
            let checkpointer = Checkpointer::start(
                Arc::new(Discarding),
                Position::TrimHorizon,
                Cadence::default(),
                RetryPolicy::default(),
                rng,
            );
            let limits = WindowLimits { records: 10, bytes: 10_000 };
            let progress = watch::channel(ShardProgress::default()).0;
            let tracker = AcknowledgementTracker::new(checkpointer.acknowledger(), progress, limits);
            let batch = RecordBatch::new(vec![record(1)], None).unwrap();
            checkpointer.deliver(batch.last_position());
            let batch =
                tracker.deliver(batch, Age::new(std::time::Duration::ZERO, tokio::time::Instant::now()));
            let handle = batch.defer();
            let delivery = batch.delivery().unwrap();
            {
                let inner = tracker.shared.inner();
                let (started, has_started) = mpsc::channel();
                let acknowledging = thread::spawn(move || {
                    started.send(()).unwrap();
                    handle.acknowledge();
                });
                has_started.recv().unwrap();
                for _ in 0..1000 {
                    thread::yield_now();
                }
                delivery.make_void(&inner);
                drop(inner);
                acknowledging.join().unwrap();
            }
            assert!(tracker.is_open(delivery.batch_number()), "a void delivery acknowledged its record");
            // A stop abandons the batch in the same way.
            tracker.abandon(&batch);
            assert!(tracker.is_flushed());
            checkpointer.close().await;
        }
    }
}
