//! Receiving ahead of processing: limits of memory and stores, failing stores, and the contract of a reader.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lease_store::{Position, SequenceNumber, ShardId};
use shard_worker::{InMemoryStream, ReadFrom, Record, RecordSource, SourceErrorKind, StreamSource as _};
use storage_buffer::{BlockStores, StorageBuffer, StorageErrorKind, StorageLevel, StorageSettings};
use test_support::faulty_object_store::FaultyObjectStore;
use test_support::{HookedStream, LIMIT, ReadLog};
use tokio::time::{Instant, timeout};

use crate::BLOCK_RECORDS;

/// The size of one payload, in bytes.
const PAYLOAD_BYTES: usize = 1000;

const LEVELS: [StorageLevel; 6] = [
    StorageLevel::MemoryOnly,
    StorageLevel::MemoryAndDisk,
    StorageLevel::DiskOnly,
    StorageLevel::MemoryOnly2,
    StorageLevel::MemoryAndDisk2,
    StorageLevel::DiskOnly2,
];

fn stream(shards: usize) -> InMemoryStream {
    let stream = InMemoryStream::new("s", NonZeroUsize::new(shards).unwrap());
    stream.set_max_batch_records(NonZeroUsize::new(BLOCK_RECORDS).unwrap());
    stream
}

/// A payload that holds a number, padded with zeros.
fn payload(number: usize) -> String {
    format!("{number:0>PAYLOAD_BYTES$}")
}

fn number_of(record: &Record) -> usize {
    std::str::from_utf8(&record.data).unwrap().parse().unwrap()
}

/// Puts records into one shard.
fn put(stream: &InMemoryStream, shard: &ShardId, numbers: std::ops::Range<usize>) -> Vec<SequenceNumber> {
    let key = (0..).map(|index| format!("key-{index}")).find(|key| {
        let probe = InMemoryStream::new("probe", NonZeroUsize::new(stream.open_shards().len()).unwrap());
        probe.put(key.clone(), "x").unwrap().0 == *shard
    });
    let key = key.unwrap();
    numbers.map(|number| stream.put(key.clone(), payload(number)).unwrap().1).collect()
}

/// The memory of one block, in bytes.
async fn block_bytes() -> u64 {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..BLOCK_RECORDS);
    let mut reader = stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    reader.next_batch().await.unwrap().memory_bytes()
}

struct Stores {
    local: FaultyObjectStore,
    replica: FaultyObjectStore,
}

impl Stores {
    fn new() -> Self {
        Self { local: FaultyObjectStore::default(), replica: FaultyObjectStore::default() }
    }

    fn block_stores(&self) -> BlockStores {
        BlockStores::none().local(self.local.shared()).replica(self.replica.shared())
    }
}

/// Fails a test that waits too long.
struct Deadline(Instant);

impl Deadline {
    fn new() -> Self {
        Self(Instant::now() + LIMIT * 10)
    }

    fn check(&self) {
        assert!(Instant::now() < self.0, "every record arrives in time");
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(30)).await;
}

async fn numbers_until(reader: &mut Box<dyn RecordSource>, last: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    let reading = async {
        while numbers.last() != Some(&last) {
            numbers.extend(reader.next_batch().await.unwrap().records.iter().map(number_of));
        }
    };
    timeout(LIMIT, reading).await.expect("every record arrives");
    numbers
}

fn received_records(buffer: &StorageBuffer) -> u64 {
    buffer.usage().received_records
}

