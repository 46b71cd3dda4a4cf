//! Records in, an aggregate out: for producers, and for tests.

use std::collections::HashMap;

use bytes::Bytes;
use bytestring::ByteString;
use lease_store::HashKey;
use md5::{Digest as _, Md5};

use super::aggregate::{
    DATA, DIGEST_BYTES, EXPLICIT_HASH_KEY_INDEX, EXPLICIT_HASH_KEY_TABLE, MAGIC, PARTITION_KEY_INDEX,
    PARTITION_KEY_TABLE, RECORDS,
};
use super::hash_filter::hash_key_of;
use super::wire::{field_bytes, varint_bytes, write_bytes, write_integer, write_length};
use crate::error::{SourceError, SourceErrorKind};

/// Magic number and digest.
const FRAME_BYTES: usize = MAGIC.len() + DIGEST_BYTES;

/// Aggregates records in the format of the Kinesis Producer Library (KPL), which the KCL and
/// [`deaggregate`](crate::deaggregate) read. Keys that records share are stored once.
///
/// An aggregate goes to one shard as a whole, and a consumer drops the records in it whose own hash keys belong to another
/// shard. A producer has two ways to avoid a loss:
///
/// - It aggregates by shard, compares the shard in Kinesis's answer with the expected one, and sends the records of another
///   shard again. The KPL does this.
/// - It gives all records of an aggregate the same explicit hash key. This needs no knowledge of the shards and is valid
///   after every split, but the records of one partition key are spread over the shards.
///
/// ```
/// use shard_worker::{Aggregator, hash_key_of};
///
/// # fn main() -> Result<(), shard_worker::SourceError> {
/// let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
/// let together = hash_key_of("clicks of 12:03");
/// for user in ["user-17", "user-4", "user-17"] {
///     let full = aggregator.add(user, Some(together), b"a click")?;
///     assert!(full.is_none());
/// }
/// let aggregate = aggregator.finish().unwrap();
/// assert_eq!((aggregate.record_count, aggregate.hash_key), (3, together));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Aggregator {
    max_bytes: usize,
    first: Option<(ByteString, HashKey)>,
    partition_keys: KeyTable,
    explicit_hash_keys: KeyTable,
    records: Vec<u8>,
    record_count: u64,
}

/// A finished aggregate, ready to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AggregatedRecord {
    /// The partition key to put it with: that of its first record.
    pub partition_key: ByteString,
    /// The explicit hash key to put it with: that of its first record, or else the hash key of its partition key.
    pub hash_key: HashKey,
    /// The payload.
    pub data: Bytes,
    /// How many records it holds.
    pub record_count: u64,
}

impl Aggregator {
    /// The largest record that every Kinesis stream accepts, payload and partition key together: 1 MiB.
    pub const DEFAULT_MAX_BYTES: usize = 1024 * 1024;

