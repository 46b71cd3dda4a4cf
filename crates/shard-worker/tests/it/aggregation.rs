//! The aggregation format, tested with recorded bytes and with properties.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lease_store::{HashKey, HashKeyRange};
use proptest::prelude::*;
use shard_worker::{
    AggregatedRecord, Aggregator, Deaggregated, MIN_SUB_RECORD_BYTES, Record, deaggregate, hash_key_of,
};

use crate::support::aggregate_checks::{assert_slice_of, check_payload, record, sealed};

/// An aggregate of three records, written byte by byte from the published description of the format.
const HAND_WRITTEN: &[&[u8]] = &[
    b"\xf3\x89\x9a\xc2",
    b"\x0a\x01a",                                               // partition key 0: "a"
    b"\x0a\x01b",                                               // partition key 1: "b"
    b"\x12\x017",                                               // explicit hash key 0: 7
    b"\x1a\x06\x08\x00\x1a\x02hi",                              // "hi" of "a"
    b"\x1a\x06\x08\x01\x10\x00\x1a\x00",                        // nothing, of "b", sent to hash key 7
    b"\x1a\x11\x08\x00\x1a\x03one\x22\x08\x0a\x03tag\x12\x01v", // "one" of "a", with a tag
    b"\x57\xd8\x99\x53\x54\x89\x06\x10\x64\xb8\x69\x83\x55\xf3\x97\xc3",
];

/// An aggregate of one record, as another implementation (the Elixir package `ex_kpl`) documents its output.
const OF_ANOTHER_WRITER: &[u8] = &[
    243, 137, 154, 194, 10, 13, 112, 97, 114, 116, 105, 116, 105, 111, 110, 95, 107, 101, 121, 26, 8, 8, 0,
    26, 4, 100, 97, 116, 97, 208, 54, 153, 218, 90, 34, 47, 163, 33, 8, 173, 27, 217, 85, 161, 78,
];

fn deaggregated(record: Record, range: Option<HashKeyRange>) -> (Vec<Record>, Deaggregated) {
    let mut records = Vec::new();
    let found = deaggregate(record, range, &mut records);
    (records, found)
}

/// Partition key, payload and number of each record, as text.
fn shown(records: &[Record]) -> Vec<(String, String, u64)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    records
        .iter()
        .map(|r| (r.partition_key.as_ref().unwrap().to_string(), text(&r.data), r.sub_sequence_number))
        .collect()
}

fn range(start: u128, end: u128) -> Option<HashKeyRange> {
    Some(HashKeyRange::new(HashKey(start), HashKey(end)).unwrap())
}

#[test]
fn a_hand_written_aggregate_is_read() {
    let mut aggregated = record(Bytes::from(HAND_WRITTEN.concat()));
    aggregated.approximate_arrival = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    let (records, found) = deaggregated(aggregated.clone(), None);
    assert_eq!(found, Deaggregated::Aggregate { filtered: 0 });
    let expected = [("a", "hi", 0), ("b", "", 1), ("a", "one", 2)];
    assert_eq!(
        shown(&records),
        expected.map(|(key, data, number)| (key.to_owned(), data.to_owned(), number))
    );
    for record in &records {
        assert_eq!(record.sequence_number, aggregated.sequence_number);
        assert_eq!(record.approximate_arrival, aggregated.approximate_arrival);
    }
}

#[test]
fn an_aggregate_of_another_writer_is_read_and_reproduced() {
    let (records, _) = deaggregated(record(Bytes::from_static(OF_ANOTHER_WRITER)), None);
    assert_eq!(shown(&records), [("partition_key".to_owned(), "data".to_owned(), 0)]);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    aggregator.add("partition_key", None, b"data").unwrap();
    assert_eq!(aggregator.finish().unwrap().data, OF_ANOTHER_WRITER);
}

#[test]
fn no_payload_is_copied() {
    let payload = Bytes::from(HAND_WRITTEN.concat());
    let (records, _) = deaggregated(record(payload.clone()), None);
    for record in &records {
        assert_slice_of(&payload, &record.data);
        assert_slice_of(&payload, record.partition_key.as_ref().unwrap().as_bytes());
    }
}

