//! The window of one shard, shared between its worker and the handles that the application has.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpointer::Acknowledger;
use lease_store::BoxError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::window::{Advance, Window};
use crate::{RecordBatch, ShardProgress};

/// How much may be delivered and not acknowledged, beside the batch that is being delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) records: usize,
    pub(crate) bytes: u64,
}

/// What is delivered of one shard, in the hand of its worker.
#[derive(Debug)]
pub(crate) struct Deliveries {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
    acknowledger: Acknowledger,
    progress: watch::Sender<ShardProgress>,
    limits: WindowLimits,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Inner {
    window: Window,
    failed: VecDeque<Failed>,
    /// Somebody gave up what cannot be delivered again from here.
    restart: Option<BoxError>,
    /// Records that are not done and will not be delivered again here.
    abandoned: usize,
    /// Those that nobody has begun with.
    released: usize,
}

/// Records that somebody gave up.
#[derive(Debug)]
struct Failed {
    delivered: Arc<Delivered>,
    batch: RecordBatch,
    /// Which records of the batch.
    indexes: Vec<usize>,
    /// `None`: nobody has begun with them.
    error: Option<BoxError>,
}

/// Why something that was delivered has to be delivered again.
#[derive(Debug)]
pub(crate) enum Failure {
    /// These records are not done.
    Records { batch: RecordBatch, error: BoxError },
    /// Nobody has begun with these records.
    Untouched(RecordBatch),
    /// Records that nobody has any more are not done: they have to be read again.
    Restart(BoxError),
}

/// One delivery of a batch: the first, or one more after a failure.
#[derive(Debug)]
pub(crate) struct Delivered {
    shared: Arc<Shared>,
    /// The number in the window.
    delivery: u64,
    /// Which records of the delivery these are; `None`: all of them, in order.
    indexes: Option<Box<[usize]>>,
    /// The attempts so far, this one included.
    attempts: u32,
    is_deferred: AtomicBool,
    /// The batch is delivered anew, and handles of this delivery do nothing.
    is_void: AtomicBool,
}

impl Delivered {
    fn index(&self, of_batch: usize) -> usize {
        self.indexes.as_ref().map_or(of_batch, |indexes| indexes.get(of_batch).copied().unwrap_or(usize::MAX))
    }

    /// The number of the delivery in the window.
    pub(crate) fn delivery(&self) -> u64 {
        self.delivery
    }

    /// Changes the progress of the shard, unless the delivery is void.
    pub(super) fn count(&self, change: impl FnOnce(&mut ShardProgress)) {
        if !self.is_void.load(Ordering::Acquire) {
            self.shared.progress.send_modify(change);
        }
    }

    /// Whether it is a delivery of the window, and not a part of one.
    pub(super) fn is_whole(&self) -> bool {
        self.indexes.is_none()
    }

    /// Says that it is acknowledged later; `false`: somebody said so before.
    pub(super) fn defer(&self) -> bool {
        let is_first = !self.is_deferred.swap(true, Ordering::Relaxed);
        if is_first {
            self.shared.inner().window.detach(self.delivery);
        }
        is_first
    }

    /// Its records will be acknowledged one by one.
    pub(super) fn split(&self, batch: &RecordBatch) {
        if self.indexes.is_none() {
            self.shared.inner().window.keep_places(self.delivery, batch.records());
        }
    }

    /// Takes note that all records of the batch are done.
    pub(super) fn acknowledge_all(&self, count: usize) {
        if self.indexes.is_none() {
            self.change(|inner| inner.window.acknowledge_all(self.delivery));
        } else {
            for index in 0..count {
                self.acknowledge(index);
            }
        }
    }

    /// Takes note that a record of the batch is done.
    pub(super) fn acknowledge(&self, index: usize) {
        let index = self.index(index);
        self.change(|inner| inner.window.acknowledge(self.delivery, index));
    }

    fn change(&self, acknowledge: impl FnOnce(&mut Inner) -> Option<Advance>) {
        if self.is_void.load(Ordering::Acquire) {
            return;
        }
        // The lock is kept until the position has moved, so that a stop that finds everything acknowledged flushes it.
        let mut inner = self.shared.inner();
        if let Some(advance) = acknowledge(&mut inner) {
            let is_all = inner.window.open() == 0;
            self.shared.advance(advance, is_all);
            drop(inner);
            self.shared.changed.notify_one();
        }
    }

