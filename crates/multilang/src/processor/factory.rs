//! Creates the processors of all shards.

use std::fmt;
use std::sync::Arc;

use lease_store::BoxError;
use shard_worker::{RecordProcessor, RecordProcessorFactory, ShardContext};

use super::child_processor::ChildProcessor;
use super::shared::{ChildFailure, ChildProcessorOptions, Shared};
use crate::child::launch::ChildLauncher;
use crate::child::output::ChildOutput;

/// A factory of processors that are children.
#[derive(Clone)]
pub struct ChildProcessors {
    shared: Arc<Shared>,
}

impl ChildProcessors {
    /// A factory that starts children with `launcher`, passes their output to `sink`, and reports each failure.
    pub fn new(
        launcher: Arc<dyn ChildLauncher>,
        sink: Arc<dyn ChildOutput>,
        options: ChildProcessorOptions,
        on_failure: impl Fn(ChildFailure) + Send + Sync + 'static,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(launcher, sink, options, Box::new(on_failure))) }
    }
}

impl fmt::Debug for ChildProcessors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { launcher, options, .. } = &*self.shared;
        formatter
            .debug_struct("ChildProcessors")
            .field("launcher", launcher)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl RecordProcessorFactory for ChildProcessors {
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        Ok(Box::new(ChildProcessor::new(context, self.shared.clone())))
    }
}
