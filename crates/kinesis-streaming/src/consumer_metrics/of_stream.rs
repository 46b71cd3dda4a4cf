//! The metrics of the calls to a Kinesis stream.

use kinesis_asl::{FanOutStatus, KinesisStream, ReadCounts};

use super::ConsumerMetrics;
use super::layers::Reading;
use super::list;
use super::samples::count;
use super::value::Value;

impl ConsumerMetrics {
    /// Adds the metrics of the calls to the stream. A clone of it is the source of the consumer.
    #[must_use]
    pub fn with_stream(self, stream: KinesisStream) -> Self {
        self.with_layer(move || {
            let mut readings = of_reads(&stream.read_counts());
            readings.extend(stream.fan_out_status().iter().flat_map(of_fan_out));
            readings
        })
    }
}

fn of_reads(counts: &ReadCounts) -> Vec<Reading> {
    vec![
        Reading::count(&list::STREAM_READS, counts.reads),
        Reading::count(&list::STREAM_THROTTLED_READS, counts.throttled),
        Reading::count(&list::STREAM_TIMED_OUT_READS, counts.timed_out),
        Reading::count(&list::STREAM_FAILED_READS, counts.failed),
    ]
}

fn of_fan_out(status: &FanOutStatus) -> [Reading; 4] {
    let shards = |by: &str, shards| Reading::new(&list::FAN_OUT_SHARDS, &[by], Value::Gauge(count(shards)));
    [
        shards("subscription", status.subscribed_shards),
        shards("polling", status.polled_shards),
        Reading::count(&list::FAN_OUT_SUBSCRIPTIONS, status.sessions),
        Reading::count(&list::FAN_OUT_FAILURES, status.failed_sessions),
    ]
}
