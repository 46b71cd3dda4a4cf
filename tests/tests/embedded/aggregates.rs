//! Aggregated records through a reshard.

use std::ops::Range;

use end_to_end_tests::fleet::{Member, member, setup};
use kinesis_streaming::lease_store::HashKeyRange;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{
    AggregateFilter, Aggregator, KPL_PARTITION_KEY, RecordDistribution, hash_key_of,
};
use test_support::{LIMIT, wait_until};

/// The largest aggregate that the producer builds, in bytes: about 20 of its records.
const MAX_AGGREGATE_BYTES: usize = 500;

/// Puts as the Kinesis Producer Library does. It aggregates by the shards that it knows, which may be outdated, checks which
/// shard took an aggregate, and puts the records again that belong to another shard.
struct Producer {
    stream: InMemoryStream,
    known_ranges: Vec<HashKeyRange>,
}

impl Producer {
    async fn new(stream: &InMemoryStream) -> Self {
        let mut producer = Self { stream: stream.clone(), known_ranges: Vec::new() };
        producer.list_shards().await;
        producer
    }

    /// Learns the ranges of the open shards.
    async fn list_shards(&mut self) {
        let shards = self.stream.list_shards(&ShardFilter::All).await.unwrap();
        let open = shards.into_iter().filter(|shard| !shard.is_closed);
        self.known_ranges = open.map(|shard| shard.hash_key_range.unwrap()).collect();
    }

    /// Puts these numbers and returns how many of them were put again.
    async fn put(&mut self, numbers: Range<usize>) -> u64 {
        let mut waiting: Vec<usize> = numbers.collect();
        let mut sent_again = 0;
        loop {
            waiting = self.put_once(&waiting).await;
            if waiting.is_empty() {
                return sent_again;
            }
            sent_again += waiting.len() as u64;
            self.list_shards().await;
        }
    }

