//! Answers of `GetRecords` in both encodings, rendered in advance.
//!
//! CBOR is in the form of AWS: maps and arrays of indefinite length, each length in its shortest encoding.
//!
//! A body ends before its iterator and its lag, which differ from shard to shard. Sequence numbers grow with the
//! answer index, because a consumer drops records that it has seen.

use bytes::Bytes;
use kinesis_streaming::lease_store::{HashKey, HashKeyRange};
use kinesis_streaming::prelude::BoxError;
use kinesis_streaming::shard_worker::{Aggregator, hash_key_of};

use super::event::{self, Event};
use super::record::{Rendering, push_json};
use crate::shape::{RECORDS_PER_AGGREGATE, Shape};

/// Length of an iterator in AWS, in characters.
pub(crate) const ITERATOR_LENGTH: usize = 224;

/// The prefix of an iterator, which occurs nowhere else in a request.
pub(crate) const ITERATOR_MARK: &str = "AAAAAAAAAAAA";

/// Arrival time of the first record, in milliseconds since 1970.
const FIRST_ARRIVAL_MILLIS: u64 = 1_700_000_000_123;

/// The major types of CBOR.
const UNSIGNED: u8 = 0x00;
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;

/// The end of a map or array of indefinite length.
const BREAK: u8 = 0xff;

/// Number of partition keys in an aggregate.
const KEYS_PER_AGGREGATE: u64 = 10;

/// An answer up to its iterator.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) cbor: Bytes,
    pub(crate) json: Bytes,
    /// The same records as events of a subscription; empty for answers that are rendered when they are requested.
    pub(crate) events: Vec<Event>,
}

/// Formats 56 digits: the answer index in the shard, and the record index in the answer.
pub(crate) fn sequence_number(answer: u64, index: u64) -> String {
    format!("49{answer:034}{index:020}")
}

/// Returns the answer index of a sequence number.
pub(crate) fn answer_index_of(sequence_number: &str) -> Option<u64> {
    sequence_number.get(2..36)?.parse().ok()
}

/// Formats the iterator for an answer of a shard.
pub(crate) fn iterator(shard: u64, answer: u64) -> String {
    format!("{:b<ITERATOR_LENGTH$}", format!("{ITERATOR_MARK}{shard:08}{answer:016}"))
}

/// Returns the shard and the answer index of the iterator in a request.
pub(crate) fn find_iterator(request: &[u8]) -> Option<(u64, u64)> {
    let mark = ITERATOR_MARK.as_bytes();
    let at = request.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let digits = std::str::from_utf8(request.get(at..at + 24)?).ok()?;
    Some((digits.get(..8)?.parse().ok()?, digits.get(8..)?.parse().ok()?))
}

impl Body {
    /// Renders an answer of a shard whose keys are in `range`.
    pub(crate) fn render(
        shape: Shape,
        answer: u64,
        range: HashKeyRange,
        rng: &mut fastrand::Rng,
    ) -> Result<Self, BoxError> {
        let random =
            |rng: &mut fastrand::Rng, length: u64| -> Vec<u8> { (0..length).map(|_| rng.u8(..)).collect() };
        let keys = keys_in(range, rng);
        let payloads: Vec<Vec<u8>> = (0..shape.records())
            .map(|_| {
                if shape != Shape::D {
                    return random(rng, shape.payload_bytes());
                }
                let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
                for index in 0..RECORDS_PER_AGGREGATE {
                    let key = &keys[usize::try_from(index % KEYS_PER_AGGREGATE).unwrap_or(0)];
                    let full = aggregator.add(key.clone(), None, &random(rng, shape.payload_bytes()));
                    assert!(matches!(full, Ok(None)), "the aggregate is full");
                }
                aggregator.finish().map(|aggregate| aggregate.data.to_vec()).unwrap_or_default()
            })
            .collect();
        let records = (0_u64..).zip(&payloads).map(|(index, data)| Rendering {
            sequence_number: sequence_number(answer, index),
            arrival_millis: FIRST_ARRIVAL_MILLIS + answer * 1000 + index % 1000,
            key: &keys[usize::try_from(index % KEYS_PER_AGGREGATE).unwrap_or(0)],
            data,
        });
        let records = records.collect::<Vec<_>>();
        Ok(Self { events: event::render(&records)?, ..Self::of(&records) })
    }

    pub(crate) fn of(records: &[Rendering<'_>]) -> Self {
        let mut cbor = b"\xbf\x67Records\x9f".to_vec();
        let mut json = b"{\"Records\":[".to_vec();
        for record in records {
            let Rendering { sequence_number, arrival_millis, key, data } = record;
            cbor.extend(b"\xbf\x6eSequenceNumber");
            push_string(&mut cbor, TEXT, sequence_number.as_bytes());
            cbor.extend(b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b");
            cbor.extend(arrival_millis.to_be_bytes());
            cbor.extend(b"\x64Data");
            push_string(&mut cbor, BYTES, data);
            cbor.extend(b"\x6cPartitionKey");
            push_string(&mut cbor, TEXT, key.as_bytes());
            cbor.push(BREAK);
        }
        push_json(&mut json, records);
        Self { cbor: cbor.into(), json: json.into(), events: Vec::new() }
    }

    /// Renders the rest of an answer.
    pub(crate) fn end(is_cbor: bool, iterator: &str, millis_behind_latest: u64) -> Vec<u8> {
        if !is_cbor {
            let end = format!(
                "],\"NextShardIterator\":\"{iterator}\",\"MillisBehindLatest\":{millis_behind_latest}}}"
            );
            return end.into_bytes();
        }
        let mut end = b"\xff\x71NextShardIterator".to_vec();
        push_string(&mut end, TEXT, iterator.as_bytes());
        end.extend(b"\x72MillisBehindLatest");
        push_head(&mut end, UNSIGNED, millis_behind_latest);
        end.push(BREAK);
        end
    }
}

fn push_string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    push_head(out, major, bytes.len() as u64);
    out.extend(bytes);
}

/// Encodes the head of an item with its number in the shortest encoding.
fn push_head(out: &mut Vec<u8>, major: u8, number: u64) {
    if let Ok(number @ 0..=23) = u8::try_from(number) {
        out.push(major | number);
    } else if let Ok(number) = u8::try_from(number) {
        out.extend([major | 24, number]);
    } else if let Ok(number) = u16::try_from(number) {
        out.push(major | 25);
        out.extend(number.to_be_bytes());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(major | 26);
        out.extend(number.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend(number.to_be_bytes());
    }
}

/// Draws partition keys of typical length that belong to this range.
fn keys_in(range: HashKeyRange, rng: &mut fastrand::Rng) -> Vec<String> {
    let keys = std::iter::repeat_with(|| format!("partition-key-{:08}", rng.u32(..100_000_000)));
    let inside = keys.filter(|key| {
        let HashKey(hash) = hash_key_of(key);
        (range.start().0..=range.end().0).contains(&hash)
    });
    inside.take(usize::try_from(KEYS_PER_AGGREGATE).unwrap_or(1)).collect()
}