#[test]
fn without_magic_number_or_digest_a_record_is_plain() {
    let whole = HAND_WRITTEN.concat();
    let mut other_digest = whole.clone();
    *other_digest.last_mut().unwrap() ^= 1;
    let mut other_message = whole.clone();
    other_message[6] ^= 1;
    let mut payloads = vec![other_digest, other_message, whole[1..].to_vec(), sealed(b"").to_vec()];
    payloads.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    for payload in payloads {
        let plain = record(payload.into());
        assert_eq!(deaggregated(plain.clone(), None), (vec![plain], Deaggregated::Plain));
    }
}

#[test]
fn a_malformed_aggregate_stays_whole_and_its_fault_is_named() {
    for (message, expected) in [
        (&b"\x0a\x01a\x1a\x04\x08\x01\x1a\x00"[..], "the index of a partition key points nowhere"),
        (b"\x0a\x01a\x1a\x06\x08\x00\x10\x00\x1a\x00", "the index of an explicit hash key points nowhere"),
        // The first sub-record is valid, but is not returned by itself.
        (b"\x0a\x01a\x1a\x04\x08\x00\x1a\x00\x1a\x02\x1a\x00", "a record has no partition key"),
        (b"\x0a\x01a\x1a\x02\x08\x00", "a record has no payload"),
        (b"\x0a\x01\xff\x1a\x04\x08\x00\x1a\x00", "a partition key is not UTF-8"),
        (b"\x0a\x01a\x1a\x09\x08\x00\x1a\x00", "a field is longer than the rest of the message"),
        (b"\x0a\x01a\x1a\x04\x08\x00\x1a\x01", "a field is longer than the rest of the message"),
        (b"\x0a\x01a\x1a", "it ends inside an integer"),
        (b"\x0a\x01a", "it holds no records"),
    ] {
        let malformed = record(sealed(message));
        let reason = expected;
        for range in [None, range(0, 5)] {
            let found = deaggregated(malformed.clone(), range);
            assert_eq!(
                found,
                (vec![malformed.clone()], Deaggregated::Malformed { reason }),
                "{message:02x?}"
            );
        }
    }
}

#[test]
fn fields_may_have_any_order_and_unknown_ones_are_skipped() {
    let message = b"\x1a\x07\x08\x00\x1a\x01x\x28\x01\x22\x01z\x0a\x01k";
    let (records, found) = deaggregated(record(sealed(message)), None);
    assert_eq!(found, Deaggregated::Aggregate { filtered: 0 });
    assert_eq!(shown(&records), [("k".to_owned(), "x".to_owned(), 0)]);
}

/// An aggregate of records with these explicit hash keys; the payloads count up.
fn sent_to(hash_keys: &[u128]) -> AggregatedRecord {
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for (index, hash_key) in hash_keys.iter().enumerate() {
        aggregator.add("k", Some(HashKey(*hash_key)), index.to_string().as_bytes()).unwrap();
    }
    aggregator.finish().unwrap()
}

fn kept(aggregate: &AggregatedRecord, range: Option<HashKeyRange>) -> (Vec<u64>, u64) {
    let (records, found) = deaggregated(record(aggregate.data.clone()), range);
    let Deaggregated::Aggregate { filtered } = found else { panic!("{found:?}") };
    assert!(records.iter().all(|record| record.data == record.sub_sequence_number.to_string()));
    (records.iter().map(|record| record.sub_sequence_number).collect(), filtered)
}

#[test]
fn records_of_another_shard_are_filtered_one_by_one() {
    let aggregate = sent_to(&[10, 9, 20, 21, 15, 0]);
    assert_eq!(kept(&aggregate, range(10, 20)), (vec![0, 2, 4], 3));
    assert_eq!(kept(&aggregate, None), (vec![0, 1, 2, 3, 4, 5], 0));
    assert_eq!(kept(&aggregate, Some(HashKeyRange::FULL)), (vec![0, 1, 2, 3, 4, 5], 0));
}

