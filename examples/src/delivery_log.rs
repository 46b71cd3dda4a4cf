//! Which records were delivered, and how often: shows whether a record was skipped.

use std::collections::HashMap;

use kinesis_streaming::prelude::{Record, SequenceNumber, ShardId};

use crate::word_totals::WordTotals;

/// The position of a record in its shard.
type RecordPosition = (SequenceNumber, u64);

/// Counts each record's words once, however often it is delivered, and counts the repeats.
#[derive(Debug, Default)]
pub struct DeliveryLog {
    deliveries: HashMap<ShardId, HashMap<RecordPosition, u32>>,
    words: WordTotals,
    totals: DeliveryTotals,
}

/// The sums of a [`DeliveryLog`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryTotals {
    /// Different records.
    pub records: usize,
    /// Records that were delivered exactly once.
    pub once: usize,
    /// Deliveries after the first one of their record.
    pub again: u64,
}

impl DeliveryLog {
    /// Records the delivery of records of one shard.
    pub fn record<'a>(&mut self, shard_id: &ShardId, records: impl IntoIterator<Item = &'a Record>) {
        if !self.deliveries.contains_key(shard_id) {
            self.deliveries.insert(shard_id.clone(), HashMap::new());
        }
        let Some(shard) = self.deliveries.get_mut(shard_id) else { return };
        for record in records {
            let times =
                shard.entry((record.sequence_number.clone(), record.sub_sequence_number)).or_default();
            *times += 1;
            match *times {
                1 => {
                    self.totals.records += 1;
                    self.totals.once += 1;
                    self.words.add_text(&String::from_utf8_lossy(&record.data));
                }
                2 => {
                    self.totals.once -= 1;
                    self.totals.again += 1;
                }
                _ => self.totals.again += 1,
            }
        }
    }

    /// The words of all different records.
    pub fn words(&self) -> &WordTotals {
        &self.words
    }

    /// The sums.
    pub fn totals(&self) -> DeliveryTotals {
        self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_once_and_repeats_are_counted() {
        let record = |number: u128| Record::new(number.into(), "one two".into());
        let [left, right] = ["left", "right"].map(|id| ShardId::new(id).unwrap());
        let mut log = DeliveryLog::default();
        log.record(&left, &[record(1), record(2)]);
        log.record(&right, &[record(1)]);
        log.record(&left, &[record(1)]);
        log.record(&left, &[record(1)]);
        assert_eq!(log.totals(), DeliveryTotals { records: 3, once: 2, again: 2 });
        assert_eq!((log.words().words(), log.words().count("one")), (6, 3));
    }
}
