//! Builds batches from records: a batch is closed by number, bytes or time, whichever comes first.

use std::collections::VecDeque;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use tokio::time::Instant;

use crate::record::Record;

/// When a batch is closed. Without any limit each read is one batch.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::time::Duration;
/// use shard_worker::BatchLimits;
///
/// // A batch is delivered when it has 500 records, or after a second.
/// let limits = BatchLimits::new(NonZeroUsize::new(500), None, Duration::from_secs(1));
/// assert_eq!(limits.max_wait, Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchLimits {
    /// The most records of a batch; sub-records count one by one.
    pub max_records: Option<NonZeroUsize>,
    /// The most payload bytes of a batch. A record that is larger alone makes a batch of its own.
    pub max_payload_bytes: Option<NonZeroU64>,
    /// How long a batch waits for more records after its first one; zero: it does not wait.
    pub max_wait: Duration,
}

impl BatchLimits {
    /// These limits; `None`: no limit of this kind.
    pub fn new(
        max_records: Option<NonZeroUsize>,
        max_payload_bytes: Option<NonZeroU64>,
        max_wait: Duration,
    ) -> Self {
        Self { max_records, max_payload_bytes, max_wait }
    }
}

impl BatchLimits {
    /// The smaller of each two limits.
    #[must_use]
    pub(crate) fn at_most(
        self,
        max_records: Option<NonZeroUsize>,
        max_payload_bytes: Option<NonZeroU64>,
    ) -> Self {
        fn tighter<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            [one, other].into_iter().flatten().min()
        }
        Self {
            max_records: tighter(self.max_records, max_records),
            max_payload_bytes: tighter(self.max_payload_bytes, max_payload_bytes),
            ..self
        }
    }
}

/// The records of a shard that were read and are in no batch yet: records and time in, batches out.
#[derive(Debug, Default)]
pub(crate) struct BatchBuffer {
    records: VecDeque<Record>,
    payload_bytes: u64,
    /// When the first of them was read.
    since: Option<Instant>,
}

/// The size of the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextBatch {
    pub(crate) records: usize,
    pub(crate) payload_bytes: u64,
}