#[test]
fn no_record_is_filtered_if_the_stream_ignores_keys() {
    // The first record lies outside the range: the stream did not distribute the aggregate by its keys.
    assert_eq!(kept(&sent_to(&[9, 10, 21]), range(10, 20)), (vec![0, 1, 2], 0));
    // No partition key, as on a stream that distributes records by itself.
    let mut bare = record(sent_to(&[10, 9]).data);
    bare.partition_key = None;
    assert_eq!(deaggregated(bare, range(10, 20)).0.len(), 2);
    // An invalid explicit hash key is no reason to filter.
    let message =
        b"\x0a\x01k\x12\x0212\x12\x01x\x1a\x06\x08\x00\x10\x00\x1a\x00\x1a\x06\x08\x00\x10\x01\x1a\x00";
    assert_eq!(deaggregated(record(sealed(message)), range(10, 20)).0.len(), 2);
}

#[test]
fn the_densest_aggregate_stays_within_the_stated_bound() {
    let densest =
        b"\x0a\x00".iter().chain(b"\x1a\x04\x08\x00\x1a\x00".iter().cycle().take(1024 * 1024 / 6 * 6));
    let payload = sealed(&densest.copied().collect::<Vec<u8>>());
    // It also checks the capacity of the returned vector.
    assert_eq!(check_payload(&payload), Deaggregated::Aggregate { filtered: 0 });
    assert_eq!(deaggregated(record(payload), None).0.len(), 1024 * 1024 / MIN_SUB_RECORD_BYTES);
    assert!(size_of::<Record>() <= 20 * MIN_SUB_RECORD_BYTES, "{} bytes", size_of::<Record>());
}

#[test]
fn a_sub_record_is_not_deaggregated_again() {
    let mut inner = record(Bytes::from(HAND_WRITTEN.concat()));
    inner.sub_sequence_number = 3;
    assert_eq!(deaggregated(inner.clone(), None), (vec![inner], Deaggregated::Plain));
}

#[test]
fn an_aggregate_stays_within_its_bound_or_is_refused() {
    let mut aggregator = Aggregator::new(100);
    let error = aggregator.add("key", None, &[0; 100]).unwrap_err();
    assert!(error.to_string().contains("at most 100"), "{error}");
    // 20 bytes of the frame, 3 of the key outside, 5 in the table, 6 around the payload.
    assert!(aggregator.add("key", None, &[0; 67]).is_err());
    assert!(aggregator.add("key", None, &[0; 66]).unwrap().is_none());
    assert_eq!(aggregator.bytes(), 100);
    let full = aggregator.add("key", None, &[0; 66]).unwrap().unwrap();
    assert_eq!((full.data.len() + full.partition_key.len(), full.record_count), (100, 1));
    assert_eq!((aggregator.record_count(), aggregator.bytes()), (1, 100));
    aggregator.finish().unwrap();
    assert_eq!((aggregator.finish(), aggregator.bytes()), (None, 0));
}

#[test]
fn the_size_is_exact_with_hundreds_of_keys() {
    // From the 129th key on, an index needs two bytes.
    for max_bytes in 2000..2020 {
        let mut aggregator = Aggregator::new(max_bytes);
        for number in 0..1000 {
            let before = aggregator.bytes();
            let full = aggregator.add(format!("{number:03}"), None, b"x").unwrap();
            if let Some(full) = full {
                assert_eq!(full.data.len() + full.partition_key.len(), before);
                assert!(before <= max_bytes && before + 13 > max_bytes, "{before} of {max_bytes}");
                assert!(full.record_count > 128);
            }
        }
    }
}

type Put = (String, Option<u128>, Vec<u8>);

fn puts() -> impl Strategy<Value = Vec<Put>> {
    let key = prop_oneof![Just("same".to_owned()), "\\PC{0,12}"];
    let hash_key = prop::option::of(prop_oneof![Just(42), any::<u128>()]);
    prop::collection::vec((key, hash_key, prop::collection::vec(any::<u8>(), 0..200)), 1..60)
}

