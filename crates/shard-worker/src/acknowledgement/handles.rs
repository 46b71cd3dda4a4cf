//! The handles with which an application acknowledges after its processor has returned.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use lease_store::BoxError;

use super::record_batch::{Delivery, RecordBatch};
use crate::failure::last_resort::LastResortOutcome;
use crate::record::Record;

/// Acknowledges a batch after [`process`](crate::RecordProcessor::process) has returned; see [`RecordBatch::defer`].
///
/// Dropping it without an acknowledgement is like [`fail`](Self::fail): the batch is delivered again as the failure policy
/// demands, so no batch is passed silently. Once the lease is lost the handle does nothing, since the records belong to the
/// new owner.
///
/// ```
/// use shard_worker::{RecordBatch, Record};
///
/// /// Hands a batch to a task that acknowledges it later.
/// fn in_background(batch: &RecordBatch) -> tokio::task::JoinHandle<()> {
///     let (records, acknowledgement) = (batch.records().to_vec(), batch.defer());
///     tokio::spawn(async move {
///         match store(records).await {
///             Ok(()) => acknowledgement.acknowledge(),
///             Err(error) => acknowledgement.fail(error), // the batch is delivered again
///         }
///     })
/// }
/// # async fn store(_: Vec<Record>) -> Result<(), std::io::Error> { Ok(()) }
/// ```
#[must_use = "a batch whose acknowledgement is dropped is delivered again"]
pub struct Acknowledgement {
    claim: Option<Claim>,
}

/// Acknowledges one record; see [`Acknowledgement::into_records`].
///
/// The position of the shard moves over a record once this record and all before it are acknowledged, in any order.
///
/// ```
/// use shard_worker::RecordBatch;
///
/// /// Acknowledges the records of a batch one by one, in any order. The checkpoint follows the first that is missing.
/// fn one_by_one(batch: &RecordBatch) {
///     for (record, acknowledgement) in batch.defer().into_records() {
///         println!("{}", record.sequence_number);
///         acknowledgement.acknowledge();
///     }
/// }
/// ```
#[must_use = "a record whose acknowledgement is dropped is delivered again"]
pub struct RecordAcknowledgement {
    claim: Option<Arc<Claim>>,
    index: usize,
}

struct Claim {
    /// `None` for a batch that the application made, and for a second handle of a delivery.
    delivery: Option<Arc<Delivery>>,
    /// `None` once the records were dropped by `without_records`.
    batch: Option<RecordBatch>,
    guard: Option<Box<dyn Any + Send + Sync>>,
}

const DROPPED: &str = "its acknowledgement was dropped";

impl RecordBatch {
    /// Acknowledges the batch by the returned handle instead of by the `Ok` of the processor. Meanwhile the next batches
    /// are delivered, within the limits for unacknowledged records. Only the first call for a delivery counts. The handle
    /// of a further call does nothing, like that of a batch which the application made itself.
    pub fn defer(&self) -> Acknowledgement {
        let delivery = self.delivery().filter(|delivery| delivery.defer()).cloned();
        Acknowledgement { claim: Some(Claim { delivery, batch: Some(self.clone()), guard: None }) }
    }
}

impl Acknowledgement {
    /// The batch is done: the position passes it once all records before it are done.
    pub fn acknowledge(mut self) {
        if let Some(Claim { delivery: Some(delivery), batch, .. }) = self.claim.take() {
            // A handle without records covers its whole batch, which is acknowledged without a count.
            delivery.acknowledge_all(batch.map_or(0, |batch| batch.len()));
        }
    }

    /// The batch could not be processed: it counts as a failed attempt with this error, which is logged and shown in
    /// [`ShardProgress::last_error`](crate::ShardProgress::last_error), and is delivered again as the
    /// [`FailurePolicy`](crate::FailurePolicy) demands. No effect after the lease was lost.
    pub fn fail(mut self, error: impl Into<BoxError>) {
        if let Some(claim) = self.claim.take() {
            claim.fail_all(error.into());
        }
    }

