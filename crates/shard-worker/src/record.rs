//! Records, and batches of them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use lease_store::{Position, RecordPosition, SequenceNumber, ShardId};

use crate::ByteReservation;
use crate::acknowledgement::Delivered;

/// What the allocator and the sharing of buffers cost a record beside its bytes, about: two shared buffers (sequence
/// number and key) of some tens of bytes each.
const BOOKKEEPING_BYTES: u64 = 96;

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

    /// What tells it from every other record.
    pub fn id(&self, stream: &str, shard_id: &ShardId) -> RecordId {
        RecordId {
            stream: stream.to_owned(),
            shard_id: shard_id.clone(),
            place: RecordPosition {
                sequence_number: self.sequence_number.clone(),
                sub_sequence_number: self.sub_sequence_number,
            },
        }
    }

    /// What it takes in memory, in bytes: payload, key, sequence number, and the record itself.
    pub fn memory_bytes(&self) -> u64 {
        let key = self.partition_key.as_ref().map_or(0, |key| key.len());
        let text = self.data.len() + key + self.sequence_number.as_str().len();
        (text + size_of::<Self>()) as u64 + BOOKKEEPING_BYTES
    }
}

/// What tells a record from every other one: the same whoever reads it and however often, so that an application can tell
/// what it has seen. As text: `stream/shard/sequence number/sub-sequence number`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The name of the stream.
    pub stream: String,
    /// The shard that the record was put into.
    pub shard_id: ShardId,
    /// Its place in the shard.
    pub place: RecordPosition,
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordId { stream, shard_id, place } = self;
        write!(formatter, "{stream}/{shard_id}/{}/{}", place.sequence_number, place.sub_sequence_number)
    }
}

/// Records of one shard, in order, at least one. Cloning shares them, and the memory that they take counts against the
/// byte budget until the last clone is dropped: an application that keeps batches keeps reads from beginning.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    /// A vector as it was filled: a slice would mean to move every record once more.
    records: Arc<Vec<Record>>,
    millis_behind_latest: Option<u64>,
    /// What it counts for in memory, in bytes.
    bytes: u64,
    /// Given back with the last clone; shared with other batches that came out of the same read.
    _memory: Option<Arc<[Arc<ByteReservation>]>>,
    /// `None`: made by hand.
    delivered: Option<Arc<Delivered>>,
}

impl RecordBatch {
    /// A batch, or `None` when there are no records.
    pub fn new(records: Vec<Record>, millis_behind_latest: Option<u64>) -> Option<Self> {
        (!records.is_empty()).then(|| Self {
            bytes: records.iter().map(Record::memory_bytes).sum(),
            records: Arc::new(records),
            millis_behind_latest,
            _memory: None,
            delivered: None,
        })
    }

    /// Some of its records, which answer for its memory together with it.
    pub(crate) fn part(&self, records: Vec<Record>) -> Option<Self> {
        (!records.is_empty()).then(|| Self {
            bytes: records.iter().map(Record::memory_bytes).sum(),
            records: Arc::new(records),
            delivered: None,
            ..self.clone()
        })
    }

    /// The same batch, as it is delivered once.
    pub(crate) fn delivered_as(self, delivered: Delivered) -> Self {
        Self { delivered: Some(Arc::new(delivered)), ..self }
    }

    pub(crate) fn delivered(&self) -> Option<&Arc<Delivered>> {
        self.delivered.as_ref()
    }

    /// The same batch, which now answers for the memory set aside for it.
    pub(crate) fn holding(self, memory: Vec<Arc<ByteReservation>>) -> Self {
        Self { _memory: (!memory.is_empty()).then(|| memory.into()), ..self }
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

    /// What the batch counts for in memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes
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
