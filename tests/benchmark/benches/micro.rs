//! Micro-benchmarks under criterion: `cargo bench -p benchmark`.
//!
//! `cargo bench -p kinesis-shard-worker` reports the cost of de-aggregation beyond the digest. It subtracts one measurement
//! from another, which criterion does not support.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)] // a panic ends the measurement

use std::collections::HashSet;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use kinesis_streaming::kinesis_asl::internals::read;
use kinesis_streaming::lease_store::{Lease, LeaseChange, Position, SequenceNumber, ShardId, WorkerId};
use receiver::internals::{AssignmentLimits, Holdings, ObservedLease, plan_assignment};
use shard_worker::internals::Window;
use shard_worker::{Aggregator, Record, deaggregate};

/// Largest number of records of an answer.
const RECORDS: u64 = 10_000;

/// Number of records that are delivered and not acknowledged.
const WINDOW: usize = 100_000;

/// A large fleet for the planner.
const LEASES: u64 = 1000;
const WORKERS: u64 = 20;

fn sequence_numbers(criterion: &mut Criterion) {
    let numbers: Vec<SequenceNumber> =
        (0..RECORDS).map(|number| SequenceNumber::new(format!("49{number:054}")).unwrap()).collect();
    let mut group = criterion.benchmark_group("sequence numbers");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("compare with the next", |bencher| {
        bencher.iter(|| black_box(&numbers).windows(2).all(|pair| pair[0] < pair[1]));
    });
    let texts: Vec<&str> = numbers.iter().map(SequenceNumber::as_str).collect();
    group.bench_function("check", |bencher| {
        bencher.iter(|| black_box(&texts).iter().all(|text| SequenceNumber::new(*text).is_ok()));
    });
    group.finish();
}

fn acknowledgement(criterion: &mut Criterion) {
    let record = |number: usize| {
        Record::new(SequenceNumber::new(format!("49{number:054}")).unwrap(), bytes::Bytes::new())
    };
    let records: Vec<Record> = (0..WINDOW).map(record).collect();
    let mut order: Vec<(u64, usize)> = (0..WINDOW).map(|at| ((at / 1000) as u64, at % 1000)).collect();
    let delivered = || {
        let mut window = Window::default();
        for batch in records.chunks(1000) {
            let delivery = window.push(batch, 0);
            window.keep_positions(delivery, batch);
        }
        window
    };
    let mut group = criterion.benchmark_group("acknowledgement window of 100,000");
    group.throughput(Throughput::Elements(WINDOW as u64));
    group.bench_function("deliver", |bencher| bencher.iter(delivered));
    Rng::with_seed(1).shuffle(&mut order);
    let mut acknowledge = |name: &str, order: &[(u64, usize)]| {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                delivered,
                |window| {
                    order.iter().filter_map(|(delivery, index)| window.acknowledge(*delivery, *index)).count()
                },
                BatchSize::LargeInput,
            );
        });
    };
    acknowledge("acknowledge in random order", &order);
    order.sort_unstable();
    acknowledge("acknowledge in order", &order);
    order.reverse();
    acknowledge("acknowledge in reverse order", &order);
    group.finish();
}

