//! A shard worker on a stream of aggregates: where it stops and resumes, its counts, and disabled de-aggregation.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lease_store::{HashKey, HashKeyRange, Position};
use shard_worker::{
    AggregateFilter, Aggregator, ByteBudget, InMemoryStream, RecordBatch, ShardOutcome, ShardWorker,
    batch_handler,
};

use crate::support::reading::{run, run_with};

/// How many records the stream holds, sub-records counted one by one.
const RECORDS: usize = 7;

/// A closed shard: a plain record, two aggregates of three and two records, a plain record. The payloads count up. The
/// middle of the first aggregate and the end of the second lie outside the range of [`in_range`].
fn stream() -> InMemoryStream {
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    stream.put("key", "0").unwrap();
    for records in [&[("1", 10), ("2", 20), ("3", 19)][..], &[("4", 12), ("5", 9)]] {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for (text, hash_key) in records {
            aggregator.add("key", Some(HashKey(*hash_key)), text.as_bytes()).unwrap();
        }
        let aggregate = aggregator.finish().unwrap();
        stream.put_with_hash_key(aggregate.hash_key, Some(aggregate.partition_key), aggregate.data).unwrap();
    }
    stream.put("key", "6").unwrap();
    stream.split(&stream.open_shards()[0]).unwrap();
    stream
}

fn in_range(worker: &mut ShardWorker) {
    worker.context.hash_key_range = HashKeyRange::new(HashKey(10), HashKey(19)).ok();
    worker.options.aggregate_filter = AggregateFilter::Always;
}

fn texts(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_worker_resumes_inside_an_aggregate() {
    let stream = stream();
    let all = run(&stream, Position::TrimHorizon, None, |_| {}).await;
    assert_eq!(all.outcome, ShardOutcome::Ended);
    assert_eq!(all.seen.texts(), texts(0..RECORDS));
    let positions = all.seen.positions();
    let numbers: Vec<u64> = positions.iter().map(Position::sub_sequence_number).collect();
    assert_eq!(numbers, [0, 0, 1, 2, 0, 1, 0]);
    assert_eq!(all.progress.aggregates, 2);
    assert_eq!((all.progress.acknowledged_records, all.progress.acknowledged_bytes), (7, 7));
    // It resumes from a checkpoint after any sub-record, such as a KCL process may write.
    for (index, position) in positions.iter().enumerate() {
        let rest = run(&stream, position.clone(), None, |_| {}).await;
        assert_eq!(rest.seen.texts(), texts(index + 1..RECORDS), "after {position}");
        assert_eq!(rest.seen.positions(), positions[index + 1..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_filtered_records_repeats_and_skips_nothing() {
    let stream = stream();
    stream.set_max_batch_records(NonZeroUsize::MIN);
    for stop_at in ["0", "1", "4"] {
        let first = run(&stream, Position::TrimHorizon, Some(stop_at), in_range).await;
        assert_eq!(first.outcome, ShardOutcome::Stopped { drained: true }, "at {stop_at}");
        // The checkpoint is the last delivered record, not the end of its aggregate.
        assert_eq!(Some(&first.seen.checkpoint()), first.seen.positions().last());
        let second = run(&stream, first.seen.checkpoint(), None, in_range).await;
        assert_eq!(second.outcome, ShardOutcome::Ended);
        assert_eq!([first.seen.texts(), second.seen.texts()].concat(), texts([0, 1, 3, 4, 6]));
    }
    let inside = run(&stream, Position::TrimHorizon, Some("4"), in_range).await;
    assert_eq!(inside.seen.checkpoint().sub_sequence_number(), 0, "the record after it was filtered");
    // A worker without a range finds the filtered record at its position.
    let rest = run(&stream, inside.seen.checkpoint(), None, |_| {}).await;
    assert_eq!(rest.seen.texts(), texts([5, 6]));
}

#[tokio::test(start_paused = true)]
async fn aggregates_and_filtered_records_are_counted() {
    let stream = stream();
    // One record per read, so that the counts of many reads add up.
    stream.set_max_batch_records(NonZeroUsize::MIN);
    let run_in_range = run(&stream, Position::TrimHorizon, None, in_range).await;
    let progress = run_in_range.progress;
    assert_eq!((progress.aggregates, progress.filtered_records, progress.malformed_aggregates), (2, 2, 0));
    assert_eq!(progress.acknowledged_records, 5);
}

#[tokio::test(start_paused = true)]
async fn deaggregation_can_be_disabled() {
    let stream = stream();
    let whole = |worker: &mut ShardWorker| worker.options.deaggregates = false;
    let all = run(&stream, Position::TrimHorizon, None, whole).await;
    assert_eq!(all.seen.positions().len(), 4);
    assert_eq!(all.progress.aggregates, 0);
    // Disabled at a checkpoint inside an aggregate: the whole is delivered, so that its end is not lost.
    let inside = Position::after(sequence_number(&all.seen.positions()[1]), 1);
    let rest = run(&stream, inside, None, whole).await;
    assert_eq!(rest.seen.positions(), all.seen.positions()[1..]);
    assert_eq!(rest.outcome, ShardOutcome::Ended);
}

fn sequence_number(position: &Position) -> lease_store::SequenceNumber {
    let Position::After(record) = position else { panic!("{position} is no record") };
    record.sequence_number.clone()
}

#[tokio::test(start_paused = true)]
async fn huge_aggregate_is_delivered_in_bounded_parts() {
    /// The smallest records of an aggregate: six bytes each.
    const SUB_RECORDS: usize = 150_000;
    /// The most memory of a part of 65,536 records of 256 bytes, with the aggregate itself.
    const MAX_BYTES: u64 = 65_536 * 256 + 2 * 1024 * 1024;
    let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
    let mut aggregator = Aggregator::new(1024 * 1024);
    for _ in 0..SUB_RECORDS {
        assert!(aggregator.add("k", None, b"").unwrap().is_none());
    }
    let aggregate = aggregator.finish().unwrap();
    stream.put_with_hash_key(aggregate.hash_key, Some(aggregate.partition_key), aggregate.data).unwrap();
    stream.split(&stream.open_shards()[0]).unwrap();
    let budget = ByteBudget::default();
    let (used, batches) = (budget.clone(), Arc::new(Mutex::new(Vec::new())));
    let recorded = batches.clone();
    let shared = budget.clone();
    let run = run_with(
        &stream,
        Position::TrimHorizon,
        &Arc::default(),
        batch_handler(move |_, batch: RecordBatch| {
            recorded.lock().unwrap().push((batch.len(), used.usage().buffered_bytes));
            async { Ok(()) }
        }),
        move |worker| worker.options.budget = shared,
    )
    .await;
    assert_eq!(run.outcome, ShardOutcome::Ended);
    let (lengths, bytes): (Vec<usize>, Vec<u64>) = batches.lock().unwrap().iter().copied().unzip();
    assert_eq!(lengths, [65_536, 65_536, SUB_RECORDS - 2 * 65_536]);
    assert!(bytes.iter().all(|&bytes| bytes <= MAX_BYTES), "{bytes:?}");
    assert!(budget.usage().most_buffered_bytes <= MAX_BYTES, "{:?}", budget.usage());
    assert_eq!(budget.usage().buffered_bytes, 0, "all memory is returned");
    assert_eq!((run.progress.aggregates, run.progress.acknowledged_records), (1, SUB_RECORDS as u64));
}
