//! Readings of layers that know no consumer: the stream, the state and the storage buffer. They are read when they are asked for.
#![cfg_attr(
    not(any(feature = "storage", feature = "kinesis-asl")),
    allow(dead_code) // the state alone has no count without labels
)]

use std::sync::Arc;

use super::ConsumerMetrics;
use super::list::Metric;
use super::value::Value;

/// The value of a metric of a layer, without the label `worker`.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) metric: &'static Metric,
    /// The values of the labels of the metric.
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

impl Reading {
    pub(super) fn new(metric: &'static Metric, labels: &[&str], value: Value) -> Self {
        Self { metric, labels: labels.iter().map(|&label| label.to_owned()).collect(), value }
    }

    /// A metric without labels of its own.
    pub(super) fn count(metric: &'static Metric, count: u64) -> Self {
        Self::new(metric, &[], Value::Counter(count))
    }
}

impl ConsumerMetrics {
    /// Adds the readings of a layer.
    pub(super) fn with_layer(mut self, readings: impl Fn() -> Vec<Reading> + Send + Sync + 'static) -> Self {
        self.layers.push(Arc::new(readings));
        self
    }
}
