//! Gives the metrics to the recorder that the application sets with the crate `metrics`.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Label, Unit};
use tokio::time::{MissedTickBehavior, interval};

use super::ConsumerMetrics;
use super::list::{METRICS, MetricKind};
use super::samples::Sample;
use super::value::Value;

/// Gives the metrics of one [`ConsumerMetrics`] to a recorder, again and again.
///
/// Counters are recorded as increases. A gauge whose value is no longer known, such as the lag of a shard that the worker does
/// not hold any more, becomes NaN once: an old lag is never taken for a new one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lease_store::BoxError> {
/// # use kinesis_streaming::prelude::*;
/// # use kinesis_streaming::{ConsumerMetrics, MetricsRecording};
/// # let consumer = Consumer::builder()
/// #     .application("word-count")
/// #     .source(InMemoryStream::new("words", std::num::NonZeroUsize::MIN))
/// #     .lease_store(InMemoryLeaseStore::new())
/// #     .processors(batch_handler(|_, _| async { Ok(()) }))
/// #     .build()?;
/// // Once, at the start: a recorder, such as that of metrics-exporter-prometheus or metrics-exporter-otel.
/// metrics::set_global_recorder(metrics::NoopRecorder).map_err(|error| error.to_string())?;
/// let metrics = ConsumerMetrics::new("word-count", consumer.handle());
/// tokio::spawn(MetricsRecording::new(metrics).every(std::time::Duration::from_secs(10)));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MetricsRecording {
    metrics: ConsumerMetrics,
    is_described: bool,
    /// The series of the newest recording, each with the number of its stream. At most as many as the process has shards, times the metrics of a shard.
    recorded: HashMap<Series, Recorded>,
}

/// A value, and the number of its stream.
type Recorded = (Value, u64);

/// The name of a metric with the stream and the values of its labels.
type Series = (&'static str, Option<String>, Vec<String>);

impl MetricsRecording {
    /// A recording of these metrics, which has not begun.
    pub fn new(metrics: ConsumerMetrics) -> Self {
        Self { metrics, is_described: false, recorded: HashMap::new() }
    }

    /// Records the present values.
    pub fn record(&mut self) {
        if !std::mem::replace(&mut self.is_described, true) {
            describe();
        }
        let samples = self.metrics.samples();
        let mut before = std::mem::take(&mut self.recorded);
        for sample in samples {
            let series = (sample.metric.name, sample.stream.clone(), sample.labels.clone());
            let labels = self.labels(&sample);
            match sample.value {
                Value::Gauge(value) => metrics::gauge!(sample.metric.name, labels).set(value),
                Value::Counter(count) => {
                    let before = before.get(&series).filter(|(_, number)| *number == sample.number);
                    let increase = increase(before.map(|(value, _)| value), count);
                    metrics::counter!(sample.metric.name, labels).increment(increase);
                }
            }
            before.remove(&series);
            self.recorded.insert(series, (sample.value, sample.number));
        }
        for ((name, stream, labels), (value, number)) in before {
            if let (Value::Gauge(_), Some(metric)) =
                (value, METRICS.iter().find(|metric| metric.name == name))
            {
                let sample = Sample { metric, stream, number, labels, value };
                metrics::gauge!(name, self.labels(&sample)).set(f64::NAN);
            }
        }
    }

    /// Records at this interval, until the consumer has ended; the last recording has its final counts.
    pub async fn every(mut self, period: Duration) {
        let mut ticks = interval(period.max(MIN_PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let source = self.metrics.source().clone();
        let mut ended = std::pin::pin!(source.stopped());
        loop {
            tokio::select! {
                _ = ticks.tick() => self.record(),
                _ = &mut ended => break,
            }
        }
        self.record();
    }

    fn labels(&self, sample: &Sample) -> Vec<Label> {
        let application = ("application", self.metrics.application.as_str());
        let labels = std::iter::once(application).chain(sample.labels());
        labels.map(|(name, value)| Label::new(name, value.to_owned())).collect()
    }
}

/// The shortest time between two recordings.
const MIN_PERIOD: Duration = Duration::from_millis(100);

/// How much a counter rose since the newest recording. A smaller count than that has begun again at 0.
fn increase(before: Option<&Value>, count: u64) -> u64 {
    match before {
        Some(Value::Counter(before)) => count.checked_sub(*before).unwrap_or(count),
        _ => count,
    }
}

fn describe() {
    for metric in METRICS {
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.meaning),
            MetricKind::Counter => metrics::describe_counter!(metric.name, unit, metric.meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increases_survive_a_count_that_begins_again() {
        assert_eq!(increase(None, 5), 5);
        assert_eq!(increase(Some(&Value::Counter(3)), 5), 2);
        assert_eq!(increase(Some(&Value::Counter(9)), 5), 5, "the lease was taken again");
    }
}