fn aggregates(puts: &[Put], max_bytes: usize) -> Vec<AggregatedRecord> {
    let mut aggregator = Aggregator::new(max_bytes);
    let mut done = Vec::new();
    for (key, hash_key, data) in puts {
        done.extend(aggregator.add(key.as_str(), hash_key.map(HashKey), data).unwrap());
    }
    done.extend(aggregator.finish());
    done
}

proptest! {
    #[test]
    fn aggregated_records_come_out_unchanged(puts in puts(), max_bytes in 400..4000usize) {
        let aggregates = aggregates(&puts, max_bytes);
        let mut expected = puts.iter();
        for aggregate in &aggregates {
            prop_assert!(aggregate.data.len() + aggregate.partition_key.len() <= max_bytes);
            check_payload(&aggregate.data);
            let (records, found) = deaggregated(record(aggregate.data.clone()), None);
            prop_assert_eq!(found, Deaggregated::Aggregate { filtered: 0 });
            prop_assert_eq!(records.len() as u64, aggregate.record_count);
            for (number, record) in (0..).zip(&records) {
                let (key, hash_key, data) = expected.next().unwrap();
                prop_assert_eq!(record.sub_sequence_number, number);
                prop_assert_eq!(record.partition_key.as_deref(), Some(key.as_str()));
                prop_assert_eq!(&record.data[..], &data[..]);
                if number == 0 {
                    let hash_key = hash_key.map_or_else(|| hash_key_of(key), HashKey);
                    prop_assert_eq!(aggregate.hash_key, hash_key);
                    prop_assert_eq!(&aggregate.partition_key[..], &key[..]);
                }
            }
        }
        prop_assert!(expected.next().is_none());
    }

    #[test]
    fn exactly_the_records_in_range_are_kept(puts in puts(), one: u128, other: u128) {
        let aggregate = aggregates(&puts, usize::MAX).swap_remove(0);
        let hash_keys: Vec<HashKey> = puts
            .iter()
            .map(|(key, hash_key, _)| hash_key.map_or_else(|| hash_key_of(key), HashKey))
            .collect();
        // Half of the ranges begin or end with the key of a record.
        let pick = |seed: u128| {
            let chosen = hash_keys[usize::try_from(seed % hash_keys.len() as u128).unwrap()];
            if seed & 1 == 0 { chosen } else { HashKey(seed) }
        };
        let (start, end) = (pick(one).min(pick(other)), pick(one).max(pick(other)));
        let range = HashKeyRange::new(start, end).unwrap();
        let (records, found) = deaggregated(record(aggregate.data), Some(range));
        let is_valid = range.contains(hash_keys[0]);
        let expected: Vec<u64> = (0..)
            .zip(&hash_keys)
            .filter(|(_, hash_key)| !is_valid || (start <= **hash_key && **hash_key <= end))
            .map(|(number, _)| number)
            .collect();
        let filtered = (hash_keys.len() - expected.len()) as u64;
        prop_assert_eq!(records.iter().map(|r| r.sub_sequence_number).collect::<Vec<_>>(), expected);
        prop_assert_eq!(found, Deaggregated::Aggregate { filtered });
        for record in &records {
            let index = usize::try_from(record.sub_sequence_number).unwrap();
            prop_assert_eq!(record.partition_key.as_deref(), Some(puts[index].0.as_str()));
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_payload(&bytes.clone().into());
        check_payload(&sealed(&bytes));
    }

    #[test]
    fn damaged_aggregates_are_safe(puts in puts(), cut: prop::sample::Index, place: prop::sample::Index, value: u8) {
        let aggregate = aggregates(&puts, usize::MAX).swap_remove(0);
        let message = &aggregate.data[4..aggregate.data.len() - 16];
        let mut damaged = message.to_vec();
        damaged[place.index(message.len())] = value;
        check_payload(&sealed(&damaged));
        check_payload(&sealed(&message[..cut.index(message.len())]));
        check_payload(&aggregate.data.slice(..cut.index(aggregate.data.len())));
    }
}