    /// One handle for each record, with the record.
    pub fn into_records(mut self) -> impl ExactSizeIterator<Item = (Record, RecordAcknowledgement)> {
        let claim = self.claim.take().map(Arc::new);
        let batch = claim.as_ref().and_then(|claim| claim.batch.clone());
        if let (Some(delivery), Some(batch)) =
            (claim.as_ref().and_then(|claim| claim.delivery.as_ref()), &batch)
        {
            delivery.split(batch);
        }
        let handle = move |index| RecordAcknowledgement { claim: claim.clone(), index };
        // All handles exist before the first is returned: dropping the iterator early drops, and so fails, the others.
        let all: Vec<(Record, RecordAcknowledgement)> = batch
            .iter()
            .flat_map(|batch| batch.iter().cloned())
            .enumerate()
            .map(|(index, record)| (record, handle(index)))
            .collect();
        all.into_iter()
    }

    /// Drops the records, which frees their memory, for an application that is done with them but has to store something
    /// before it acknowledges them. If this handle is dropped or failed, the records have to be read again: the shard
    /// restarts at the acknowledged position, with a new processor.
    pub fn without_records(mut self) -> Self {
        if let Some(claim) = &mut self.claim
            && claim.delivery.as_ref().is_none_or(|delivery| delivery.is_whole())
        {
            claim.batch = None;
        }
        self
    }

    /// Keeps a value, such as a permit, until this handle, or all handles of its records, are used or dropped.
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        if let Some(claim) = &mut self.claim {
            claim.guard = Some(Box::new(guard));
        }
        self
    }
}

impl RecordAcknowledgement {
    /// The record is done.
    pub fn acknowledge(mut self) {
        let claim = self.claim.take();
        if let Some(delivery) = claim.as_ref().and_then(|claim| claim.delivery.as_ref()) {
            delivery.acknowledge(self.index);
        }
    }

    /// The application has not started the record. At a stop the record is left to the next owner, and the stop still
    /// counts as drained. Otherwise it is delivered again, and that does not count as an attempt.
    pub fn release(mut self) {
        if let Some(claim) = self.claim.take() {
            claim.fail(self.index, None);
        }
    }

    /// The record is done, or the last resort was applied to it.
    pub(crate) fn complete(self, last_resort: Option<LastResortOutcome>) {
        if let (Some(outcome), Some(delivery)) = (last_resort, self.delivery()) {
            delivery.count(|progress| outcome.count(progress));
        }
        self.acknowledge();
    }

    /// Counts a failed attempt, after which the owner of this handle retries the record itself.
    pub(crate) fn record_failure(&self, error: &BoxError) {
        if let Some(delivery) = self.delivery() {
            delivery.count(|progress| {
                progress.failed_attempts += 1;
                progress.record_error(error.to_string());
            });
        }
    }

    fn delivery(&self) -> Option<&Arc<Delivery>> {
        self.claim.as_ref().and_then(|claim| claim.delivery.as_ref())
    }

    /// The record could not be processed; it is delivered again as the failure policy demands.
    pub fn fail(mut self, error: impl Into<BoxError>) {
        if let Some(claim) = self.claim.take() {
            claim.fail(self.index, Some(error.into()));
        }
    }
}

impl Claim {
    fn fail_all(&self, error: BoxError) {
        match (&self.delivery, &self.batch) {
            (Some(delivery), Some(batch)) => delivery.fail(batch, 0..batch.len(), Some(error)),
            (Some(delivery), None) => delivery.fail_without_records(error),
            (None, _) => {}
        }
    }

    fn fail(&self, index: usize, error: Option<BoxError>) {
        if let (Some(delivery), Some(batch)) = (&self.delivery, &self.batch) {
            delivery.fail(batch, std::iter::once(index), error);
        }
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.fail_all(DROPPED.into());
        }
    }
}

impl Drop for RecordAcknowledgement {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.fail(self.index, Some(DROPPED.into()));
        }
    }
}

impl fmt::Debug for Acknowledgement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acknowledgement").finish_non_exhaustive()
    }
}

impl fmt::Debug for RecordAcknowledgement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RecordAcknowledgement").field("index", &self.index).finish_non_exhaustive()
    }
}
