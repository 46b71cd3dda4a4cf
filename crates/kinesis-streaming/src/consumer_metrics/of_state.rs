//! The metrics of an application's own state.

use processor_state::{ShardStateStatus, StateLogic, StatefulProcessors};

use super::ConsumerMetrics;
use super::layers::Reading;
use super::list;
use super::samples::{count, number};
use super::value::Value;

impl ConsumerMetrics {
    /// Adds the metrics of the state. A clone of these processors is that of the consumer.
    #[must_use]
    pub fn with_state<L: StateLogic>(self, processors: StatefulProcessors<L>) -> Self {
        self.with_layer(move || processors.status().iter().flat_map(readings).collect())
    }
}

fn readings(status: &ShardStateStatus) -> [Reading; 5] {
    let labels = [status.shard_id.as_str()];
    let gauge = |metric, value| Reading::new(metric, &labels, Value::Gauge(value));
    [
        gauge(&list::KEYED_STATE_KEYS, count(status.keys)),
        gauge(&list::KEYED_STATE_UNSTORED, number(status.records_in_no_snapshot)),
        gauge(&list::KEYED_STATE_SNAPSHOT_BYTES, count(status.snapshot_bytes)),
        gauge(&list::KEYED_STATE_FAILING, f64::from(u8::from(status.last_error.is_some()))),
        Reading::new(&list::KEYED_STATE_SNAPSHOTS, &labels, Value::Counter(status.snapshots_written)),
    ]
}