#[tokio::test(start_paused = true)]
async fn each_level_receives_ahead_up_to_its_limits() {
    let block = block_bytes().await;
    let total = 400;
    for level in LEVELS {
        let (stream, stores) = (stream(1), Stores::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..total);
        let (max_memory, max_stored) = (block * 12, block * 30);
        let settings =
            StorageSettings::new("words", level).max_memory_bytes(max_memory).max_stored_bytes(max_stored);
        let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        settle().await;
        let usage = buffer.usage();
        let received_blocks = usage.received_records / BLOCK_RECORDS as u64;
        // Bounded by the memory, by three quarters of it and the disk, or by the disk. A stored block is smaller than in memory.
        let expected = match level {
            StorageLevel::MemoryOnly | StorageLevel::MemoryOnly2 => 12..=12,
            StorageLevel::MemoryAndDisk => 9 + 30..=9 + 40,
            StorageLevel::DiskOnly | StorageLevel::DiskOnly2 | StorageLevel::MemoryAndDisk2 => 30..=40,
        };
        assert!(expected.contains(&received_blocks), "{level}: {received_blocks} blocks");
        assert!(usage.most_memory_bytes <= max_memory, "{level}: {usage:?}");
        assert!(usage.local_bytes <= max_stored && usage.replica_bytes <= max_stored, "{level}: {usage:?}");
        assert_eq!(usage.local_bytes > 0, level.uses_disk(), "{level}: {usage:?}");
        assert_eq!(usage.replica_bytes > 0, level.is_replicated(), "{level}: {usage:?}");
        settle().await;
        assert_eq!(buffer.usage().received_records, usage.received_records, "{level}: the buffer is full");
        // A reader that checkpoints receives every record, within the limits.
        let mut seen = 0;
        let deadline = Deadline::new();
        while seen < total {
            deadline.check();
            for record in timeout(LIMIT, reader.next_batch()).await.unwrap().unwrap().records {
                assert_eq!(number_of(&record), seen, "{level}");
                reader.checkpointed(&record.position());
                seen += 1;
            }
        }
        let usage = buffer.usage();
        assert!(usage.most_memory_bytes <= max_memory, "{level}: {usage:?}");
        settle().await;
        assert!(stores.local.paths().await.len() <= 1 && stores.replica.paths().await.len() <= 1);
        assert!(buffer.usage().local_bytes <= block && buffer.usage().replica_bytes <= block);
        assert_eq!(buffer.usage().memory_bytes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_shard_does_not_block_other_shards() {
    let block = block_bytes().await;
    for level in LEVELS {
        let (stream, stores) = (stream(2), Stores::new());
        let [hung, busy] = <[ShardId; 2]>::try_from(stream.open_shards()).unwrap();
        let settings =
            StorageSettings::new("words", level).max_memory_bytes(block * 4).max_stored_bytes(block * 4);
        let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
        put(&stream, &hung, 0..100);
        let _hung = buffer.open(&hung, &ReadFrom::TrimHorizon).await.unwrap();
        settle().await;
        let mut reader = buffer.open(&busy, &ReadFrom::TrimHorizon).await.unwrap();
        put(&stream, &busy, 0..60);
        let mut seen = 0;
        let deadline = Deadline::new();
        while seen < 60 {
            deadline.check();
            for record in timeout(LIMIT, reader.next_batch()).await.unwrap().unwrap().records {
                assert_eq!(number_of(&record), seen, "{level}");
                seen += 1;
                reader.checkpointed(&record.position());
            }
        }
        let usage = buffer.usage();
        // One block may exceed the limit, and the block at the checkpoint stays.
        assert!(usage.most_memory_bytes <= block * 6, "{level}: {usage:?}");
        assert!(usage.local_bytes <= block * 6 && usage.replica_bytes <= block * 6, "{level}: {usage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_replica_halts_receiving_and_loses_nothing() {
    for level in [StorageLevel::MemoryOnly2, StorageLevel::MemoryAndDisk2, StorageLevel::DiskOnly2] {
        let (stream, stores) = (stream(1), Stores::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..9);
        stores.replica.faults.refuses_writes.turn_on();
        let buffer =
            StorageBuffer::new(stream.clone(), StorageSettings::new("words", level), stores.block_stores())
                .unwrap();
        let mut reader = buffer.clone().seeded(3).open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        let mut errors = 0;
        for _ in 0..60 {
            match timeout(LIMIT, reader.next_batch()).await.unwrap() {
                Ok(batch) => assert!(batch.records.is_empty(), "{level}: not in the replica store yet"),
                Err(error) => {
                    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
                    for part in ["cannot write words/s/shardId-000000000000/", "no space left", "free space"]
                    {
                        assert!(error.to_string().contains(part), "{error}");
                    }
                    errors += 1;
                }
            }
        }
        let attempts = buffer.usage().store_failures;
        assert!(
            (3..20).contains(&attempts),
            "{level}: {attempts} attempts in about a minute, with growing waits"
        );
        assert!(errors > 50, "{level}: each read reports the error while it lasts");
        assert!(stores.local.paths().await.is_empty(), "{level}: the replica is written first");
        stores.replica.faults.refuses_writes.turn_off();
        let mut numbers = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while numbers.len() < 9 && Instant::now() < deadline {
            // The write is retried within the longest wait; until then each read returns the error.
            numbers.extend(reader.next_batch().await.iter().flat_map(|batch| &batch.records).map(number_of));
        }
        assert_eq!(numbers, (0..9).collect::<Vec<_>>(), "{level}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_halts_receiving_and_loses_nothing() {
    let block = block_bytes().await;
    for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly] {
        let (stream, stores) = (stream(1), Stores::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..60);
        stores.local.faults.refuses_writes.turn_on();
        let settings = StorageSettings::new("words", level).max_memory_bytes(block * 4);
        let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        settle().await;
        let received = received_records(&buffer);
        let in_memory = if level == StorageLevel::MemoryAndDisk { 9 } else { 0 };
        assert_eq!(received, in_memory, "the memory is full of received records");
        assert!(buffer.usage().store_failures > 1);
        stores.local.faults.refuses_writes.turn_off();
        let mut numbers = Vec::new();
        let deadline = Deadline::new();
        while numbers.len() < 60 {
            deadline.check();
            match reader.next_batch().await {
                Ok(batch) => numbers.extend(batch.records.iter().map(number_of)),
                Err(error) => assert!(error.to_string().contains("no space left"), "{error}"),
            }
        }
        assert_eq!(numbers, (0..60).collect::<Vec<_>>(), "{level}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_listing_is_an_error_and_skips_nothing() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..9);
    let settings = StorageSettings::new("words", StorageLevel::DiskOnly);
    let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
    stores.local.faults.refuses_lists.turn_on();
    let error = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains("cannot list words/s/shardId-000000000000"), "{error}");
    stores.local.faults.refuses_lists.turn_off();
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 8).await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn undeletable_blocks_keep_their_capacity() {
    let block = block_bytes().await;
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..120);
    let settings = StorageSettings::new("words", StorageLevel::DiskOnly).max_stored_bytes(block * 5);
    let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
    stores.local.faults.refuses_deletes.turn_on();
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..40 {
        for record in reader.next_batch().await.unwrap().records {
            numbers.push(number_of(&record));
            reader.checkpointed(&record.position());
        }
    }
    assert!(buffer.usage().store_failures > 0);
    stores.local.faults.refuses_deletes.turn_off();
    let deadline = Deadline::new();
    while numbers.len() < 120 {
        deadline.check();
        for record in timeout(LIMIT, reader.next_batch()).await.unwrap().unwrap().records {
            numbers.push(number_of(&record));
            reader.checkpointed(&record.position());
        }
    }
    assert_eq!(numbers, (0..120).collect::<Vec<_>>());
    settle().await;
    assert!(stores.local.paths().await.len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_read_loses_nothing_and_an_idle_one_returns() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly2] {
        let buffer =
            StorageBuffer::new(stream.clone(), StorageSettings::new("words", level), stores.block_stores())
                .unwrap();
        let mut reader = buffer.seeded(1).open(&shard_id, &ReadFrom::Latest).await.unwrap();
        let before = Instant::now();
        let idle = reader.next_batch().await.unwrap();
        assert!(idle.records.is_empty() && before.elapsed() <= Duration::from_secs(2));
        settle().await;
        put(&stream, &shard_id, 0..30);
        let mut numbers = Vec::new();
        let mut cancelled = 0;
        // Reads that are polled once and dropped, mixed with reads that are awaited.
        let deadline = Deadline::new();
        while numbers.len() < 30 {
            deadline.check();
            for wait in [0, 0, 1, 3000] {
                match timeout(Duration::from_millis(wait), reader.next_batch()).await {
                    Ok(batch) => numbers.extend(batch.unwrap().records.iter().map(number_of)),
                    Err(_) => cancelled += 1,
                }
            }
        }
        assert_eq!(numbers, (0..30).collect::<Vec<_>>(), "{level}, {cancelled} cancelled");
        drop(reader);
        settle().await;
        for store in [&stores.local, &stores.replica] {
            for path in store.paths().await {
                store.remove(&path).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ready_announces_the_size_of_the_next_batch() {
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly] {
        let (stream, stores) = (stream(1), Stores::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..30);
        let buffer =
            StorageBuffer::new(stream.clone(), StorageSettings::new("words", level), stores.block_stores())
                .unwrap();
        let mut reader = buffer.seeded(1).open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        let mut seen = 0;
        let deadline = Deadline::new();
        while seen < 30 {
            deadline.check();
            let announced = reader.ready().await;
            let batch = reader.next_batch().await.unwrap();
            assert!(batch.memory_bytes() <= announced, "{level}: {} of {announced}", batch.memory_bytes());
            assert!(
                announced <= batch.memory_bytes() * 2,
                "{level}: {announced} for {}",
                batch.memory_bytes()
            );
            seen += batch.records.len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_is_that_of_the_served_records() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = StorageSettings::new("words", StorageLevel::MemoryOnly);
    let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    for index in 0..3 {
        put(&stream, &shard_id, index * BLOCK_RECORDS..(index + 1) * BLOCK_RECORDS);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let mut lags = Vec::new();
    let deadline = Deadline::new();
    while lags.len() < 3 {
        deadline.check();
        let batch = reader.next_batch().await.unwrap();
        if !batch.records.is_empty() {
            lags.push(batch.millis_behind_latest.unwrap());
        }
    }
    assert_eq!(lags, [20_000, 10_000, 0], "each record was the newest when it was received");
}

#[tokio::test(start_paused = true)]
async fn a_stream_error_comes_after_the_records_before_it() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = StorageSettings::new("words", StorageLevel::MemoryAndDisk);
    let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    put(&stream, &shard_id, 0..6);
    settle().await;
    stream.fail_reads(SourceErrorKind::Denied, 3);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    put(&stream, &shard_id, 6..9);
    let mut seen = Vec::new();
    let mut failures = Vec::new();
    let deadline = Deadline::new();
    while seen.len() < 9 {
        deadline.check();
        match reader.next_batch().await {
            Ok(batch) => seen.extend(batch.records.iter().map(number_of)),
            Err(error) => failures.push((seen.len(), error.kind())),
        }
    }
    assert_eq!(seen, (0..9).collect::<Vec<_>>());
    assert!(
        !failures.is_empty() && failures.iter().all(|failure| *failure == (6, SourceErrorKind::Denied)),
        "{failures:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_at_latest_skips_nothing() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..3);
    let log = ReadLog::default();
    let watched = log.watch(stream.clone());
    let settings = StorageSettings::new("words", StorageLevel::DiskOnly);
    let buffer = StorageBuffer::new(watched, settings, stores.block_stores()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::Latest).await.unwrap();
    settle().await;
    stream.fail_reads(SourceErrorKind::Throttled, 2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    put(&stream, &shard_id, 3..6);
    let mut seen = Vec::new();
    let deadline = Deadline::new();
    while seen.len() < 3 {
        deadline.check();
        match reader.next_batch().await {
            Ok(batch) => seen.extend(batch.records.iter().map(number_of)),
            Err(error) => assert_eq!(error.kind(), SourceErrorKind::Throttled),
        }
    }
    assert_eq!(seen, [3, 4, 5]);
    assert_eq!(log.opened(), [ReadFrom::Latest]);
    // Closed before any checkpoint: the records received at LATEST are served again.
    drop(reader);
    settle().await;
    let mut reader = buffer.open(&shard_id, &ReadFrom::Latest).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 5).await, [3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn overlapping_blocks_repeat_and_skip_nothing() {
    let stores = Stores::new();
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let numbers = put(&stream, &shard_id, 0..20);
    let settings = || StorageSettings::new("words", StorageLevel::DiskOnly2);
    // Workers that each believe they hold the lease store blocks of different sizes.
    for (from, block) in [(0, 3), (1, 4), (5, 7)] {
        stream.set_max_batch_records(NonZeroUsize::new(block).unwrap());
        let other =
            BlockStores::none().local(FaultyObjectStore::default().shared()).replica(stores.replica.shared());
        let buffer = StorageBuffer::new(stream.clone(), settings(), other).unwrap().seeded(1);
        let reader = buffer.open(&shard_id, &ReadFrom::At(numbers[from].clone())).await.unwrap();
        settle().await;
        drop(reader);
        settle().await;
    }
    for from in [0, 4, 11] {
        let buffer = StorageBuffer::new(stream.clone(), settings(), stores.block_stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::At(numbers[from].clone())).await.unwrap();
        assert_eq!(numbers_until(&mut reader, 19).await, (from..20).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_reader_still_deletes_checkpointed_blocks() {
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..9);
    let settings = StorageSettings::new("words", StorageLevel::DiskOnly2);
    let buffer = StorageBuffer::new(stream.clone(), settings, stores.block_stores()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 8).await.len(), 9);
    assert_eq!(stores.replica.paths().await.len(), 3);
    // The worker does this after it recorded the end of the shard.
    reader.checkpointed(&Position::ShardEnd);
    drop(reader);
    settle().await;
    assert!(stores.local.paths().await.is_empty() && stores.replica.paths().await.is_empty());
    let received = received_records(&buffer);
    put(&stream, &shard_id, 9..30);
    settle().await;
    assert_eq!(received_records(&buffer), received);
    let usage = buffer.usage();
    assert_eq!(
        (usage.memory_bytes, usage.local_bytes, usage.replica_bytes),
        (0, 0, 0),
        "all capacity is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn settings_that_contradict_the_stores_are_refused() {
    let settings = StorageSettings::new("words", StorageLevel::MemoryAndDisk2);
    let error = StorageBuffer::new(stream(1), settings, BlockStores::none()).unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::InvalidSettings);
    for part in ["needs a local store", "needs a replica store"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deaggregating_source_is_refused_and_skips_nothing() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..3);
    let settings = StorageSettings::new("words", StorageLevel::MemoryOnly);
    let source = HookedStream::new(stream).after_read(|_, mut batch| {
        batch.records.iter_mut().for_each(|record| record.sub_sequence_number = 1);
        batch
    });
    let buffer = StorageBuffer::shared(Arc::new(source), settings, BlockStores::none()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut errors = 0;
    for _ in 0..20 {
        match reader.next_batch().await {
            Ok(batch) => assert!(batch.records.is_empty()),
            Err(error) => {
                assert!(error.to_string().contains("does not de-aggregate"), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 1, "each read returns the error");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_source_is_read_again_and_skips_nothing() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..30);
    let settings = StorageSettings::new("words", StorageLevel::MemoryOnly);
    let reads = AtomicUsize::new(0);
    let source = HookedStream::new(stream).after_read(move |_, batch| {
        assert!(reads.fetch_add(1, Ordering::Relaxed) % 3 != 2, "a bug in the source");
        batch
    });
    let buffer = StorageBuffer::new(source, settings, BlockStores::none()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let (mut numbers, mut panics) = (Vec::new(), 0);
    let deadline = Deadline::new();
    while numbers.len() < 30 {
        deadline.check();
        match timeout(LIMIT, reader.next_batch()).await.unwrap() {
            Ok(batch) => numbers.extend(batch.records.iter().map(number_of)),
            Err(error) => panics += usize::from(error.to_string().contains("panicked")),
        }
    }
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
    assert!(panics > 0);
}

#[tokio::test(start_paused = true)]
async fn a_block_smaller_than_announced_stays_in_memory() {
    let block = block_bytes().await;
    let (stream, stores) = (stream(1), Stores::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..15 * BLOCK_RECORDS);
    // Three quarters of the memory hold fifteen waiting blocks.
    let settings = StorageSettings::new("words", StorageLevel::MemoryAndDisk).max_memory_bytes(block * 20);
    let source = HookedStream::new(stream.clone()).after_ready(move |_| block * 14);
    let buffer = StorageBuffer::new(source, settings, stores.block_stores()).unwrap().seeded(1);
    let _reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    settle().await;
    let usage = buffer.usage();
    assert_eq!((usage.memory_bytes, usage.local_bytes), (block * 15, 0), "{usage:?}");
    put(&stream, &shard_id, 15 * BLOCK_RECORDS..20 * BLOCK_RECORDS);
    settle().await;
    assert_eq!(stores.local.paths().await.len(), 5, "the next blocks are written to disk");
}

#[tokio::test(start_paused = true)]
async fn an_announced_empty_batch_stays_empty() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = StorageSettings::new("words", StorageLevel::MemoryOnly);
    let buffer = StorageBuffer::new(stream.clone(), settings, BlockStores::none()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(reader.ready().await, 0);
    put(&stream, &shard_id, 0..BLOCK_RECORDS);
    settle().await;
    assert_eq!(reader.next_batch().await.unwrap().records, []);
    assert_eq!(reader.ready().await, block_bytes().await);
    assert_eq!(reader.next_batch().await.unwrap().records.len(), BLOCK_RECORDS);
}
