//! A batch of records, and one delivery of it: what its handles report to the worker of the shard.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpointer::Acknowledger;
use lease_store::{BoxError, Position};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::window::{Advance, Window};
use crate::age::Age;
use crate::memory::byte_budget::ByteReservation;
use crate::progress::ShardProgress;
use crate::record::Record;

/// Records of one shard, in order, at least one. Clones share them, and their memory counts against the byte budget until
/// the last clone is dropped: an application that keeps batches delays new reads.
///
/// ```
/// use shard_worker::{Record, RecordBatch};
///
/// let records = vec![Record::new(1_u128.into(), r#"{"id":7}"#.into())];
/// let batch = RecordBatch::new(records, Some(0)).expect("a batch has at least one record");
/// let decoded: Vec<serde_json::Value> = batch.json()?;
/// assert_eq!(decoded[0]["id"], 7);
/// # Ok::<(), shard_worker::DecodeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// A vector, as it was filled: a conversion to a slice would move every record again.
    records: Arc<Vec<Record>>,
    millis_behind_latest: Option<u64>,
    /// The memory of the records, in bytes.
    bytes: u64,
    /// Returned with the last clone; shared with the other batches of the same read.
    _memory: Option<Arc<[Arc<ByteReservation>]>>,
    /// `None` for a batch that the application made, in a test for example.
    delivery: Option<Arc<Delivery>>,
}

impl RecordBatch {
    /// A batch, or `None` when there are no records.
    pub fn new(records: Vec<Record>, millis_behind_latest: Option<u64>) -> Option<Self> {
        (!records.is_empty()).then(|| Self {
            bytes: records.iter().map(Record::memory_bytes).sum(),
            records: Arc::new(records),
            millis_behind_latest,
            _memory: None,
            delivery: None,
        })
    }

    /// A batch of some of its records, which shares its memory reservation.
    pub(super) fn part(&self, records: Vec<Record>) -> Option<Self> {
        (!records.is_empty()).then(|| Self {
            bytes: records.iter().map(Record::memory_bytes).sum(),
            records: Arc::new(records),
            delivery: None,
            ..self.clone()
        })
    }

    /// The same batch, for a new delivery.
    pub(super) fn with_delivery(self, delivery: Delivery) -> Self {
        Self { delivery: Some(Arc::new(delivery)), ..self }
    }

    pub(crate) fn delivery(&self) -> Option<&Arc<Delivery>> {
        self.delivery.as_ref()
    }

    /// The same batch, which holds the memory reserved for it.
    pub(crate) fn holding(self, memory: Vec<Arc<ByteReservation>>) -> Self {
        Self { _memory: (!memory.is_empty()).then(|| memory.into()), ..self }
    }

    /// The records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How far the batch lies behind the tip of the shard, in milliseconds; `None` when the source does not report it.
    pub fn millis_behind_latest(&self) -> Option<u64> {
        self.millis_behind_latest
    }

    /// The position after the last record.
    pub fn last_position(&self) -> Position {
        // A batch holds at least one record; see `new`.
        self.records.last().map_or(Position::TrimHorizon, Record::position)
    }

    /// The memory of the records, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes
    }

    /// The size of all payloads, in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.data.len() as u64).sum()
    }

    /// Acknowledges the first `count` records of this delivery, while the processor still works on the others. They are not
    /// delivered again if it fails. A checkpoint may pass them from now on; see
    /// [`ShardContext::checkpoint`](crate::ShardContext::checkpoint).
    ///
    /// Does nothing once the delivery is over: the batch was delivered again, or the lease is lost.
    pub fn acknowledge_first(&self, count: usize) {
        if let Some(delivery) = self.delivery() {
            delivery.split(self);
            (0..count.min(self.len())).for_each(|index| delivery.acknowledge(index));
        }
    }

    /// The attempts to process it so far, this one included; 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.delivery().map_or(1, |delivery| delivery.attempts)
    }
}

