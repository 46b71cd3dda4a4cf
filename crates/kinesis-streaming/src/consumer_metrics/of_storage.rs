//! The metrics of a storage buffer.

use storage_buffer::{StorageBuffer, StorageUsage};

use super::ConsumerMetrics;
use super::layers::Reading;
use super::list;
use super::samples::number;
use super::value::Value;

impl ConsumerMetrics {
    /// Adds the metrics of the buffer through which the consumer reads. A clone of it is the source of the consumer.
    #[must_use]
    pub fn with_storage(self, buffer: StorageBuffer) -> Self {
        self.with_layer(move || readings(&buffer.usage()))
    }
}

fn readings(usage: &StorageUsage) -> Vec<Reading> {
    let bytes =
        [("memory", usage.memory_bytes), ("local", usage.local_bytes), ("replica", usage.replica_bytes)];
    let blocks =
        [("memory", usage.from_memory), ("local", usage.from_local), ("replica", usage.from_replica)];
    let bytes = bytes
        .into_iter()
        .map(|(place, bytes)| Reading::new(&list::STORAGE_BYTES, &[place], Value::Gauge(number(bytes))));
    let blocks = blocks
        .into_iter()
        .map(|(place, blocks)| Reading::new(&list::STORAGE_BLOCKS, &[place], Value::Counter(blocks)));
    let counts = [
        Reading::count(&list::STORAGE_RECEIVED, usage.received_records),
        Reading::count(&list::STORAGE_BACKFILLS, usage.from_stream),
        Reading::count(&list::STORAGE_LOSSES, usage.losses),
        Reading::count(&list::STORAGE_FAILURES, usage.store_failures),
    ];
    bytes.chain(blocks).chain(counts).collect()
}
