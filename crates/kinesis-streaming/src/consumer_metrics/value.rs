//! The value of a metric.

/// The value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Gauge(f64),
    /// The whole count, which may begin again at 0 when a lease is taken again.
    Counter(u64),
}