impl BatchBuffer {
    pub(crate) fn add(&mut self, records: Vec<Record>, now: Instant) {
        if records.is_empty() {
            return;
        }
        self.payload_bytes += records.iter().map(|record| record.data.len() as u64).sum::<u64>();
        self.since.get_or_insert(now);
        // In the common case the buffer is empty and no record is moved.
        if self.records.is_empty() {
            self.records = records.into();
        } else {
            self.records.extend(records);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// When the wait for more records ends; `None`: the buffer is empty.
    pub(crate) fn due_at(&self, limits: BatchLimits) -> Option<Instant> {
        self.since.map(|since| since + limits.max_wait)
    }

    /// The next batch, if it is full or its wait is over; `is_last`: no more records will be added.
    pub(crate) fn next(&self, limits: BatchLimits, now: Instant, is_last: bool) -> Option<NextBatch> {
        let is_due = is_last || self.due_at(limits).is_some_and(|due_at| now >= due_at);
        let max_records = limits.max_records.map_or(usize::MAX, NonZeroUsize::get);
        let max_bytes = limits.max_payload_bytes.map_or(u64::MAX, NonZeroU64::get);
        if self.records.len() <= max_records && self.payload_bytes <= max_bytes {
            let is_full = self.records.len() == max_records || self.payload_bytes == max_bytes;
            let all = NextBatch { records: self.records.len(), payload_bytes: self.payload_bytes };
            return ((is_due || is_full) && !self.records.is_empty()).then_some(all);
        }
        let mut next = NextBatch { records: 0, payload_bytes: 0 };
        for record in self.records.iter().take(max_records) {
            let payload_bytes = next.payload_bytes + record.data.len() as u64;
            if next.records > 0 && payload_bytes > max_bytes {
                break;
            }
            next = NextBatch { records: next.records + 1, payload_bytes };
        }
        Some(next)
    }

    /// Removes the records of the next batch.
    pub(crate) fn take(&mut self, next: NextBatch) -> Vec<Record> {
        self.payload_bytes = self.payload_bytes.saturating_sub(next.payload_bytes);
        if next.records >= self.records.len() {
            self.since = None;
            return std::mem::take(&mut self.records).into();
        }
        self.records.drain(..next.records).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn record(number: usize, bytes: usize) -> Record {
        Record {
            sequence_number: (number as u128).into(),
            sub_sequence_number: 0,
            partition_key: None,
            data: Bytes::from(vec![0; bytes]),
            approximate_arrival: None,
        }
    }

    fn limits(max_records: usize, max_payload_bytes: u64, max_wait_millis: u64) -> BatchLimits {
        BatchLimits {
            max_records: NonZeroUsize::new(max_records),
            max_payload_bytes: NonZeroU64::new(max_payload_bytes),
            max_wait: Duration::from_millis(max_wait_millis),
        }
    }

    #[test]
    fn a_batch_closes_by_number_bytes_or_time_whichever_comes_first() {
        let now = Instant::now();
        let mut buffer = BatchBuffer::default();
        let limits = limits(3, 10, 100);
        buffer.add(vec![record(0, 2), record(1, 2)], now);
        assert_eq!(buffer.next(limits, now, false), None);
        assert_eq!(buffer.due_at(limits), Some(now + limits.max_wait));
        assert!(buffer.next(limits, now + limits.max_wait, false).is_some(), "by time");
        assert!(buffer.next(limits, now, true).is_some(), "no more records come");
        buffer.add(vec![record(2, 2)], now);
        assert_eq!(buffer.next(limits, now, false).map(|next| next.records), Some(3), "by number");
        buffer.add(vec![record(3, 2)], now);
        let first = buffer.next(limits, now, false).unwrap();
        assert_eq!(buffer.take(first).len(), 3);
        buffer.add(vec![record(4, 9), record(5, 50)], now);
        for (records, what) in [(1, "by bytes"), (1, "by bytes"), (1, "too large, alone")] {
            let next = buffer.next(limits, now, false).unwrap();
            assert_eq!(buffer.take(next).len(), records, "{what}");
        }
        assert!(buffer.is_empty());
    }

    proptest! {
        #[test]
        fn batches_hold_every_record_once_in_order_within_the_limits(
            reads in prop::collection::vec(prop::collection::vec(0..40usize, 0..30), 1..10),
            max_records in 0..12usize,
            max_payload_bytes in 0..100u64,
        ) {
            let (now, mut buffer) = (Instant::now(), BatchBuffer::default());
            let limits = limits(max_records, max_payload_bytes, 0);
            let (mut number, mut seen) = (0, Vec::new());
            for read in reads {
                let records: Vec<Record> = read.iter().enumerate().map(|(at, bytes)| record(number + at, *bytes)).collect();
                number += records.len();
                buffer.add(records, now);
                while let Some(next) = buffer.next(limits, now, false) {
                    let batch = buffer.take(next);
                    prop_assert_eq!(batch.len(), next.records);
                    prop_assert!(!batch.is_empty());
                    let bytes: u64 = batch.iter().map(|record| record.data.len() as u64).sum();
                    prop_assert_eq!(bytes, next.payload_bytes);
                    prop_assert!(max_records == 0 || batch.len() <= max_records);
                    prop_assert!(max_payload_bytes == 0 || batch.len() == 1 || bytes <= max_payload_bytes);
                    seen.extend(batch);
                }
                prop_assert!(buffer.is_empty());
            }
            let numbers: Vec<_> = seen.iter().map(|record| record.sequence_number.clone()).collect();
            prop_assert_eq!(numbers, (0..number).map(|number| (number as u128).into()).collect::<Vec<_>>());
        }
    }
}
