//! The block format: records of one shard as they were fetched, or the end of the shard, with a checksum.
//!
//! ```text
//! magic 7 bytes, version 1, CRC-32 of all that follows 4
//! application, stream ARN, creation epoch 8, shard id, edge where it begins, lag in ms 8
//! kind 1: records: count 4, then for each sequence number, key, arrival, payload
//!         end:     count of children 4, then for each id, parents, range, whether it is closed
//! ```
//!
//! Integers are little-endian; a text follows its length in two bytes. Aggregates are stored whole, not de-aggregated.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes};
use bytestring::ByteString;
use lease_store::{HashKey, HashKeyRange, SequenceNumber, ShardId, StreamIdentity};
use shard_worker::{Record, Shard};

use crate::block_edge::Edge;
use crate::block_name::{BlockName, FORMAT_VERSION};
use crate::unshared::Unshared as _;

const MAGIC: &[u8; 7] = b"KINBLK\n";

/// The offset of the checksum, in bytes. It covers all bytes after it.
const CHECKSUM_AT: usize = MAGIC.len() + 1;
const CONTENT_AT: usize = CHECKSUM_AT + size_of::<u32>();

/// The smallest encoded record, in bytes. It limits the memory that a malformed count of records can claim.
const MIN_RECORD_BYTES: usize = 9;

/// The most bytes of an encoded record in addition to its texts and payload.
const RECORD_OVERHEAD_BYTES: usize = 19;

/// Why bytes cannot be decoded as a block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// Another format version.
    OtherVersion(u8),
    /// Truncated, changed, or never a block, for the given reason.
    Damaged(&'static str),
}

impl fmt::Display for BlockError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherVersion(version) => {
                write!(formatter, "the block has format {version}, not {FORMAT_VERSION}")
            }
            Self::Damaged(reason) => write!(formatter, "the block is damaged: {reason}"),
        }
    }
}

impl std::error::Error for BlockError {}

/// The application, stream and shard that a block belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) application: String,
    pub(crate) identity: StreamIdentity,
    pub(crate) shard_id: ShardId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Records(Vec<Record>),
    End(Vec<Shard>),
}

impl Content {
    /// The name of a block with this content; `None` without records and end.
    pub(crate) fn name(&self) -> Option<BlockName> {
        match self {
            Self::End(_) => Some(BlockName::End),
            Self::Records(records) => BlockName::of(records),
        }
    }
}

/// A stored block: records of one shard as they were fetched, or the end of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub(crate) owner: Owner,
    /// The block holds every record of the shard between this edge and its last record.
    pub(crate) follows: Edge,
    pub(crate) millis_behind_latest: Option<u64>,
    pub(crate) content: Content,
}

impl Block {
    /// The records; empty for the end of the shard.
    pub fn records(&self) -> &[Record] {
        match &self.content {
            Content::Records(records) => records,
            Content::End(_) => &[],
        }
    }

    /// The name of the block; `None` when it holds neither records nor the end.
    pub(crate) fn name(&self) -> Option<BlockName> {
        self.content.name()
    }

    /// Encodes the block.
    pub fn encode(&self) -> Bytes {
        let size = |record: &Record| {
            let key = record.partition_key.as_ref().map_or(0, |key| key.len());
            RECORD_OVERHEAD_BYTES + record.sequence_number.as_str().len() + key + record.data.len()
        };
        let mut out = Vec::with_capacity(1024 + self.records().iter().map(size).sum::<usize>());
        out.put_slice(MAGIC);
        out.put_u8(FORMAT_VERSION);
        out.put_u32_le(0);
        put_text(&mut out, &self.owner.application);
        put_text(&mut out, &self.owner.identity.arn);
        out.put_u64_le(self.owner.identity.creation_epoch_seconds);
        put_text(&mut out, self.owner.shard_id.as_str());
        put_edge(&mut out, &self.follows);
        out.put_u64_le(self.millis_behind_latest.unwrap_or(u64::MAX));
        match &self.content {
            Content::Records(records) => {
                out.put_u8(0);
                put_length(&mut out, records.len());
                records.iter().for_each(|record| put_record(&mut out, record));
            }
            Content::End(children) => {
                out.put_u8(1);
                put_length(&mut out, children.len());
                children.iter().for_each(|child| put_shard(&mut out, child));
            }
        }
        let checksum = crc32fast::hash(&out[CONTENT_AT..]);
        out[CHECKSUM_AT..CONTENT_AT].copy_from_slice(&checksum.to_le_bytes());
        out.into()
    }