/// The body of an answer in CBOR: as AWS writes it, or with stated lengths.
fn answer_body(records: u64, payload_bytes: usize, is_indefinite: bool) -> Vec<u8> {
    let mut rng = Rng::with_seed(1);
    let mut body =
        if is_indefinite { b"\xbf\x67Records\x9f".to_vec() } else { b"\xa3\x67Records\x99".to_vec() };
    if !is_indefinite {
        body.extend(u16::try_from(records).unwrap().to_be_bytes());
    }
    for number in 0..records {
        body.extend(if is_indefinite {
            b"\xbf\x6eSequenceNumber\x78\x38"
        } else {
            b"\xa4\x6eSequenceNumber\x78\x38"
        });
        body.extend(format!("49{number:054}").bytes());
        body.extend(b"\x78\x1bApproximateArrivalTimestamp\xc1\x1b");
        body.extend((1_700_000_000_123 + number).to_be_bytes());
        body.extend(b"\x64Data\x59");
        body.extend(u16::try_from(payload_bytes).unwrap().to_be_bytes());
        body.extend(std::iter::repeat_with(|| rng.u8(..)).take(payload_bytes));
        body.extend(b"\x6cPartitionKey\x76partition-key-");
        body.extend(format!("{:08}", rng.u32(..100_000_000)).bytes());
        body.extend(is_indefinite.then_some(0xff));
    }
    body.extend(is_indefinite.then_some(0xff));
    body.extend(b"\x71NextShardIterator\x78\xe0");
    body.extend([b'i'; 224]);
    body.extend(b"\x72MillisBehindLatest\x00");
    body.extend(is_indefinite.then_some(0xff));
    body
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decoding an answer in CBOR");
    for (what, records, payload_bytes) in [("1,000 of 1 KB", 1000, 1000), ("10,000 of 100 B", 10_000, 100)] {
        group.throughput(Throughput::Elements(records));
        for (form, is_indefinite) in [("stated lengths", false), ("as AWS", true)] {
            let body = answer_body(records, payload_bytes, is_indefinite);
            assert_eq!(read(body.clone()).unwrap().0.len() as u64, records);
            group.bench_function(format!("{what}, {form}"), |bencher| {
                bencher.iter_batched(|| body.clone(), |body| read(body).unwrap(), BatchSize::LargeInput);
            });
        }
    }
    group.finish();
}

fn deaggregation(criterion: &mut Criterion) {
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for index in 0..100 {
        let full = aggregator.add(format!("user-{}", index % 10), None, &[b'x'; 100]);
        assert!(full.is_ok_and(|full| full.is_none()));
    }
    let record =
        Record::new(7.into(), aggregator.finish().unwrap().data).with_partition_key(Some("user-0".into()));
    let mut group = criterion.benchmark_group("de-aggregation");
    group.throughput(Throughput::Elements(100));
    let mut records = Vec::with_capacity(100);
    group.bench_function("100 records of 100 B, 10 keys", |bencher| {
        bencher.iter(|| {
            records.clear();
            black_box(deaggregate(record.clone(), None, &mut records))
        });
    });
    group.finish();
}

/// Plans for a worker that joins a full fleet, and for one in a balanced fleet.
fn planner(criterion: &mut Criterion) {
    let worker = |index: u64| WorkerId::new(format!("worker-{index}")).unwrap();
    let leases = |owners: u64| -> Vec<Lease> {
        let unowned =
            (0..LEASES).map(|shard| Lease::unowned(ShardId::numbered(shard), Position::TrimHorizon));
        unowned
            .zip(0_u64..)
            .map(|(lease, index)| LeaseChange::take(worker(1 + index % owners)).apply(&lease))
            .collect()
    };
    let limits = AssignmentLimits {
        failover_time: Duration::from_secs(10),
        hand_over_time: Duration::from_secs(10),
        drain_time: Duration::from_secs(30),
        max_leases: usize::MAX,
        max_moves: 16,
        max_takes: 100,
    };
    let mut group = criterion.benchmark_group("planner, 1,000 leases and 20 workers");
    for (name, owners, me) in [("joining worker", WORKERS - 1, 0), ("balanced", WORKERS, 1)] {
        let (leases, worker_id) = (leases(owners), worker(me));
        let observed: Vec<ObservedLease<'_>> = leases
            .iter()
            .map(|lease| ObservedLease {
                lease,
                unchanged_for: Duration::ZERO,
                owned_for: None,
                requested_for: Duration::ZERO,
                weight: 1,
                is_of_namesake: false,
                is_paused: false,
            })
            .collect();
        let own = leases.iter().filter(|lease| lease.is_owned_by(&worker_id));
        let held: HashSet<ShardId> = own.map(|lease| lease.shard_id.clone()).collect();
        let requested = HashSet::new();
        let holdings = Holdings { worker_id: &worker_id, held: &held, requested: &requested };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let plan = plan_assignment(black_box(&observed), &holdings, limits, &mut Rng::with_seed(1));
                (plan.take.len(), plan.request.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sequence_numbers, decoding, acknowledgement, deaggregation, planner);
criterion_main!(benches);