impl Deref for RecordBatch {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.records
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = &'a Record;
    type IntoIter = std::slice::Iter<'a, Record>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

/// How many records may be unacknowledged before the next batch is delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) records: usize,
    pub(crate) bytes: u64,
}

/// The window of one shard, shared between its worker and all handles.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
    acknowledger: Acknowledger,
    progress: watch::Sender<ShardProgress>,
    pub(super) limits: WindowLimits,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) window: Window,
    pub(super) failed: VecDeque<FailedRecords>,
    /// Why records that no handle holds any more have to be read again.
    pub(super) reread: Option<BoxError>,
    /// How many records are not acknowledged and will not be delivered again by this worker.
    pub(super) abandoned: usize,
    /// How many records the application released without starting them.
    pub(super) released: usize,
}

/// Records that a handle failed or released.
#[derive(Debug)]
pub(super) struct FailedRecords {
    pub(super) delivery: Arc<Delivery>,
    pub(super) batch: RecordBatch,
    /// The indexes of these records in the batch.
    pub(super) indexes: Vec<usize>,
    /// `None`: released, the application has not started them.
    pub(super) error: Option<BoxError>,
}

impl Shared {
    pub(super) fn new(
        acknowledger: Acknowledger,
        progress: watch::Sender<ShardProgress>,
        limits: WindowLimits,
    ) -> Self {
        Self { inner: Mutex::default(), changed: Notify::new(), acknowledger, progress, limits }
    }

    /// Reports the age of the oldest batch that is not acknowledged, without waking those who wait for progress.
    pub(super) fn report_oldest(&self, oldest: Option<Age>) {
        self.progress.send_if_modified(|progress| {
            progress.oldest_unacknowledged = oldest;
            false
        });
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, advance: Advance, is_all: bool, oldest: Option<Age>) {
        let Advance { position, records, payload_bytes } = advance;
        if let Err(error) = self.acknowledger.acknowledge(position.clone(), records) {
            // The worker reports each batch to the checkpointer before it delivers it, so this is a bug of the worker.
            tracing::error!(%error, "acknowledged position was refused; no record is lost, its records are read again");
            return;
        }
        self.progress.send_modify(|progress| {
            progress.acknowledged_records += records;
            progress.acknowledged_bytes += payload_bytes;
            progress.acknowledged = Some(position);
            progress.progressed_at = Some(Instant::now());
            if is_all {
                // All records that had failed are acknowledged by now.
                progress.last_error = None;
                progress.failing_since = None;
            }
            progress.oldest_unacknowledged = oldest;
        });
    }
}

/// One delivery of a batch to the processor: the first, or one more after a failure.
#[derive(Debug)]
pub(crate) struct Delivery {
    shared: Arc<Shared>,
    /// The number of the batch in the window.
    batch_number: u64,
    /// The indexes of these records in the batch of the window. `None`: all records of it.
    indexes: Option<Box<[usize]>>,
    /// The attempts so far, this one included.
    attempts: u32,
    is_deferred: AtomicBool,
    /// The batch was delivered again: handles of this delivery do nothing. Read and written with the lock on the window.
    is_void: AtomicBool,
}

impl Delivery {
    pub(super) fn new(
        shared: Arc<Shared>,
        batch_number: u64,
        indexes: Option<Box<[usize]>>,
        attempts: u32,
    ) -> Self {
        let (is_deferred, is_void) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { shared, batch_number, indexes, attempts, is_deferred, is_void }
    }

    /// The index in the window's batch of the record with this index in the delivered batch.
    pub(super) fn index(&self, of_batch: usize) -> usize {
        self.indexes.as_ref().map_or(of_batch, |indexes| indexes.get(of_batch).copied().unwrap_or(usize::MAX))
    }