    /// An empty aggregator. Each aggregate has at most `max_bytes`, counted as Kinesis counts a record: payload and
    /// partition key.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            first: None,
            partition_keys: KeyTable::new(PARTITION_KEY_TABLE),
            explicit_hash_keys: KeyTable::new(EXPLICIT_HASH_KEY_TABLE),
            records: Vec::new(),
            record_count: 0,
        }
    }

    /// Adds a record. If it does not fit, the current aggregate is finished and returned, and the record is the first of
    /// the next one.
    ///
    /// # Errors
    /// `Invalid` when the record alone is larger than an aggregate may be; then nothing is added.
    pub fn add(
        &mut self,
        partition_key: impl Into<ByteString>,
        explicit_hash_key: Option<HashKey>,
        data: &[u8],
    ) -> Result<Option<AggregatedRecord>, SourceError> {
        let partition_key = partition_key.into();
        let hash_key_text = explicit_hash_key.map(|hash_key| ByteString::from(hash_key.to_string()));
        let alone = FRAME_BYTES
            + partition_key.len()
            + field_bytes(partition_key.len())
            + hash_key_text.as_ref().map_or(0, |text| field_bytes(text.len()))
            + field_bytes(record_bytes(0, hash_key_text.as_ref().map(|_| 0), data));
        if alone > self.max_bytes {
            return Err(SourceError::new(
                SourceErrorKind::Invalid,
                format!(
                    "a record makes an aggregate of {alone} bytes; at most {} are allowed",
                    self.max_bytes
                ),
            ));
        }
        let more = self.partition_keys.bytes_for(&partition_key)
            + hash_key_text.as_ref().map_or(0, |text| self.explicit_hash_keys.bytes_for(text))
            + field_bytes(record_bytes(
                self.partition_keys.index_for(&partition_key),
                hash_key_text.as_ref().map(|text| self.explicit_hash_keys.index_for(text)),
                data,
            ));
        let full = if self.bytes() + more > self.max_bytes { self.finish() } else { None };
        if self.first.is_none() {
            let hash_key = explicit_hash_key.unwrap_or_else(|| hash_key_of(&partition_key));
            self.first = Some((partition_key.clone(), hash_key));
        }
        let partition_key_index = self.partition_keys.insert(partition_key);
        let hash_key_index = hash_key_text.map(|text| self.explicit_hash_keys.insert(text));
        write_length(RECORDS, record_bytes(partition_key_index, hash_key_index, data), &mut self.records);
        write_integer(PARTITION_KEY_INDEX, partition_key_index, &mut self.records);
        if let Some(index) = hash_key_index {
            write_integer(EXPLICIT_HASH_KEY_INDEX, index, &mut self.records);
        }
        write_bytes(DATA, data, &mut self.records);
        self.record_count += 1;
        Ok(full)
    }

    /// The aggregate of the records added since the last one; `None` when there are none.
    pub fn finish(&mut self) -> Option<AggregatedRecord> {
        let done = std::mem::replace(self, Self::new(self.max_bytes));
        let (partition_key, hash_key) = done.first?;
        let message = [done.partition_keys.encoded, done.explicit_hash_keys.encoded, done.records].concat();
        let digest: [u8; DIGEST_BYTES] = Md5::digest(&message).into();
        let data = [&MAGIC[..], &message, &digest].concat().into();
        Some(AggregatedRecord { partition_key, hash_key, data, record_count: done.record_count })
    }

    /// How many records were added since the last aggregate.
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// The size of the aggregate if it were finished now, payload and partition key, in bytes; 0 when it is empty.
    pub fn bytes(&self) -> usize {
        self.first.as_ref().map_or(0, |(partition_key, _)| {
            FRAME_BYTES
                + partition_key.len()
                + self.partition_keys.encoded.len()
                + self.explicit_hash_keys.encoded.len()
                + self.records.len()
        })
    }
}

/// The size of an encoded record without its field, in bytes.
fn record_bytes(partition_key_index: u64, hash_key_index: Option<u64>, data: &[u8]) -> usize {
    let index_bytes = |index| 1 + varint_bytes(index);
    index_bytes(partition_key_index) + hash_key_index.map_or(0, index_bytes) + field_bytes(data.len())
}

/// A table of keys that records refer to by index.
#[derive(Debug)]
struct KeyTable {
    field: u64,
    indexes: HashMap<ByteString, u64>,
    encoded: Vec<u8>,
}

impl KeyTable {
    fn new(field: u64) -> Self {
        Self { field, indexes: HashMap::new(), encoded: Vec::new() }
    }

    /// The index of a key, or the index that it would get.
    fn index_for(&self, key: &ByteString) -> u64 {
        self.indexes.get(key).copied().unwrap_or(self.indexes.len() as u64)
    }

    /// How many bytes a key would add; 0 if the table holds it.
    fn bytes_for(&self, key: &ByteString) -> usize {
        if self.indexes.contains_key(key) { 0 } else { field_bytes(key.len()) }
    }

    fn insert(&mut self, key: ByteString) -> u64 {
        let next = self.indexes.len() as u64;
        *self.indexes.entry(key).or_insert_with_key(|key| {
            write_bytes(self.field, key.as_bytes(), &mut self.encoded);
            next
        })
    }
}
