//! The fleet member.

use std::fmt;
use std::sync::Arc;

use fastrand::Rng;
use lease_store::{LeaseStore, WorkerId};
use shard_worker::{FailurePolicy, RateLimit, RecordProcessorFactory, StreamSource};
use tracing::Instrument as _;

use crate::builder::Retries;
use crate::handle::Shared;
use crate::member::Member;
use crate::{ReceiverBuilder, ReceiverError, ReceiverHandle, ReceiverSettings, ReceiverState, StopReport};

/// A member of the fleet that reads a stream: it holds a share of the shards and keeps each one working.
///
/// [`run`](Self::run) works until somebody calls [`ReceiverHandle::stop`]. Dropping the running future is a crash:
/// nothing is flushed or released, and others take over when the fail-over time has passed.
pub struct Receiver {
    pub(crate) settings: ReceiverSettings,
    pub(crate) worker_id: WorkerId,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) processors: Arc<dyn RecordProcessorFactory>,
    pub(crate) retries: Retries,
    pub(crate) failure_policy: FailurePolicy,
    pub(crate) rate_limit: RateLimit,
    pub(crate) rng: Rng,
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Receiver")
            .field("settings", &self.settings)
            .field("worker_id", &self.worker_id)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts to put a receiver together.
    pub fn builder() -> ReceiverBuilder {
        ReceiverBuilder::new()
    }

    /// A handle to steer and watch this receiver with.
    pub fn handle(&self) -> ReceiverHandle {
        ReceiverHandle::new(self.shared.clone())
    }

    /// The name of this fleet member.
    pub fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }

    /// Works until it is asked to stop, or a bounded run is over for it, and says what became of its shards.
    ///
    /// # Errors
    /// Only the start can fail: an unknown stream, missing credentials, a table of another layout. What fails later is
    /// retried, and seen in the status and the log.
    pub async fn run(self) -> Result<StopReport, ReceiverError> {
        let span = tracing::info_span!(
            "receiver",
            application = %self.settings.application,
            stream = %self.source.stream_name(),
            worker_id = %self.worker_id,
        );
        let shared = self.shared.clone();
        let report = Member::new(self).run().instrument(span).await;
        shared.live().state = ReceiverState::Stopped;
        report
    }
}
