//! Measures the cost of de-aggregation for each sub-record: `cargo bench -p kinesis-shard-worker`.
//!
//! Every reader of the format has to compute the digest over all bytes and, for the filter, one digest for each partition
//! key. Both are measured separately; the rest is the difference. Each figure is the median of many rounds over the same
//! aggregates.

// The times are only printed; a panic ends the measurement.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use lease_store::{HashKey, HashKeyRange, SequenceNumber};
use md5::{Digest as _, Md5};
use shard_worker::{Aggregator, Record, deaggregate, hash_key_of};

/// How many aggregates a round de-aggregates, and how many records each holds.
const AGGREGATES: u32 = 100;
const RECORDS: u32 = 100;

/// How many rounds make a figure.
const ROUNDS: usize = 101;

/// The sizes of the magic number and the digest.
const MAGIC_BYTES: usize = 4;
const DIGEST_BYTES: usize = 16;

fn aggregates(
    payload_bytes: usize,
    key_of: impl Fn(u32) -> String,
    hash_key: Option<HashKey>,
) -> Vec<Record> {
    (0..AGGREGATES)
        .map(|number| {
            let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
            for index in 0..RECORDS {
                let data = vec![b'x'; payload_bytes];
                let full = aggregator.add(key_of(number * RECORDS + index), hash_key, &data).unwrap();
                assert!(full.is_none());
            }
            let aggregate = aggregator.finish().unwrap();
            // Like the records of a source: the sequence number has 56 digits, the payload is a shared buffer.
            let number = format!("4964559386273629824345870{number:031}");
            Record::new(SequenceNumber::new(number).unwrap(), Bytes::from(aggregate.data.to_vec()))
                .with_partition_key(Some(aggregate.partition_key))
        })
        .collect()
}

/// The median time of a round for each sub-record, in nanoseconds.
fn nanoseconds(mut round: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started_at = Instant::now();
            round();
            started_at.elapsed().as_secs_f64() * 1e9 / f64::from(AGGREGATES * RECORDS)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn measure(what: &str, records: &[Record], range: Option<HashKeyRange>, hashed_keys: &[String]) {
    let digest = nanoseconds(|| {
        for record in records {
            black_box(Md5::digest(&record.data[MAGIC_BYTES..record.data.len() - DIGEST_BYTES]));
        }
    });
    let keys = nanoseconds(|| {
        for key in hashed_keys {
            black_box(hash_key_of(key));
        }
    });
    let mut sub_records = Vec::with_capacity((AGGREGATES * RECORDS) as usize);
    let whole = nanoseconds(|| {
        sub_records.clear();
        for record in records {
            black_box(deaggregate(record.clone(), range, &mut sub_records));
        }
        black_box(&sub_records);
    });
    println!("{what:<52} {whole:>7.0} {digest:>7.0} {keys:>7.0} {:>7.0}", whole - digest - keys);
}

fn main() {
    println!(
        "nanoseconds for each sub-record, {AGGREGATES} aggregates of {RECORDS}, median of {ROUNDS} rounds"
    );
    println!("{:<52} {:>7} {:>7} {:>7} {:>7}", "", "whole", "digest", "keys", "rest");
    // All keys lie inside the range, but the filter has to hash each of them to find out.
    let nearly_full = HashKeyRange::new(HashKey(1), HashKey::MAX).ok();
    let one_key = |_| "user-17".to_owned();
    let own_key = |index| format!("user-{index}");
    let own_keys: Vec<String> = (0..AGGREGATES * RECORDS).map(own_key).collect();
    let shared_key = vec![one_key(0); AGGREGATES as usize]; // one table entry in each aggregate
    for bytes in [32, 512] {
        let shared = aggregates(bytes, one_key, None);
        let own = aggregates(bytes, own_key, None);
        let explicit = aggregates(bytes, own_key, Some(hash_key_of("together")));
        measure(&format!("{bytes} B, one key, no range"), &shared, None, &[]);
        measure(&format!("{bytes} B, one key, filtered"), &shared, nearly_full, &shared_key);
        measure(&format!("{bytes} B, a key each, no range"), &own, None, &[]);
        measure(&format!("{bytes} B, a key each, filtered"), &own, nearly_full, &own_keys);
        measure(
            &format!("{bytes} B, a key each, one explicit hash key, filtered"),
            &explicit,
            nearly_full,
            &[],
        );
    }
}
