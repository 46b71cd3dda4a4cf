//! Builds the consumers of single streams for one worker, at its start and later.

use std::sync::Arc;

use shard_worker::RecordProcessorFactory;

use crate::builder::{StreamParts, WorkerParts};
use crate::receiver::Consumer;
use crate::settings::ConsumerSettings;
use crate::streams::config::StreamConfig;
use crate::streams::seat::{Seat, StreamStore};
use crate::streams::table::SharedTable;

/// What all streams of a worker share.
pub(crate) struct StreamFactory {
    pub(super) worker: WorkerParts,
    pub(super) common: ConsumerSettings,
    pub(super) processors: Option<Arc<dyn RecordProcessorFactory>>,
    pub(super) table: Arc<SharedTable>,
}

impl StreamFactory {
    /// The faults of a stream, one line each.
    pub(super) fn faults(&self, config: &StreamConfig) -> Vec<String> {
        config.faults(&self.common, self.processors.as_ref())
    }

    /// The consumer of a stream, and its leases. `None` without record processors.
    pub(super) fn consumer(&mut self, config: &StreamConfig) -> Option<(Consumer, Arc<StreamStore>)> {
        let processors = config.processors_or(self.processors.as_ref())?;
        let seat = Seat::new(&self.table);
        let (leases, rng) = (seat.leases(), self.worker.rng.fork());
        let store = leases.clone();
        let parts = StreamParts { source: config.source(), store, processors, rng, seat: Some(seat) };
        Some((self.worker.consumer(config.settings(&self.common), parts), leases))
    }
}
