//! An aggregate: found by its magic number, verified by its digest, walked through as slices.

use bytes::Bytes;
use bytestring::ByteString;
use md5::{Digest as _, Md5};

use super::wire::{Fields, Malformation, Value};

/// What an aggregate begins with (KPL aggregation format).
pub(super) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

/// What an aggregate ends with: an MD5 digest, so many bytes.
pub(super) const DIGEST_BYTES: usize = 16;

pub(super) const PARTITION_KEY_TABLE: u64 = 1;
pub(super) const EXPLICIT_HASH_KEY_TABLE: u64 = 2;
pub(super) const RECORDS: u64 = 3;

pub(super) const PARTITION_KEY_INDEX: u64 = 1;
pub(super) const EXPLICIT_HASH_KEY_INDEX: u64 = 2;
pub(super) const DATA: u64 = 3;

/// Whether a payload begins as an aggregate does. Nothing is said about the rest.
pub(crate) fn has_magic(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The message between magic number and digest, if that is what the payload is. Everything else is a plain record, as
/// it is to the KCL: without the magic number, too short for a message, or with a digest that is not that of the
/// message.
pub(super) fn verified_message(payload: &[u8]) -> Option<&[u8]> {
    let (message, digest) = payload.strip_prefix(&MAGIC)?.split_last_chunk::<DIGEST_BYTES>()?;
    let computed: [u8; DIGEST_BYTES] = Md5::digest(message).into();
    (!message.is_empty() && computed == *digest).then_some(message)
}

/// The tables of an aggregate, and how many records it holds.
#[derive(Debug)]
pub(super) struct Aggregate<'a> {
    message: &'a [u8],
    /// The partition keys, slices of the payload, each checked once to be text.
    pub(super) partition_keys: Vec<ByteString>,
    /// The explicit hash keys as they stand there.
    pub(super) explicit_hash_keys: Vec<&'a [u8]>,
    /// The number of records: counted, not stated.
    pub(super) record_count: usize,
}

impl<'a> Aggregate<'a> {
    /// Reads the tables of a verified message, which is a part of `payload`. They may stand in any order, so all of the
    /// message is stepped through; what the records hold is looked at later.
    pub(super) fn read(message: &'a [u8], payload: &Bytes) -> Result<Self, Malformation> {
        let mut aggregate =
            Self { message, partition_keys: Vec::new(), explicit_hash_keys: Vec::new(), record_count: 0 };
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (PARTITION_KEY_TABLE, Value::Bytes(key)) => {
                    let key = ByteString::try_from(payload.slice_ref(key));
                    aggregate.partition_keys.push(key.map_err(|_| "a partition key is not UTF-8")?);
                }
                (EXPLICIT_HASH_KEY_TABLE, Value::Bytes(key)) => aggregate.explicit_hash_keys.push(key),
                (RECORDS, Value::Bytes(_)) => aggregate.record_count += 1,
                // Fields of a later version of the format.
                _ => {}
            }
        }
        if aggregate.record_count == 0 {
            return Err("it holds no records");
        }
        Ok(aggregate)
    }

    /// The records, in order.
    pub(super) fn records(&self) -> SubRecords<'a> {
        SubRecords { fields: Fields::of(self.message) }
    }
}

/// A record of an aggregate, as it stands there.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubRecord<'a> {
    /// Where its partition key stands in the table.
    pub(super) partition_key_index: u64,
    /// Where its explicit hash key stands in the table, if it has one.
    pub(super) explicit_hash_key_index: Option<u64>,
    /// Its payload.
    pub(super) data: &'a [u8],
}

impl<'a> SubRecord<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformation> {
        let (mut partition_key_index, mut explicit_hash_key_index, mut data) = (None, None, None);
        let mut fields = Fields::of(message);
        // Where a field comes twice the last one counts (protobuf encoding).
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (PARTITION_KEY_INDEX, Value::Integer(index)) => partition_key_index = Some(index),
                (EXPLICIT_HASH_KEY_INDEX, Value::Integer(index)) => explicit_hash_key_index = Some(index),
                (DATA, Value::Bytes(bytes)) => data = Some(bytes),
                // Tags, and fields of a later version of the format.
                _ => {}
            }
        }
        Ok(Self {
            partition_key_index: partition_key_index.ok_or("a record has no partition key")?,
            explicit_hash_key_index,
            data: data.ok_or("a record has no payload")?,
        })
    }
}

/// Walks through the records of an aggregate.
#[derive(Debug)]
pub(super) struct SubRecords<'a> {
    fields: Fields<'a>,
}

impl<'a> Iterator for SubRecords<'a> {
    type Item = Result<SubRecord<'a>, Malformation>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.fields.next() {
                Ok(Some((RECORDS, Value::Bytes(record)))) => return Some(SubRecord::read(record)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(malformation) => return Some(Err(malformation)),
            }
        }
    }
}
