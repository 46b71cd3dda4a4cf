//! Records, and batches of them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use lease_store::{Position, SequenceNumber};

/// One record, as the application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The number that Kinesis gave it; it only grows within a shard and its descendants.
    pub sequence_number: SequenceNumber,
    /// Its place inside an aggregated record, 0 for a plain one.
    pub sub_sequence_number: u64,
    /// The producer's partition key. Streams that distribute records by themselves have none.
    pub partition_key: Option<ByteString>,
    /// The payload: a shared slice, never copied on its way to the application.
    pub data: Bytes,
    /// When the stream received it, to the millisecond, by the service's clock.
    pub approximate_arrival: Option<SystemTime>,
}

impl Record {
    /// The position after this record.
    pub fn position(&self) -> Position {
        Position::after(self.sequence_number.clone(), self.sub_sequence_number)
    }
}

/// Records of one shard, in order, at least one. Cloning shares them.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    records: Arc<[Record]>,
    millis_behind_latest: Option<u64>,
}

impl RecordBatch {
    /// A batch, or `None` when there are no records.
    pub fn new(records: Vec<Record>, millis_behind_latest: Option<u64>) -> Option<Self> {
        (!records.is_empty()).then(|| Self { records: records.into(), millis_behind_latest })
    }

    /// The records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How far the batch lies behind the tip of the shard, in milliseconds; `None` when the source does not say.
    pub fn millis_behind_latest(&self) -> Option<u64> {
        self.millis_behind_latest
    }

    /// The position after the last record.
    pub fn last_position(&self) -> Position {
        // A batch holds at least one record; see `new`.
        self.records.last().map_or(Position::TrimHorizon, Record::position)
    }

    /// The size of all payloads, in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.data.len() as u64).sum()
    }
}

impl Deref for RecordBatch {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.records
    }
}

impl<'a> IntoIterator for &'a RecordBatch {
    type Item = &'a Record;
    type IntoIter = std::slice::Iter<'a, Record>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}
