//! What holds for every payload, hostile or not: shared by the property tests, the bounded fuzz run and the fuzz target.

use bytes::Bytes;
use lease_store::{HashKey, HashKeyRange, SequenceNumber};
use md5::{Digest as _, Md5};
use shard_worker::{Deaggregated, MIN_SUB_RECORD_BYTES, Record, deaggregate};

/// What an aggregate begins with.
pub(crate) const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

/// The aggregate with this message: magic number before it, digest behind it.
pub(crate) fn sealed(message: &[u8]) -> Bytes {
    let digest: [u8; 16] = Md5::digest(message).into();
    [&MAGIC[..], message, &digest].concat().into()
}

/// A record from a stream.
pub(crate) fn record(data: Bytes) -> Record {
    Record {
        sequence_number: SequenceNumber::from(7),
        sub_sequence_number: 0,
        partition_key: Some("a".into()),
        data,
        approximate_arrival: None,
    }
}

/// Takes a payload apart with and without a range of hash keys, and checks what must hold whatever it is. Returns what it
/// turned out to be.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check_payload(payload: &Bytes) -> Deaggregated {
    let range = HashKeyRange::new(HashKey(u128::MAX / 3), HashKey(u128::MAX / 3 * 2)).ok();
    let (all, found) = take_apart(payload, None);
    let (kept, found_in_range) = take_apart(payload, range);
    match found {
        Deaggregated::Plain | Deaggregated::Malformed { .. } => {
            assert_eq!(found_in_range, found, "what a record is does not depend on the range");
            assert_eq!(all, [record(payload.clone())], "it is handed on as it is");
            assert_eq!(kept, all);
        }
        Deaggregated::Aggregate { filtered } => {
            assert_eq!(filtered, 0, "without a range nothing is left out");
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

fn take_apart(payload: &Bytes, range: Option<HashKeyRange>) -> (Vec<Record>, Deaggregated) {
    let mut records = Vec::new();
    let found = deaggregate(record(payload.clone()), range, &mut records);
    let bound = (payload.len() / MIN_SUB_RECORD_BYTES).max(4); // a vector never starts with less than four
    assert!(records.capacity() <= bound, "{} records for {} bytes", records.capacity(), payload.len());
    for record in &records {
        assert_slice_of(payload, &record.data);
        if let Some(key) = record.partition_key.as_ref().filter(|_| record.data != *payload) {
            assert_slice_of(payload, key.as_bytes());
        }
    }
    (records, found)
}

/// The bytes lie where they were received: nothing was copied. Of an empty slice that cannot be said.
///
/// # Panics
/// When they lie elsewhere.
pub(crate) fn assert_slice_of(payload: &Bytes, slice: &[u8]) {
    let (outer, inner) = (payload.as_ptr_range(), slice.as_ptr_range());
    assert!(slice.is_empty() || (outer.start <= inner.start && inner.end <= outer.end), "a copy was made");
}
