//! What was delivered, and how often: the ledger that shows whether anything was skipped.

use std::collections::HashMap;

use kinesis_streaming::prelude::{Record, SequenceNumber, ShardId};

use crate::WordTotals;

/// The identity of a record.
type RecordId = (ShardId, SequenceNumber, u64);

/// Counts each record's words once, however often it is delivered, and remembers the repeats.
#[derive(Debug, Default)]
pub struct DeliveryLog {
    deliveries: HashMap<RecordId, u32>,
    words: WordTotals,
}

/// The sums of a [`DeliveryLog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryTotals {
    /// Different records.
    pub records: usize,
    /// Records that were delivered exactly once.
    pub once: usize,
    /// Deliveries beyond the first of their record.
    pub again: u64,
}

impl DeliveryLog {
    /// Notes a delivery of a record. Returns whether it was the first.
    pub fn note(&mut self, shard_id: &ShardId, record: &Record) -> bool {
        let id = (shard_id.clone(), record.sequence_number.clone(), record.sub_sequence_number);
        let times = self.deliveries.entry(id).or_default();
        *times += 1;
        let is_first = *times == 1;
        if is_first {
            self.words.add_text(&String::from_utf8_lossy(&record.data));
        }
        is_first
    }

    /// The words of all different records.
    pub fn words(&self) -> &WordTotals {
        &self.words
    }

    /// The sums.
    pub fn totals(&self) -> DeliveryTotals {
        DeliveryTotals {
            records: self.deliveries.len(),
            once: self.deliveries.values().filter(|times| **times == 1).count(),
            again: self.deliveries.values().map(|times| u64::from(*times - 1)).sum(),
        }
    }
}