    /// Decodes a block. Its texts and payloads are slices of `bytes`.
    ///
    /// # Errors
    /// `OtherVersion` or `Damaged`. Malformed bytes cause no panic and no allocation beyond their own size.
    pub fn decode(bytes: &Bytes) -> Result<Self, BlockError> {
        if bytes.len() < CONTENT_AT || !bytes.starts_with(MAGIC) {
            return Err(BlockError::Damaged("it has no block header"));
        }
        let version = bytes[MAGIC.len()];
        if version != FORMAT_VERSION {
            return Err(BlockError::OtherVersion(version));
        }
        let checksum = (&bytes[CHECKSUM_AT..]).get_u32_le();
        if crc32fast::hash(&bytes[CONTENT_AT..]) != checksum {
            return Err(BlockError::Damaged("its checksum is wrong"));
        }
        let mut reader = Reader(bytes.slice(CONTENT_AT..));
        reader.block().filter(|_| reader.0.is_empty()).ok_or(BlockError::Damaged("its content is malformed"))
    }
}

/// A text, cut at 65,535 bytes. No text is longer: AWS limits names, and partition keys to 256 characters.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut length = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    out.put_u16_le(u16::try_from(length).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..length]);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
}

fn put_edge(out: &mut Vec<u8>, edge: &Edge) {
    match edge {
        Edge::TrimHorizon => out.put_u8(0),
        Edge::Latest => out.put_u8(1),
        Edge::AtTimestamp(timestamp) => {
            out.put_u8(2);
            put_time(out, Some(*timestamp));
        }
        Edge::At(number) => {
            out.put_u8(3);
            put_text(out, number.as_str());
        }
        Edge::After(number) => {
            out.put_u8(4);
            put_text(out, number.as_str());
        }
    }
}

/// Tag 0: no time; 1: nanoseconds after 1970; 2: nanoseconds before 1970.
fn put_time(out: &mut Vec<u8>, time: Option<SystemTime>) {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH)) {
        None => out.put_u8(0),
        Some(Ok(after)) => {
            out.put_u8(1);
            out.put_u64_le(nanos(after));
        }
        Some(Err(error)) => {
            out.put_u8(2);
            out.put_u64_le(nanos(error.duration()));
        }
    }
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_text(out, record.sequence_number.as_str());
    match &record.partition_key {
        None => out.put_u8(0),
        Some(key) => {
            out.put_u8(1);
            put_text(out, key);
        }
    }
    put_time(out, record.approximate_arrival);
    put_length(out, record.data.len());
    out.put_slice(&record.data);
}

fn put_shard(out: &mut Vec<u8>, shard: &Shard) {
    put_text(out, shard.shard_id.as_str());
    put_length(out, shard.parents.len());
    shard.parents.iter().for_each(|parent| put_text(out, parent.as_str()));
    match shard.hash_key_range {
        None => out.put_u8(0),
        Some(range) => {
            out.put_u8(1);
            out.put_u128_le(range.start().0);
            out.put_u128_le(range.end().0);
        }
    }
    out.put_u8(u8::from(shard.is_closed));
}

