//! An aggregate: detected by its magic number, verified by its digest, iterated as slices.

use bytes::Bytes;
use bytestring::ByteString;
use md5::{Digest as _, Md5};

use super::digests::digests;
use super::wire::{Fields, Malformation, Value};
use crate::record::Record;

/// The first bytes of an aggregate (KPL aggregation format).
pub(super) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

/// The size of the MD5 digest at the end of an aggregate, in bytes.
pub(super) const DIGEST_BYTES: usize = 16;

/// The partition keys that most aggregates have at most.
const USUAL_KEYS: usize = 16;

pub(super) const PARTITION_KEY_TABLE: u64 = 1;
pub(super) const EXPLICIT_HASH_KEY_TABLE: u64 = 2;
pub(super) const RECORDS: u64 = 3;

pub(super) const PARTITION_KEY_INDEX: u64 = 1;
pub(super) const EXPLICIT_HASH_KEY_INDEX: u64 = 2;
pub(super) const DATA: u64 = 3;

/// Whether a payload begins with the magic number. The rest is not checked.
pub(crate) fn has_magic(payload: &[u8]) -> bool {
    payload.starts_with(&MAGIC)
}

/// The message between magic number and digest, and the digest, which is not verified. As in the KCL, a payload without the
/// magic number, or too short for a message, is a plain record.
pub(super) fn message_and_digest(payload: &[u8]) -> Option<(&[u8], &[u8; DIGEST_BYTES])> {
    let (message, digest) = payload.strip_prefix(&MAGIC)?.split_last_chunk::<DIGEST_BYTES>()?;
    (!message.is_empty()).then_some((message, digest))
}

/// Whether a payload is an aggregate: it has the magic number, a message and its digest.
pub(super) fn is_aggregate(payload: &[u8]) -> bool {
    message_and_digest(payload).is_some_and(|(message, digest)| {
        let computed: [u8; DIGEST_BYTES] = Md5::digest(message).into();
        computed == *digest
    })
}

/// For each record whether it is an aggregate. The digests are most of the cost of de-aggregation, so several are computed side
/// by side. A record with a sub-sequence number is a sub-record already.
pub(crate) fn which_are_aggregates(records: &[Record]) -> Vec<bool> {
    let mut are_aggregates = vec![false; records.len()];
    let (mut places, mut messages) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
    for (index, record) in records.iter().enumerate().filter(|(_, record)| record.sub_sequence_number == 0) {
        if let Some((message, digest)) = message_and_digest(&record.data) {
            places.push((index, digest));
            messages.push(message);
        }
    }
    for ((index, expected), computed) in places.into_iter().zip(digests(&messages)) {
        if let Some(is_aggregate) = are_aggregates.get_mut(index) {
            *is_aggregate = computed == *expected;
        }
    }
    are_aggregates
}

/// The tables of an aggregate, and the number of its records.
#[derive(Debug)]
pub(super) struct Aggregate<'a> {
    message: &'a [u8],
    /// The partition keys: slices of the payload, each checked once to be UTF-8.
    pub(super) partition_keys: Vec<ByteString>,
    /// The explicit hash keys, not yet parsed.
    pub(super) explicit_hash_keys: Vec<&'a [u8]>,
    /// The counted number of records.
    pub(super) record_count: usize,
}

impl<'a> Aggregate<'a> {
    /// Reads the tables of a verified message, which is a part of `payload`. The fields may have any order, so this steps
    /// through the whole message; the content of the records is read later.
    pub(super) fn read(message: &'a [u8], payload: &Bytes) -> Result<Self, Malformation> {
        let mut aggregate = Self {
            message,
            partition_keys: Vec::with_capacity(USUAL_KEYS),
            explicit_hash_keys: Vec::new(),
            record_count: 0,
        };
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

/// A record of an aggregate, as encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubRecord<'a> {
    /// The index of its partition key in the aggregate's table of keys.
    pub(super) partition_key_index: u64,
    /// The index of its explicit hash key in the table, if it has one.
    pub(super) explicit_hash_key_index: Option<u64>,
    /// Its payload.
    pub(super) data: &'a [u8],
}

impl<'a> SubRecord<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformation> {
        let (mut partition_key_index, mut explicit_hash_key_index, mut data) = (None, None, None);
        let mut fields = Fields::of(message);
        // If a field is repeated, the last one counts (protobuf encoding).
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

/// Iterates the records of an aggregate.
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