    pub(super) fn indexes(&self) -> Option<Box<[usize]>> {
        self.indexes.clone()
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The number of the batch in the window.
    pub(crate) fn batch_number(&self) -> u64 {
        self.batch_number
    }

    /// Changes the progress of the shard, unless the delivery is void.
    pub(super) fn count(&self, change: impl FnOnce(&mut ShardProgress)) {
        let inner = self.shared.inner();
        if !self.is_void(&inner) {
            self.shared.progress.send_modify(change);
        }
    }

    /// Whether it covers a whole batch of the window.
    pub(super) fn is_whole(&self) -> bool {
        self.indexes.is_none()
    }

    pub(super) fn is_deferred(&self) -> bool {
        self.is_deferred.load(Ordering::Relaxed)
    }

    /// Whether handles of this delivery do nothing. The lock on the window is the proof that the answer stays true until
    /// the caller has changed the window: an answer from before the lock would let a handle of a void delivery
    /// acknowledge records that the worker already counts as abandoned.
    pub(super) fn is_void(&self, _locked: &Inner) -> bool {
        self.is_void.load(Ordering::Relaxed)
    }

    /// Makes all handles of this delivery do nothing.
    pub(super) fn make_void(&self, _locked: &Inner) {
        self.is_void.store(true, Ordering::Relaxed);
    }

    /// Marks the delivery as one that the application acknowledges later; returns `false` if it was marked before.
    pub(super) fn defer(&self) -> bool {
        let is_first = !self.is_deferred.swap(true, Ordering::Relaxed);
        if is_first {
            self.shared.inner().window.detach(self.batch_number);
        }
        is_first
    }

    /// Prepares the window for acknowledgements of single records.
    pub(super) fn split(&self, batch: &RecordBatch) {
        if self.indexes.is_none() {
            self.shared.inner().window.keep_positions(self.batch_number, batch.records());
        }
    }

    /// Acknowledges all records of the batch; `count` is their number.
    pub(super) fn acknowledge_all(&self, count: usize) {
        if self.indexes.is_none() {
            self.change(|inner| inner.window.acknowledge_all(self.batch_number));
        } else {
            for index in 0..count {
                self.acknowledge(index);
            }
        }
    }

    /// Acknowledges one record of the batch.
    pub(super) fn acknowledge(&self, index: usize) {
        let index = self.index(index);
        self.change(|inner| inner.window.acknowledge(self.batch_number, index));
    }

    fn change(&self, acknowledge: impl FnOnce(&mut Inner) -> Option<Advance>) {
        // The lock is held until the position has moved: a stop that finds all records acknowledged must flush it.
        let mut inner = self.shared.inner();
        if self.is_void(&inner) {
            return;
        }
        if let Some(advance) = acknowledge(&mut inner) {
            let is_all = inner.window.open() == 0;
            let oldest = inner.window.oldest();
            self.shared.advance(advance, is_all, oldest);
            drop(inner);
            self.shared.changed.notify_one();
        }
    }

    /// Records that these records of the batch failed, or were released if there is no error.
    pub(super) fn fail(
        self: &Arc<Self>,
        batch: &RecordBatch,
        indexes: impl Iterator<Item = usize>,
        error: Option<BoxError>,
    ) {
        let mut inner = self.shared.inner();
        let inner = &mut *inner;
        if self.is_void(inner) {
            return;
        }
        let open = indexes.filter(|index| inner.window.is_open(self.batch_number, self.index(*index)));
        let open: Vec<usize> = open.collect();
        if open.is_empty() {
            return;
        }
        match inner.failed.back_mut() {
            Some(failed)
                if Arc::ptr_eq(&failed.delivery, self) && failed.error.is_some() == error.is_some() =>
            {
                failed.indexes.extend(open);
            }
            _ => inner.failed.push_back(FailedRecords {
                delivery: self.clone(),
                batch: batch.clone(),
                indexes: open,
                error,
            }),
        }
        self.shared.changed.notify_one();
    }

    /// Records that the batch failed after its handle had dropped the records: they have to be read again.
    pub(super) fn fail_without_records(&self, error: BoxError) {
        let mut inner = self.shared.inner();
        let is_open = inner.window.is_open(self.batch_number, self.index(0));
        if is_open && !self.is_void(&inner) {
            inner.reread.get_or_insert(error);
            self.shared.changed.notify_one();
        }
    }
}