    /// Takes note that records of the batch are not done, and nobody works on them any more.
    pub(super) fn fail(
        self: &Arc<Self>,
        batch: &RecordBatch,
        indexes: impl Iterator<Item = usize>,
        error: Option<BoxError>,
    ) {
        let mut inner = self.shared.inner();
        let inner = &mut *inner;
        if self.is_void.load(Ordering::Acquire) {
            return;
        }
        let open = indexes.filter(|index| inner.window.is_open(self.delivery, self.index(*index)));
        let open: Vec<usize> = open.collect();
        if open.is_empty() {
            return;
        }
        match inner.failed.back_mut() {
            Some(failed)
                if Arc::ptr_eq(&failed.delivered, self) && failed.error.is_some() == error.is_some() =>
            {
                failed.indexes.extend(open);
            }
            _ => inner.failed.push_back(Failed {
                delivered: self.clone(),
                batch: batch.clone(),
                indexes: open,
                error,
            }),
        }
        self.shared.changed.notify_one();
    }

    /// Takes note that records are not done that nobody has any more.
    pub(super) fn fail_without_records(&self, error: BoxError) {
        let mut inner = self.shared.inner();
        let is_open = inner.window.is_open(self.delivery, self.index(0));
        if is_open && !self.is_void.load(Ordering::Acquire) {
            inner.restart.get_or_insert(error);
            self.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, advance: Advance, is_all: bool) {
        let Advance { position, records, payload_bytes } = advance;
        if let Err(error) = self.acknowledger.acknowledge(position.clone(), records) {
            // The worker delivers before it hands anything over, so this is a defect of its own.
            tracing::error!(%error, "a position could not be acknowledged; nothing is lost, its records come again");
            return;
        }
        self.progress.send_modify(|progress| {
            progress.acknowledged_records += records;
            progress.acknowledged_bytes += payload_bytes;
            progress.acknowledged = Some(position);
            progress.progressed_at = Some(Instant::now());
            if is_all {
                // Whatever failed is done by now.
                progress.last_error = None;
            }
        });
    }
}

impl Deliveries {
    pub(crate) fn new(
        acknowledger: Acknowledger,
        progress: watch::Sender<ShardProgress>,
        limits: WindowLimits,
    ) -> Self {
        let inner = Mutex::default();
        Self { shared: Arc::new(Shared { inner, changed: Notify::new(), acknowledger, progress, limits }) }
    }

    /// A batch as it is delivered for the first time.
    pub(crate) fn deliver(&self, batch: RecordBatch) -> RecordBatch {
        let delivery = self.shared.inner().window.deliver(batch.records(), batch.memory_bytes());
        self.ticket(batch, delivery, None, 1)
    }

    /// What of a batch is not acknowledged, to be delivered once more; `None` when all of it is. Handles of the delivery
    /// before do nothing any more.
    pub(crate) fn deliver_again(&self, batch: &RecordBatch) -> Option<RecordBatch> {
        let delivered = batch.delivered()?;
        let open: Vec<usize> = {
            let inner = self.shared.inner();
            delivered.is_void.store(true, Ordering::Release);
            let is_open = |index: &usize| inner.window.is_open(delivered.delivery, delivered.index(*index));
            (0..batch.len()).filter(is_open).collect()
        };
        self.again(delivered, batch, &open, delivered.attempts + 1)
    }

    fn again(
        &self,
        delivered: &Delivered,
        batch: &RecordBatch,
        open: &[usize],
        attempts: u32,
    ) -> Option<RecordBatch> {
        if open.len() == batch.len() {
            return Some(self.ticket(batch.clone(), delivered.delivery, delivered.indexes.clone(), attempts));
        }
        // A part is acknowledged record by record, so the places of the whole have to be known.
        delivered.split(batch);
        let indexes = open.iter().map(|index| delivered.index(*index)).collect();
        let records = open.iter().filter_map(|index| batch.get(*index).cloned()).collect();
        Some(self.ticket(batch.part(records)?, delivered.delivery, Some(indexes), attempts))
    }

    /// Both halves of a batch, each as it is delivered for the first time.
    pub(crate) fn halves(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let Some(delivered) = batch.delivered() else { return Vec::new() };
        delivered.split(batch);
        let middle = batch.len().div_ceil(2);
        let half = |range: std::ops::Range<usize>| {
            let indexes = range.clone().map(|index| delivered.index(index)).collect();
            let part = batch.part(batch.records().get(range)?.to_vec())?;
            Some(self.ticket(part, delivered.delivery, Some(indexes), 1))
        };
        [0..middle, middle..batch.len()].into_iter().filter_map(half).collect()
    }