/// Decodes a block from front to back; each method returns `None` for malformed bytes.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.0.try_get_u32_le().ok()?).ok()
    }

    fn text(&mut self) -> Option<ByteString> {
        let length = self.0.try_get_u16_le().ok()?;
        ByteString::try_from(self.take(usize::from(length))?).ok()
    }

    fn number(&mut self) -> Option<SequenceNumber> {
        SequenceNumber::new(self.text()?).ok()
    }

    fn shard_id(&mut self) -> Option<ShardId> {
        // A copy, because shard ids outlive the block.
        ShardId::new(self.text()?.to_string()).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn time(&mut self) -> Option<Option<SystemTime>> {
        let tag = self.u8()?;
        if tag == 0 {
            return Some(None);
        }
        let nanos = Duration::from_nanos(self.u64()?);
        match tag {
            1 => SystemTime::UNIX_EPOCH.checked_add(nanos).map(Some),
            2 if !nanos.is_zero() => SystemTime::UNIX_EPOCH.checked_sub(nanos).map(Some),
            _ => None,
        }
    }

    fn edge(&mut self) -> Option<Edge> {
        Some(match self.u8()? {
            0 => Edge::TrimHorizon,
            1 => Edge::Latest,
            2 => Edge::AtTimestamp(self.time()??),
            3 => Edge::At(self.number()?.unshared()),
            4 => Edge::After(self.number()?.unshared()),
            _ => return None,
        })
    }

    fn block(&mut self) -> Option<Block> {
        let application = self.text()?.to_string();
        let arn = self.text()?.to_string();
        let identity = StreamIdentity { arn, creation_epoch_seconds: self.u64()? };
        let owner = Owner { application, identity, shard_id: self.shard_id()? };
        let follows = self.edge()?;
        let millis_behind_latest = Some(self.u64()?).filter(|lag| *lag != u64::MAX);
        let content = match self.u8()? {
            0 => Content::Records(self.records()?),
            1 => Content::End(self.children()?),
            _ => return None,
        };
        Some(Block { owner, follows, millis_behind_latest, content })
    }

    fn records(&mut self) -> Option<Vec<Record>> {
        let length = self.length()?;
        let mut records: Vec<Record> = Vec::with_capacity(length.min(self.0.len() / MIN_RECORD_BYTES));
        for _ in 0..length {
            let sequence_number = self.number()?;
            if records.last().is_some_and(|before| before.sequence_number >= sequence_number) {
                return None;
            }
            let partition_key = if self.flag()? { Some(self.text()?) } else { None };
            let approximate_arrival = self.time()?;
            let length = self.length()?;
            let data = self.take(length)?;
            records.push(
                Record::new(sequence_number, data)
                    .with_partition_key(partition_key)
                    .with_arrival(approximate_arrival),
            );
        }
        (!records.is_empty()).then_some(records)
    }

    fn children(&mut self) -> Option<Vec<Shard>> {
        let length = self.length()?;
        let mut children = Vec::new();
        for _ in 0..length {
            let shard_id = self.shard_id()?;
            let mut parents = BTreeSet::new();
            for _ in 0..self.length()? {
                parents.insert(self.shard_id()?);
            }
            let hash_key_range = if self.flag()? {
                let (start, end) = (self.0.try_get_u128_le().ok()?, self.0.try_get_u128_le().ok()?);
                Some(HashKeyRange::new(HashKey(start), HashKey(end)).ok()?)
            } else {
                None
            };
            children.push(
                Shard::new(shard_id, self.flag()?).with_parents(parents).with_hash_key_range(hash_key_range),
            );
        }
        Some(children)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn owner() -> Owner {
        let identity = StreamIdentity { arn: "arn:x".to_owned(), creation_epoch_seconds: 7 };
        Owner { application: "words".to_owned(), identity, shard_id: ShardId::numbered(3) }
    }

    fn any_record(number: u128) -> impl Strategy<Value = Record> {
        (
            proptest::option::of("\\PC{0,20}"),
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::option::of(any::<i32>()),
        )
            .prop_map(move |(key, data, arrival)| {
                Record::new(number.into(), data.into()).with_partition_key(key.map(Into::into)).with_arrival(
                    arrival.map(|seconds| {
                        let distance = Duration::from_secs(u64::from(seconds.unsigned_abs()));
                        if seconds < 0 {
                            SystemTime::UNIX_EPOCH - distance
                        } else {
                            SystemTime::UNIX_EPOCH + distance
                        }
                    }),
                )
            })
    }

    fn any_edge() -> impl Strategy<Value = Edge> {
        prop_oneof![
            Just(Edge::TrimHorizon),
            Just(Edge::Latest),
            any::<u32>().prop_map(|seconds| {
                Edge::AtTimestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into()))
            }),
            any::<u128>().prop_map(|number| Edge::At(number.into())),
            any::<u128>().prop_map(|number| Edge::After(number.into())),
        ]
    }

    fn any_content() -> impl Strategy<Value = Content> {
        let child =
            (any::<u16>(), proptest::collection::btree_set(any::<u16>(), 0..3), any::<(bool, bool, u128)>())
                .prop_map(|(id, parents, (is_closed, has_range, start))| {
                    Shard::new(ShardId::numbered(id.into()), is_closed)
                        .with_parents(
                            parents.into_iter().map(|parent| ShardId::numbered(parent.into())).collect(),
                        )
                        .with_hash_key_range(
                            has_range.then(|| HashKeyRange::new(HashKey(start), HashKey::MAX).unwrap()),
                        )
                });
        prop_oneof![
            (1..8_u128)
                .prop_flat_map(|count| (1..=count).map(any_record).collect::<Vec<_>>())
                .prop_map(Content::Records),
            proptest::collection::vec(child, 0..3).prop_map(Content::End),
        ]
    }

    proptest! {
        #[test]
        fn blocks_round_trip_and_any_damage_is_detected(
            follows in any_edge(),
            content in any_content(),
            millis_behind_latest in proptest::option::of(0..u64::MAX),
            offset: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let block = Block { owner: owner(), follows, millis_behind_latest, content };
            let bytes = block.encode();
            prop_assert_eq!(Block::decode(&bytes), Ok(block));
            let offset = offset.index(bytes.len());
            prop_assert!(Block::decode(&bytes.slice(..offset)).is_err());
            let mut flipped = bytes.to_vec();
            flipped[offset] ^= 1 << bit;
            prop_assert!(Block::decode(&flipped.into()).is_err());
            prop_assert!(Block::decode(&[&bytes[..], b"x"].concat().into()).is_err());
        }
    }
}
