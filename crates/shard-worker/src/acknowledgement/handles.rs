//! What the application acknowledges with, when it does so later than its processor returns.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use lease_store::BoxError;

use super::deliveries::Delivered;
use crate::last_resort::GivenUp;
use crate::{Record, RecordBatch};

/// Acknowledges a batch after [`process`](crate::RecordProcessor::process) has returned; see [`RecordBatch::defer`].
///
/// Dropped without being acknowledged, the batch is delivered again as the failure policy says, like after
/// [`fail`](Self::fail): it is never passed in silence. Once the lease is lost it does nothing: the records are their new
/// owner's.
#[must_use = "a batch whose acknowledgement is dropped is delivered again"]
pub struct Acknowledgement {
    claim: Option<Claim>,
}

/// Acknowledges one record; see [`Acknowledgement::into_records`].
///
/// The position of the shard moves over a record when it and all before it are acknowledged, in whichever order.
#[must_use = "a record whose acknowledgement is dropped is delivered again"]
pub struct RecordAcknowledgement {
    claim: Option<Arc<Claim>>,
    index: usize,
}

struct Claim {
    /// `None`: the batch was made by hand, and nobody waits for it.
    delivered: Option<Arc<Delivered>>,
    /// `None`: let go of.
    batch: Option<RecordBatch>,
    guard: Option<Box<dyn Any + Send + Sync>>,
}

const DROPPED: &str = "its acknowledgement was dropped";

impl RecordBatch {
    /// The batch will be acknowledged by the returned handle, and not by the `Ok` of the processor: the next batches come
    /// meanwhile, as far as the limits for what is unacknowledged allow. Only the first call for a delivery counts; the
    /// handle of a further one does nothing, like that of a batch that was made by hand.
    pub fn defer(&self) -> Acknowledgement {
        let delivered = self.delivered().filter(|delivered| delivered.defer()).cloned();
        Acknowledgement { claim: Some(Claim { delivered, batch: Some(self.clone()), guard: None }) }
    }
}

impl Acknowledgement {
    /// The batch is done: the position may pass it, as soon as all before it is done.
    pub fn acknowledge(mut self) {
        if let Some(Claim { delivered: Some(delivered), batch, .. }) = self.claim.take() {
            // Without records a batch is only ever acknowledged as a whole.
            delivered.acknowledge_all(batch.map_or(0, |batch| batch.len()));
        }
    }

    /// The batch could not be processed; it is delivered again as the failure policy says.
    pub fn fail(mut self, error: impl Into<BoxError>) {
        if let Some(claim) = self.claim.take() {
            claim.fail_all(error.into());
        }
    }

    /// One handle for each record, with the record.
    pub fn into_records(mut self) -> impl ExactSizeIterator<Item = (Record, RecordAcknowledgement)> {
        let claim = self.claim.take().map(Arc::new);
        let batch = claim.as_ref().and_then(|claim| claim.batch.clone());
        if let (Some(delivered), Some(batch)) =
            (claim.as_ref().and_then(|claim| claim.delivered.as_ref()), &batch)
        {
            delivered.split(batch);
        }
        let handle = move |index| RecordAcknowledgement { claim: claim.clone(), index };
        // Made before the first is used, so that an iterator that is dropped half-way drops them.
        let all: Vec<(Record, RecordAcknowledgement)> = batch
            .iter()
            .flat_map(|batch| batch.iter().cloned())
            .enumerate()
            .map(|(index, record)| (record, handle(index)))
            .collect();
        all.into_iter()
    }

    /// Lets go of the records, and so of their memory, where the application is done with them but has to store something
    /// before they may be acknowledged. Dropped or failed, they can only be read again: the work on the shard starts anew
    /// at the position that is acknowledged, with a new processor.
    pub fn without_records(mut self) -> Self {
        if let Some(claim) = &mut self.claim
            && claim.delivered.as_ref().is_none_or(|delivered| delivered.is_whole())
        {
            claim.batch = None;
        }
        self
    }

    /// Keeps a value until the batch is settled, or all its records are: a permit, for example.
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
        if let Some(delivered) = claim.as_ref().and_then(|claim| claim.delivered.as_ref()) {
            delivered.acknowledge(self.index);
        }
    }

    /// Nobody has begun with the record. At a stop it is left to the next owner, and the stop still counts as drained;
    /// otherwise it is delivered again, and that counts as no attempt.
    pub fn release(mut self) {
        if let Some(claim) = self.claim.take() {
            claim.fail(self.index, None);
        }
    }

    /// The record is done, or the last resort was taken with it.
    pub(crate) fn settle(self, given_up: Option<GivenUp>) {
        if let (Some(given_up), Some(delivered)) = (given_up, self.delivered()) {
            delivered.count(|progress| given_up.count(progress));
        }
        self.acknowledge();
    }

    /// An attempt failed, and whoever has the record tries again.
    pub(crate) fn note_failure(&self, error: &BoxError) {
        if let Some(delivered) = self.delivered() {
            delivered.count(|progress| {
                progress.failed_attempts += 1;
                progress.last_error = Some(error.to_string());
            });
        }
    }

    fn delivered(&self) -> Option<&Arc<Delivered>> {
        self.claim.as_ref().and_then(|claim| claim.delivered.as_ref())
    }

    /// The record could not be processed; it is delivered again as the failure policy says.
    pub fn fail(mut self, error: impl Into<BoxError>) {
        if let Some(claim) = self.claim.take() {
            claim.fail(self.index, Some(error.into()));
        }
    }
}

impl Claim {
    fn fail_all(&self, error: BoxError) {
        match (&self.delivered, &self.batch) {
            (Some(delivered), Some(batch)) => delivered.fail(batch, 0..batch.len(), Some(error)),
            (Some(delivered), None) => delivered.fail_without_records(error),
            (None, _) => {}
        }
    }

    fn fail(&self, index: usize, error: Option<BoxError>) {
        if let (Some(delivered), Some(batch)) = (&self.delivered, &self.batch) {
            delivered.fail(batch, std::iter::once(index), error);
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
