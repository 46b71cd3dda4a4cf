//! The text format of Prometheus. Pure but for the reading of the status.

use std::fmt::Write as _;

use super::ConsumerMetrics;
use super::list::{Metric, MetricKind};
use super::samples::Sample;
use super::value::Value;

impl ConsumerMetrics {
    /// The present values in the text format of Prometheus. A value that is not known is absent.
    pub fn exposition(&self) -> String {
        text(&self.application, &self.samples())
    }
}

/// The samples as text; they are grouped by metric, as the format wants.
fn text(application: &str, samples: &[Sample]) -> String {
    let application = escaped(application);
    let (mut text, mut headed) = (String::new(), None::<&Metric>);
    // Writing to a string cannot fail.
    for sample @ Sample { metric, value, .. } in samples {
        if headed.is_none_or(|headed| headed.name != metric.name) {
            headed = Some(metric);
            let kind = if metric.kind == MetricKind::Counter { "counter" } else { "gauge" };
            let _ =
                writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.meaning, metric.name);
        }
        let _ = write!(text, "{}{{application=\"{application}\"", metric.name);
        for (label, value) in sample.labels() {
            let _ = write!(text, ",{label}=\"{}\"", escaped(value));
        }
        let _ = match value {
            Value::Gauge(value) => writeln!(text, "}} {value}"),
            Value::Counter(value) => writeln!(text, "}} {value}"),
        };
    }
    text
}

/// A label value in the text format.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::list::{LEASES, SHARD_RECORDS};
    use super::*;

    #[test]
    fn text_has_one_head_for_each_metric_and_escaped_labels() {
        let sample = |metric, labels: &[&str], value| Sample {
            metric,
            stream: None,
            number: 0,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            value,
        };
        let samples = [
            sample(&LEASES, &["w-0"], Value::Gauge(2.0)),
            sample(&LEASES, &["w-1"], Value::Gauge(0.0)),
            sample(&SHARD_RECORDS, &["w-0", "shardId-1"], Value::Counter(7)),
            Sample {
                stream: Some("or\"ders".to_owned()),
                ..sample(&SHARD_RECORDS, &["w-0", "shardId-1"], Value::Counter(8))
            },
        ];
        let expected = "# HELP kinesis_consumer_leases Number of leases that the worker holds\n\
            # TYPE kinesis_consumer_leases gauge\n\
            kinesis_consumer_leases{application=\"a\\\"b\\\\c\\nd\",worker=\"w-0\"} 2\n\
            kinesis_consumer_leases{application=\"a\\\"b\\\\c\\nd\",worker=\"w-1\"} 0\n\
            # HELP kinesis_consumer_shard_acknowledged_records_total Records of the shard acknowledged under this lease\n\
            # TYPE kinesis_consumer_shard_acknowledged_records_total counter\n\
            kinesis_consumer_shard_acknowledged_records_total{application=\"a\\\"b\\\\c\\nd\",worker=\"w-0\",shard=\"shardId-1\"} 7\n\
            kinesis_consumer_shard_acknowledged_records_total{application=\"a\\\"b\\\\c\\nd\",worker=\"w-0\",stream=\"or\\\"ders\",shard=\"shardId-1\"} 8\n";
        assert_eq!(text("a\"b\\c\nd", &samples), expected);
    }
}