    fn ticket(
        &self,
        batch: RecordBatch,
        delivery: u64,
        indexes: Option<Box<[usize]>>,
        attempts: u32,
    ) -> RecordBatch {
        batch.delivered_as(Delivered {
            shared: self.shared.clone(),
            delivery,
            indexes,
            attempts,
            is_deferred: AtomicBool::new(false),
            is_void: AtomicBool::new(false),
        })
    }

    /// Takes note that a batch is processed: it is acknowledged, unless the application said that it does so later.
    pub(crate) fn processed(&self, batch: &RecordBatch) {
        if let Some(delivered) = batch.delivered()
            && !delivered.is_deferred.load(Ordering::Relaxed)
        {
            delivered.acknowledge_all(batch.len());
        }
    }

    /// Takes note that a batch needs no processing any more, whoever else has it.
    pub(crate) fn give_up(&self, batch: &RecordBatch) {
        if let Some(delivered) = batch.delivered() {
            delivered.acknowledge_all(batch.len());
        }
    }

    /// The next thing that has to be delivered again, if there is any.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let failed = {
            let mut inner = self.shared.inner();
            if let Some(error) = inner.restart.take() {
                return Some(Failure::Restart(error));
            }
            loop {
                let failed = inner.failed.pop_front()?;
                // Otherwise its batch is delivered again already.
                if !failed.delivered.is_void.load(Ordering::Acquire) {
                    break failed;
                }
            }
        };
        let Failed { delivered, batch, mut indexes, error } = failed;
        indexes.sort_unstable();
        // Failed records are open, so there is something to deliver.
        let attempts = delivered.attempts + u32::from(error.is_some());
        let batch = self.again(&delivered, &batch, &indexes, attempts)?;
        Some(match error {
            Some(error) => Failure::Records { batch, error },
            None => Failure::Untouched(batch),
        })
    }

    /// Waits until something changed since the last call that waited.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Whether one more batch may be delivered.
    pub(crate) fn has_room(&self) -> bool {
        let inner = self.shared.inner();
        let limits = self.shared.limits;
        inner.window.is_empty()
            || (inner.window.records() < limits.records && inner.window.bytes() < limits.bytes)
    }

    /// Whether nobody works on anything any more: all is acknowledged, abandoned or released.
    pub(crate) fn is_settled(&self) -> bool {
        let inner = self.shared.inner();
        inner.window.open() == inner.abandoned + inner.released
    }

    /// Whether something that was begun with is not acknowledged.
    pub(crate) fn is_anything_left(&self) -> bool {
        let inner = self.shared.inner();
        inner.window.open() > inner.released
    }

    /// Whether everything that was delivered is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.inner().window.open() == 0
    }

    /// Whether something of a delivery is not acknowledged.
    pub(crate) fn is_open(&self, delivery: u64) -> bool {
        self.shared.inner().window.is_any_open(delivery)
    }

    /// What of the batch is not done is not delivered again here.
    pub(crate) fn abandon(&self, batch: &RecordBatch) {
        if let Some(batch) = self.deliver_again(batch) {
            self.shared.inner().abandoned += batch.len();
        }
    }

    /// As [`abandon`](Self::abandon), for records that failed.
    pub(crate) fn abandon_failed(&self, failure: &Failure) {
        match failure {
            Failure::Records { batch, .. } => self.abandon(batch),
            Failure::Untouched(batch) => {
                if let Some(batch) = self.deliver_again(batch) {
                    self.shared.inner().released += batch.len();
                }
            }
            // Nobody knows how many these are: whatever is open is not waited for.
            Failure::Restart(_) => {
                let mut inner = self.shared.inner();
                inner.abandoned = inner.window.open() - inner.released;
            }
        }
    }

    /// Forgets all deliveries; handles do nothing any more.
    pub(crate) fn clear(&self) {
        let mut inner = self.shared.inner();
        inner.window.clear();
        inner.failed.clear();
        inner.restart = None;
        inner.abandoned = 0;
        inner.released = 0;
    }
}

impl RecordBatch {
    /// The attempts to process it so far, this one included; 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.delivered().map_or(1, |delivered| delivered.attempts)
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        // What waits to be delivered again would keep itself alive.
        self.clear();
    }
}
