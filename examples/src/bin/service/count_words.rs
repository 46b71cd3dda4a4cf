//! The work of the service: it counts words. Replace it by your own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kinesis_streaming::prelude::*;

/// A processor that counts the words of each batch. A record that is no text is counted as none.
pub(crate) fn handler() -> impl RecordProcessorFactory {
    let words = Arc::new(AtomicU64::new(0));
    batch_handler(move |shard: ShardContext, batch: RecordBatch| async move {
        let in_record =
            |record: &Record| String::from_utf8_lossy(&record.data).split_whitespace().count() as u64;
        let counted: u64 = batch.records().iter().map(in_record).sum();
        let total = words.fetch_add(counted, Ordering::Relaxed) + counted;
        tracing::info!(shard_id = %shard.shard_id, records = batch.len(), words = counted, total, "batch processed");
        Ok(()) // this acknowledges the batch: a checkpoint may pass it
    })
}
