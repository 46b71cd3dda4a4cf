//! Replaces the fan-out readers in builds without the feature `fan-out`, which contain no AWS crate. The scenario
//! `fan-out` is not available then.

use shard_worker::StreamSource;

use crate::event::Process;
use crate::kinesis::Kinesis;
use crate::kinesis_client::KinesisClient;
use crate::network::Link;
use crate::plan::Plan;

/// A placeholder without state of its own.
#[derive(Debug, Clone)]
pub struct Service {
    kinesis: Kinesis,
}

impl Service {
    /// Creates the placeholder.
    pub fn new(kinesis: &Kinesis, _plan: &Plan) -> Self {
        Self { kinesis: kinesis.clone() }
    }

    /// Returns the simulated polling source.
    pub fn stream(&self, plan: &Plan, link: &Link, process: Process) -> impl StreamSource {
        KinesisClient { kinesis: self.kinesis.clone(), link: link.clone(), process, defect: plan.defect }
    }

    /// Does nothing.
    pub fn deregister(&self) {}
}
