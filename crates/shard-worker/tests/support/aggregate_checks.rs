//! Properties of every payload, hostile or not: shared by the property tests, the bounded fuzz run and the fuzz target.

use bytes::Bytes;
use lease_store::{HashKey, HashKeyRange, SequenceNumber};
use md5::{Digest as _, Md5};
use shard_worker::{Deaggregated, MIN_SUB_RECORD_BYTES, Record, deaggregate};

/// The first bytes of an aggregate.
pub(crate) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

/// The aggregate with this message, between magic number and digest.
pub(crate) fn sealed(message: &[u8]) -> Bytes {
    let digest: [u8; 16] = Md5::digest(message).into();
    [&MAGIC[..], message, &digest].concat().into()
}

/// A record from a stream.
pub(crate) fn record(data: Bytes) -> Record {
    Record::new(SequenceNumber::from(7), data).with_partition_key(Some("a".into()))
}

/// De-aggregates a payload with and without a range of hash keys, checks the properties that hold for any payload, and
/// returns the result.
///
/// # Panics
/// When a property does not hold.
pub(crate) fn check_payload(payload: &Bytes) -> Deaggregated {
    let range = HashKeyRange::new(HashKey(u128::MAX / 3), HashKey(u128::MAX / 3 * 2)).ok();
    let (all, found) = deaggregated(payload, None);
    let (kept, found_in_range) = deaggregated(payload, range);
    match found {
        Deaggregated::Plain | Deaggregated::Malformed { .. } => {
            assert_eq!(found_in_range, found, "the kind of a record does not depend on the range");
            assert_eq!(all, [record(payload.clone())], "it is returned unchanged");
            assert_eq!(kept, all);
        }
        Deaggregated::Aggregate { filtered } => {
            assert_eq!(filtered, 0, "without a range no record is filtered");
            assert!(!all.is_empty());
            let numbers: Vec<u64> = all.iter().map(|record| record.sub_sequence_number).collect();
            assert_eq!(numbers, (0..all.len() as u64).collect::<Vec<_>>());
            let accounted_for = match found_in_range {
                Deaggregated::Aggregate { filtered } => Some(kept.len() as u64 + filtered),
                Deaggregated::Plain | Deaggregated::Malformed { .. } => None,
            };
            assert_eq!(accounted_for, Some(all.len() as u64), "each record is kept or counted");
            let at = |record: &Record| usize::try_from(record.sub_sequence_number).ok();
            assert!(kept.iter().all(|record| at(record).and_then(|index| all.get(index)) == Some(record)));
        }
    }
    found
}

fn deaggregated(payload: &Bytes, range: Option<HashKeyRange>) -> (Vec<Record>, Deaggregated) {
    let mut records = Vec::new();
    let found = deaggregate(record(payload.clone()), range, &mut records);
    let bound = (payload.len() / MIN_SUB_RECORD_BYTES).max(4); // a vector has a capacity of at least four
    assert!(records.capacity() <= bound, "{} records for {} bytes", records.capacity(), payload.len());
    for record in &records {
        assert_slice_of(payload, &record.data);
        if let Some(key) = record.partition_key.as_ref().filter(|_| record.data != *payload) {
            assert_slice_of(payload, key.as_bytes());
        }
    }
    (records, found)
}

/// Checks that a slice lies inside the payload, so that nothing was copied. An empty slice is not checked.
///
/// # Panics
/// When it lies elsewhere.
pub(crate) fn assert_slice_of(payload: &Bytes, slice: &[u8]) {
    let (outer, inner) = (payload.as_ptr_range(), slice.as_ptr_range());
    assert!(slice.is_empty() || (outer.start <= inner.start && inner.end <= outer.end), "a copy was made");
}