    async fn put_once(&self, numbers: &[usize]) -> Vec<usize> {
        let shards = self.stream.list_shards(&ShardFilter::All).await.unwrap();
        let mut misplaced = Vec::new();
        for range in &self.known_ranges {
            let mut aggregator = Aggregator::new(MAX_AGGREGATE_BYTES);
            let mut inside: Vec<usize> = Vec::new();
            let of_range =
                numbers.iter().copied().filter(|number| range.contains(hash_key_of(&key(*number))));
            for number in of_range.map(Some).chain([None]) {
                let full = match number {
                    Some(number) => aggregator.add(key(number), None, number.to_string().as_bytes()).unwrap(),
                    None => aggregator.finish(),
                };
                if let Some(aggregate) = full {
                    let of_kpl = Some(KPL_PARTITION_KEY);
                    let put = self.stream.put_with_hash_key(aggregate.hash_key, of_kpl, aggregate.data);
                    let (shard_id, _) = put.unwrap();
                    let shard = shards.iter().find(|shard| shard.shard_id == shard_id).unwrap();
                    let actual = shard.hash_key_range.unwrap();
                    inside.retain(|number| !actual.contains(hash_key_of(&key(*number))));
                    misplaced.append(&mut inside);
                }
                inside.extend(number);
            }
        }
        misplaced
    }
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn filtered(members: &[&Member]) -> u64 {
    let shards = members.iter().flat_map(|member| member.handle.status().shards);
    shards.map(|shard| shard.progress.filtered_records).sum()
}

#[tokio::test(start_paused = true)]
async fn aggregates_over_a_reshard_are_delivered_exactly_once() {
    let (stream, store, journal) = setup(1);
    let mut producer = Producer::new(&stream).await;
    let one = Member::start(member("one", &stream, &store, &journal));
    let two = Member::start(member("two", &stream, &store, &journal));
    assert_eq!(producer.put(0..200).await, 0);
    journal.wait_for(200, LIMIT).await;

    // The producer learns of the split only when it checks which shards took its aggregates.
    stream.split(&stream.open_shards()[0]).unwrap();
    let sent_again = producer.put(200..400).await;
    assert!(sent_again > 50, "the aggregates hold records of both children: {sent_again}");
    journal.wait_for(400, LIMIT).await;
    wait_until("filtered sub-records are counted", || filtered(&[&one, &two]) == sent_again).await;

    // A planned stop with filtered sub-records around the checkpoint: the other member repeats nothing.
    assert!(one.stop().await.is_drained());
    two.wait_until_holding(2).await;
    stream.split(&stream.open_shards()[0]).unwrap();
    assert!(producer.put(400..600).await > 0);
    journal.wait_for(600, LIMIT).await;

    // After a merge every sub-record belongs to its shard.
    let open = stream.open_shards();
    stream.merge(&open[1], &open[2]).unwrap();
    assert_eq!(producer.put(600..800).await, 0);
    journal.wait_for(800, LIMIT).await;
    tokio::time::sleep(LIMIT).await; // long enough for any redelivery
    assert_eq!(journal.times(), (0..800).map(|number| (number.to_string(), 1)).collect());
    journal.check_order();
    assert!(two.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn aggregate_with_one_explicit_hash_key_survives_every_split() {
    let (stream, store, journal) = setup(2);
    for _ in 0..2 {
        for shard_id in stream.open_shards() {
            stream.split(&shard_id).unwrap();
        }
    }
    let member = Member::start(member("a", &stream, &store, &journal));
    for group in 0..20 {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        let together = Some(hash_key_of(&format!("group-{group}")));
        for number in group * 10..group * 10 + 10 {
            aggregator.add(key(number), together, number.to_string().as_bytes()).unwrap();
        }
        let aggregate = aggregator.finish().unwrap();
        stream.put_with_hash_key(aggregate.hash_key, Some(aggregate.partition_key), aggregate.data).unwrap();
    }
    journal.wait_for(200, LIMIT).await;
    assert_eq!(filtered(&[&member]), 0);
    assert_eq!(journal.times(), (0..200).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn deaggregation_can_be_switched_off_for_a_receiver() {
    let (stream, store, journal) = setup(1);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    aggregator.add(key(0), None, b"inside").unwrap();
    let aggregate = aggregator.finish().unwrap();
    let put = aggregate.data.clone();
    stream.put_with_hash_key(aggregate.hash_key, Some(aggregate.partition_key), aggregate.data).unwrap();
    let _member = Member::start(member("a", &stream, &store, &journal).deaggregates(false));
    journal.wait_for(1, LIMIT).await;
    assert_eq!(journal.all()[0].text, String::from_utf8_lossy(&put));
}

/// Puts these numbers as producers other than the KPL do: ten of any keys in one aggregate, sent once, by the first key.
fn put_mixed(stream: &InMemoryStream, numbers: Range<usize>) {
    for start in numbers.step_by(10) {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for number in start..start + 10 {
            aggregator.add(key(number), None, number.to_string().as_bytes()).unwrap();
        }
        let aggregate = aggregator.finish().unwrap();
        stream.put_with_hash_key(aggregate.hash_key, Some(aggregate.partition_key), aggregate.data).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn mixed_aggregates_keep_all_their_records() {
    let (stream, store, journal) = setup(4);
    let member = Member::start(member("a", &stream, &store, &journal));
    put_mixed(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    // Records are kept also right after splits and merges, when the KPL puts records again.
    let open = stream.open_shards();
    stream.split(&open[0]).unwrap();
    stream.merge(&open[2], &open[3]).unwrap();
    put_mixed(&stream, 100..300);
    journal.wait_for(300, LIMIT).await;
    assert_eq!(filtered(&[&member]), 0);
    assert_eq!(journal.times(), (0..300).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn automatic_distribution_keeps_all_records() {
    let (stream, store, journal) = setup(1);
    stream.set_distribution(Some(RecordDistribution::Automatic));
    let member = Member::start(member("a", &stream, &store, &journal));
    stream.split(&stream.open_shards()[0]).unwrap();
    put_mixed(&stream, 0..200);
    journal.wait_for(200, LIMIT).await;
    assert_eq!(filtered(&[&member]), 0);
    assert_eq!(journal.times(), (0..200).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn aggregate_filter_can_be_set_for_a_receiver() {
    for (filter, filters) in [
        (AggregateFilter::AfterReshard, true),
        (AggregateFilter::Always, true),
        (AggregateFilter::Never, false),
    ] {
        let (stream, store, journal) = setup(1);
        let mut producer = Producer::new(&stream).await;
        stream.split(&stream.open_shards()[0]).unwrap();
        let member = Member::start(member("a", &stream, &store, &journal).aggregate_filter(filter));
        let sent_again = producer.put(0..200).await;
        assert!(sent_again > 50, "{sent_again}");
        journal.wait_for(200, LIMIT).await;
        tokio::time::sleep(LIMIT).await; // long enough for any redelivery
        let repeated = journal.times().into_values().filter(|times| *times > 1).count() as u64;
        let expected = if filters { (sent_again, 0) } else { (0, sent_again) };
        assert_eq!((filtered(&[&member]), repeated), expected, "{filter:?}");
    }
}
