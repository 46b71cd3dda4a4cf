//! The metrics of the consumers of a process: one list, with two ways out.
//!
//! Both read the status of the consumers when they are asked. There is no call in the pipeline, so records cost nothing more
//! with metrics than without.

#[cfg(feature = "http")]
mod exposition;
mod layers;
mod list;
#[cfg(feature = "state")]
mod of_state;
#[cfg(feature = "storage")]
mod of_storage;
#[cfg(feature = "kinesis-asl")]
mod of_stream;
#[cfg(feature = "metrics")]
mod recording;
pub(crate) mod samples;
mod value;

use std::fmt;
use std::sync::Arc;

use lease_store::StoreCalls;

use crate::observed::MetricsSource;

use layers::Reading;

pub use list::{METRICS, Metric, MetricKind};
#[cfg(feature = "metrics")]
pub use recording::MetricsRecording;

/// The metrics of one consumer, of a group, or of a consumer of several streams; [`METRICS`] lists them, and `docs/metrics.md`
/// explains them. With several streams, those of a stream have the label `stream` too.
///
/// With the feature `metrics`, `MetricsRecording` gives them to the recorder that the application sets with the crate `metrics`:
/// for Prometheus, OpenTelemetry, StatsD and others. With the feature `http`, `exposition` returns them in the text
/// format of Prometheus.
#[derive(Clone)]
pub struct ConsumerMetrics {
    application: String,
    source: MetricsSource,
    calls: Option<Arc<dyn Fn() -> StoreCalls + Send + Sync>>,
    /// The readings of the layers that are no part of a consumer's status.
    layers: Vec<Arc<dyn Fn() -> Vec<Reading> + Send + Sync>>,
}

impl fmt::Debug for ConsumerMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConsumerMetrics")
            .field("application", &self.application)
            .finish_non_exhaustive()
    }
}

impl ConsumerMetrics {
    /// The metrics of the consumers of this handle. The name of the application becomes a label.
    pub fn new(application: impl Into<String>, source: impl Into<MetricsSource>) -> Self {
        Self { application: application.into(), source: source.into(), calls: None, layers: Vec::new() }
    }

    /// Adds the calls to the lease table, as a [`CountingLeaseStore`](lease_store::CountingLeaseStore) counts them.
    #[must_use]
    pub fn with_lease_calls(mut self, calls: impl Fn() -> StoreCalls + Send + Sync + 'static) -> Self {
        self.calls = Some(Arc::new(calls));
        self
    }

    /// The consumers whose metrics these are.
    pub(crate) fn source(&self) -> &MetricsSource {
        &self.source
    }

    /// The present values.
    fn samples(&self) -> Vec<samples::Sample> {
        let readings = self.layers.iter().flat_map(|layer| layer()).collect();
        samples::samples(&self.source.observe(), self.calls.as_ref().map(|calls| calls()), readings)
    }
}
