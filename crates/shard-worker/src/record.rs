//! One record, and its id.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use lease_store::{Position, RecordPosition, SequenceNumber, ShardId};

/// About the overhead of a record in the allocator: two shared buffers (sequence number and key) of some tens of bytes
/// each.
const BOOKKEEPING_BYTES: u64 = 96;

/// One record, as the application sees it.
///
/// ```
/// use shard_worker::Record;
///
/// let record = Record::new(7_u128.into(), r#"{"amount":12}"#.into()).with_partition_key(Some("customer-1".into()));
/// let order: serde_json::Value = record.json()?;
/// assert_eq!(order["amount"], 12);
/// # Ok::<(), shard_worker::DecodeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The number that Kinesis assigned; it only grows within a shard and its descendants.
    pub sequence_number: SequenceNumber,
    /// Its index inside an aggregated record, 0 for a plain one.
    pub sub_sequence_number: u64,
    /// The producer's partition key. `None`: the stream distributes records by itself.
    pub partition_key: Option<ByteString>,
    /// The payload: a slice of the buffer it was received in, never copied.
    pub data: Bytes,
    /// When the stream received it, to the millisecond, by the clock of the service.
    pub approximate_arrival: Option<SystemTime>,
}

impl Record {
    /// A plain record without a key and an arrival, for sources and tests.
    pub fn new(sequence_number: SequenceNumber, data: Bytes) -> Self {
        Self { sequence_number, sub_sequence_number: 0, partition_key: None, data, approximate_arrival: None }
    }

    /// The same record with this index inside an aggregate.
    #[must_use]
    pub fn with_sub_sequence_number(self, sub_sequence_number: u64) -> Self {
        Self { sub_sequence_number, ..self }
    }

    /// The same record with this partition key.
    #[must_use]
    pub fn with_partition_key(self, partition_key: Option<ByteString>) -> Self {
        Self { partition_key, ..self }
    }

    /// The same record, received at this time.
    #[must_use]
    pub fn with_arrival(self, approximate_arrival: Option<SystemTime>) -> Self {
        Self { approximate_arrival, ..self }
    }

    /// The position after this record.
    pub fn position(&self) -> Position {
        Position::after(self.sequence_number.clone(), self.sub_sequence_number)
    }

    /// The id of the record, which no other record has.
    pub fn id(&self, stream: &str, shard_id: &ShardId) -> RecordId {
        RecordId {
            stream: stream.to_owned(),
            shard_id: shard_id.clone(),
            position: RecordPosition {
                sequence_number: self.sequence_number.clone(),
                sub_sequence_number: self.sub_sequence_number,
            },
        }
    }

    /// Its memory, in bytes: payload, key, sequence number, and the record itself.
    pub fn memory_bytes(&self) -> u64 {
        let key = self.partition_key.as_ref().map_or(0, |key| key.len());
        let text = self.data.len() + key + self.sequence_number.as_str().len();
        (text + size_of::<Self>()) as u64 + BOOKKEEPING_BYTES
    }
}

/// The id of a record, the same in every delivery and on every worker, so that an application can recognise repeats. As
/// text: `stream/shard/sequence number/sub-sequence number`.
///
/// ```
/// use std::collections::BTreeSet;
/// use shard_worker::Record;
///
/// // A record that is delivered again has the same id.
/// let (shard_id, mut handled) = ("shardId-000000000000".parse()?, BTreeSet::new());
/// for record in [Record::new(7_u128.into(), "a".into()), Record::new(7_u128.into(), "a".into())] {
///     handled.insert(record.id("orders", &shard_id));
/// }
/// assert_eq!(handled.len(), 1);
/// # Ok::<(), shard_worker::BoxError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct RecordId {
    /// The name of the stream.
    pub stream: String,
    /// The shard that the record was put into.
    pub shard_id: ShardId,
    /// Its position in the shard.
    pub position: RecordPosition,
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordId { stream, shard_id, position } = self;
        write!(formatter, "{stream}/{shard_id}/{}/{}", position.sequence_number, position.sub_sequence_number)
    }
}
