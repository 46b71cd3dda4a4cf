//! What stands for the fan-out readers where the feature `fan-out` is off: nothing of AWS is in the tree then, and the
//! scenario that needs it is not offered.

use shard_worker::StreamSource;

use crate::event::Process;
use crate::kinesis::Kinesis;
use crate::kinesis_client::KinesisClient;
use crate::network::Link;
use crate::plan::Plan;

/// Whether the scenario `fan-out` can be run.
pub const IS_AVAILABLE: bool = false;

/// Nothing.
#[derive(Debug, Clone)]
pub struct Service {
    kinesis: Kinesis,
}

impl Service {
    /// Nothing to set up.
    pub fn new(kinesis: &Kinesis, _plan: &Plan) -> Self {
        Self { kinesis: kinesis.clone() }
    }

    /// The simulated polling.
    pub fn stream(&self, plan: &Plan, link: &Link, process: Process) -> impl StreamSource {
        KinesisClient { kinesis: self.kinesis.clone(), link: link.clone(), process, planted: plan.planted }
    }

    /// Nothing to remove.
    pub fn deregister(&self) {}
}
