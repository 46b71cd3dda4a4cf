//! The hand-off buffer as a source: what is received ahead, its bounds, places that fail, and what a reader promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

#[path = "support/hand_off.rs"]
mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lease_store::{Position, SequenceNumber, ShardId};
use receiver::{BlockStores, HandOffBuffer, HandOffSettings, ReceiverErrorKind, StorageLevel};
use shard_worker::{
    FetchedBatch, InMemoryStream, ReadFrom, Record, RecordSource, Shard, ShardFilter, SourceError,
    SourceErrorKind, StreamDescription, StreamSource,
};
use support::{FaultyPlace, WatchedStream};
use tokio::time::{Instant, timeout};

/// How long anything may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(120);

/// Records of one batch, and so of one block.
const BLOCK_RECORDS: usize = 3;

/// The payload of one record, in bytes.
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

/// A payload that begins with the number.
fn payload(number: usize) -> String {
    format!("{number:0>PAYLOAD_BYTES$}")
}

fn number_of(record: &Record) -> usize {
    std::str::from_utf8(&record.data).unwrap().parse().unwrap()
}

/// Writes records to the shard that a hash key lies in.
fn put(stream: &InMemoryStream, shard: &ShardId, numbers: std::ops::Range<usize>) -> Vec<SequenceNumber> {
    let key = (0..).map(|index| format!("key-{index}")).find(|key| {
        let probe = InMemoryStream::new("probe", NonZeroUsize::new(stream.open_shards().len()).unwrap());
        probe.put(key.clone(), "x").unwrap().0 == *shard
    });
    let key = key.unwrap();
    numbers.map(|number| stream.put(key.clone(), payload(number)).unwrap().1).collect()
}

/// What a block of this test takes in memory, in bytes.
async fn block_bytes() -> u64 {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..BLOCK_RECORDS);
    let mut reader = stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    reader.next_batch().await.unwrap().memory_bytes()
}

struct Places {
    local: FaultyPlace,
    replica: FaultyPlace,
}

impl Places {
    fn new() -> Self {
        Self { local: FaultyPlace::default(), replica: FaultyPlace::default() }
    }

    fn stores(&self) -> BlockStores {
        BlockStores::none().local(self.local.shared()).replica(self.replica.shared())
    }
}

/// Ends a test that waits in vain.
struct Deadline(Instant);

impl Deadline {
    fn new() -> Self {
        Self(Instant::now() + LIMIT * 10)
    }

    fn check(&self) {
        assert!(Instant::now() < self.0, "everything comes in time");
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
    timeout(LIMIT, reading).await.expect("everything comes");
    numbers
}

fn usable(buffer: &HandOffBuffer) -> u64 {
    buffer.usage().received_records
}

#[tokio::test(start_paused = true)]
async fn each_level_receives_ahead_up_to_its_bounds_and_no_further() {
    let block = block_bytes().await;
    let total = 400;
    for level in LEVELS {
        let (stream, places) = (stream(1), Places::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..total);
        let (max_memory, max_stored) = (block * 12, block * 30);
        let settings =
            HandOffSettings::new("words", level).max_memory_bytes(max_memory).max_stored_bytes(max_stored);
        let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        settle().await;
        let usage = buffer.usage();
        let received_blocks = usage.received_records / BLOCK_RECORDS as u64;
        // The memory; or three quarters of it and the disk; or the disk. Stored blocks are smaller than those in memory.
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
        assert_eq!(buffer.usage().received_records, usage.received_records, "{level}: no further");
        // Whoever processes and checkpoints gets everything, within the bounds.
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
        assert!(places.local.paths().await.len() <= 1 && places.replica.paths().await.len() <= 1);
        assert!(buffer.usage().local_bytes <= block && buffer.usage().replica_bytes <= block);
        assert_eq!(buffer.usage().memory_bytes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_processor_hangs_keeps_no_other_from_receiving() {
    let block = block_bytes().await;
    for level in LEVELS {
        let (stream, places) = (stream(2), Places::new());
        let [hung, busy] = <[ShardId; 2]>::try_from(stream.open_shards()).unwrap();
        let settings =
            HandOffSettings::new("words", level).max_memory_bytes(block * 4).max_stored_bytes(block * 4);
        let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
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
        // One block beyond the limit at a time, and the one at the checkpoint, which stays.
        assert!(usage.most_memory_bytes <= block * 6, "{level}: {usage:?}");
        assert!(usage.local_bytes <= block * 6 && usage.replica_bytes <= block * 6, "{level}: {usage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_fails_holds_reception_up_and_loses_nothing() {
    for level in [StorageLevel::MemoryOnly2, StorageLevel::MemoryAndDisk2, StorageLevel::DiskOnly2] {
        let (stream, places) = (stream(1), Places::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..9);
        places.replica.faults.refuses_writes.store(true, Ordering::Relaxed);
        let buffer =
            HandOffBuffer::new(stream.clone(), HandOffSettings::new("words", level), places.stores())
                .unwrap();
        let mut reader = buffer.clone().seeded(3).open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        let mut errors = 0;
        for _ in 0..60 {
            match timeout(LIMIT, reader.next_batch()).await.unwrap() {
                Ok(batch) => assert!(batch.records.is_empty(), "{level}: it is not in the second place yet"),
                Err(error) => {
                    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
                    for part in ["cannot write words/s/shardId-000000000000/", "no space left", "make room"] {
                        assert!(error.to_string().contains(part), "{error}");
                    }
                    errors += 1;
                }
            }
        }
        let attempts = buffer.usage().store_failures;
        assert!(
            (3..20).contains(&attempts),
            "{level}: {attempts} in about a minute, farther and farther apart"
        );
        assert!(errors > 50, "{level}: as long as it is so, it is said");
        assert!(places.local.paths().await.is_empty(), "{level}: the second place comes first");
        places.replica.faults.refuses_writes.store(false, Ordering::Relaxed);
        let mut numbers = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while numbers.len() < 9 && Instant::now() < deadline {
            // It is tried again within the longest wait, and until then the error is told.
            numbers.extend(reader.next_batch().await.iter().flat_map(|batch| &batch.records).map(number_of));
        }
        assert_eq!(numbers, (0..9).collect::<Vec<_>>(), "{level}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_holds_reception_up_and_loses_nothing() {
    let block = block_bytes().await;
    for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly] {
        let (stream, places) = (stream(1), Places::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..60);
        places.local.faults.refuses_writes.store(true, Ordering::Relaxed);
        let settings = HandOffSettings::new("words", level).max_memory_bytes(block * 4);
        let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        settle().await;
        let received = usable(&buffer);
        let in_memory = if level == StorageLevel::MemoryAndDisk { 9 } else { 0 };
        assert_eq!(received, in_memory, "what is in memory is received");
        assert!(buffer.usage().store_failures > 1);
        places.local.faults.refuses_writes.store(false, Ordering::Relaxed);
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
async fn a_place_that_cannot_be_listed_is_an_error_and_nothing_is_skipped() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..9);
    let settings = HandOffSettings::new("words", StorageLevel::DiskOnly);
    let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
    places.local.faults.refuses_lists.store(true, Ordering::Relaxed);
    let error = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains("cannot list words/s/shardId-000000000000"), "{error}");
    places.local.faults.refuses_lists.store(false, Ordering::Relaxed);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 8).await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn blocks_that_cannot_be_deleted_keep_their_room_until_they_can() {
    let block = block_bytes().await;
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..120);
    let settings = HandOffSettings::new("words", StorageLevel::DiskOnly).max_stored_bytes(block * 5);
    let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
    places.local.faults.refuses_deletes.store(true, Ordering::Relaxed);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..40 {
        for record in reader.next_batch().await.unwrap().records {
            numbers.push(number_of(&record));
            reader.checkpointed(&record.position());
        }
    }
    assert!(buffer.usage().store_failures > 0);
    places.local.faults.refuses_deletes.store(false, Ordering::Relaxed);
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
    assert!(places.local.paths().await.len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_read_loses_nothing_and_an_idle_one_answers_within_seconds() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly2] {
        let buffer =
            HandOffBuffer::new(stream.clone(), HandOffSettings::new("words", level), places.stores())
                .unwrap();
        let mut reader = buffer.seeded(1).open(&shard_id, &ReadFrom::Latest).await.unwrap();
        let before = Instant::now();
        let idle = reader.next_batch().await.unwrap();
        assert!(idle.records.is_empty() && before.elapsed() <= Duration::from_secs(2));
        settle().await;
        put(&stream, &shard_id, 0..30);
        let mut numbers = Vec::new();
        let mut cancelled = 0;
        // A read that is polled once and dropped, again and again, beside those that are waited for.
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
        for place in [&places.local, &places.replica] {
            for path in place.paths().await {
                place.remove(&path).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_next_batch_takes_is_said_beforehand() {
    for level in [StorageLevel::MemoryOnly, StorageLevel::DiskOnly] {
        let (stream, places) = (stream(1), Places::new());
        let shard_id = stream.open_shards().swap_remove(0);
        put(&stream, &shard_id, 0..30);
        let buffer =
            HandOffBuffer::new(stream.clone(), HandOffSettings::new("words", level), places.stores())
                .unwrap();
        let mut reader = buffer.seeded(1).open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        let mut seen = 0;
        let deadline = Deadline::new();
        while seen < 30 {
            deadline.check();
            let said = reader.ready().await;
            let taken = reader.next_batch().await.unwrap();
            assert!(taken.memory_bytes() <= said, "{level}: {} of {said}", taken.memory_bytes());
            assert!(said <= taken.memory_bytes() * 2, "{level}: {said} for {}", taken.memory_bytes());
            seen += taken.records.len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_is_that_of_what_is_handed_over_not_of_what_is_received() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = HandOffSettings::new("words", StorageLevel::MemoryOnly);
    let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
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
    assert_eq!(lags, [20_000, 10_000, 0], "each was at the tip when it was received");
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_stream_comes_after_what_was_received_before_it() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = HandOffSettings::new("words", StorageLevel::MemoryAndDisk);
    let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
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
async fn at_latest_a_failure_skips_nothing() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..3);
    let watched = WatchedStream::new(&stream);
    let log = watched.log.clone();
    let settings = HandOffSettings::new("words", StorageLevel::DiskOnly);
    let buffer = HandOffBuffer::new(watched, settings, places.stores()).unwrap().seeded(1);
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
    assert_eq!(log.opened.lock().unwrap().as_slice(), [ReadFrom::Latest]);
    // Killed before anything was checkpointed: what was received at LATEST comes again.
    drop(reader);
    settle().await;
    let mut reader = buffer.open(&shard_id, &ReadFrom::Latest).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 5).await, [3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn overlapping_blocks_of_a_worker_without_lease_repeat_and_skip_nothing() {
    let places = Places::new();
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let numbers = put(&stream, &shard_id, 0..20);
    let settings = || HandOffSettings::new("words", StorageLevel::DiskOnly2);
    // Two workers, each with the lease in its own view, cut the shard in different blocks.
    for (from, block) in [(0, 3), (1, 4), (5, 7)] {
        stream.set_max_batch_records(NonZeroUsize::new(block).unwrap());
        let other =
            BlockStores::none().local(FaultyPlace::default().shared()).replica(places.replica.shared());
        let buffer = HandOffBuffer::new(stream.clone(), settings(), other).unwrap().seeded(1);
        let reader = buffer.open(&shard_id, &ReadFrom::At(numbers[from].clone())).await.unwrap();
        settle().await;
        drop(reader);
        settle().await;
    }
    for from in [0, 4, 11] {
        let buffer = HandOffBuffer::new(stream.clone(), settings(), places.stores()).unwrap().seeded(1);
        let mut reader = buffer.open(&shard_id, &ReadFrom::At(numbers[from].clone())).await.unwrap();
        assert_eq!(numbers_until(&mut reader, 19).await, (from..20).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_reader_stops_receiving_and_still_deletes_what_is_done() {
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..9);
    let settings = HandOffSettings::new("words", StorageLevel::DiskOnly2);
    let buffer = HandOffBuffer::new(stream.clone(), settings, places.stores()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(numbers_until(&mut reader, 8).await.len(), 9);
    assert_eq!(places.replica.paths().await.len(), 3);
    // As the worker does when the end of the shard is recorded.
    reader.checkpointed(&Position::ShardEnd);
    drop(reader);
    settle().await;
    assert!(places.local.paths().await.is_empty() && places.replica.paths().await.is_empty());
    let received = usable(&buffer);
    put(&stream, &shard_id, 9..30);
    settle().await;
    assert_eq!(usable(&buffer), received);
    let usage = buffer.usage();
    assert_eq!(
        (usage.memory_bytes, usage.local_bytes, usage.replica_bytes),
        (0, 0, 0),
        "all room is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn settings_that_contradict_the_places_are_refused_at_once() {
    let settings = HandOffSettings::new("words", StorageLevel::MemoryAndDisk2);
    let error = HandOffBuffer::new(stream(1), settings, BlockStores::none()).unwrap_err();
    assert_eq!(error.kind(), ReceiverErrorKind::InvalidSettings);
    for part in ["no place to write blocks", "no second place"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// A source that is odd in one way.
#[derive(Debug, Clone)]
struct Odd {
    stream: InMemoryStream,
    how: Oddity,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Oddity {
    TakesAggregatesApart,
    /// At its third read.
    Panics,
    /// Says that each answer can take so many bytes.
    SaysMuch(u64),
}

#[derive(Debug)]
struct OddReader {
    inner: Box<dyn RecordSource>,
    reads: usize,
    how: Oddity,
}

#[async_trait::async_trait]
impl StreamSource for Odd {
    fn stream_name(&self) -> &str {
        self.stream.stream_name()
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.stream.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.stream.list_shards(filter).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        Ok(Box::new(OddReader { inner: self.stream.open(shard_id, from).await?, reads: 0, how: self.how }))
    }
}

#[async_trait::async_trait]
impl RecordSource for OddReader {
    async fn ready(&mut self) -> u64 {
        let bytes = self.inner.ready().await;
        if let Oddity::SaysMuch(bytes) = self.how { bytes } else { bytes }
    }

    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let mut batch = self.inner.next_batch().await?;
        self.reads += 1;
        assert!(self.how != Oddity::Panics || self.reads != 3, "a bug in the source");
        batch.records.iter_mut().for_each(|record| {
            record.sub_sequence_number = u64::from(self.how == Oddity::TakesAggregatesApart);
        });
        Ok(batch)
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_takes_aggregates_apart_is_refused_and_nothing_is_skipped() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..3);
    let settings = HandOffSettings::new("words", StorageLevel::MemoryOnly);
    let source: Arc<dyn StreamSource> = Arc::new(Odd { stream, how: Oddity::TakesAggregatesApart });
    let buffer = HandOffBuffer::shared(source, settings, BlockStores::none()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut errors = 0;
    for _ in 0..20 {
        match reader.next_batch().await {
            Ok(batch) => assert!(batch.records.is_empty()),
            Err(error) => {
                assert!(error.to_string().contains("does not take aggregates apart"), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 1, "it is said as often as it is asked");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_read_again_and_nothing_is_skipped() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..30);
    let settings = HandOffSettings::new("words", StorageLevel::MemoryOnly);
    let source = Odd { stream, how: Oddity::Panics };
    let buffer = HandOffBuffer::new(source, settings, BlockStores::none()).unwrap().seeded(1);
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
async fn a_block_smaller_than_was_said_stays_in_memory_if_it_finds_room_there() {
    let block = block_bytes().await;
    let (stream, places) = (stream(1), Places::new());
    let shard_id = stream.open_shards().swap_remove(0);
    put(&stream, &shard_id, 0..15 * BLOCK_RECORDS);
    // Three quarters of it are for fifteen blocks that wait.
    let settings = HandOffSettings::new("words", StorageLevel::MemoryAndDisk).max_memory_bytes(block * 20);
    let source = Odd { stream: stream.clone(), how: Oddity::SaysMuch(block * 14) };
    let buffer = HandOffBuffer::new(source, settings, places.stores()).unwrap().seeded(1);
    let _reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    settle().await;
    let usage = buffer.usage();
    assert_eq!((usage.memory_bytes, usage.local_bytes), (block * 15, 0), "{usage:?}");
    put(&stream, &shard_id, 15 * BLOCK_RECORDS..20 * BLOCK_RECORDS);
    settle().await;
    assert_eq!(places.local.paths().await.len(), 5, "the next ones go to the disk");
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_nothing_was_announced_waits_for_memory_of_its_own() {
    let stream = stream(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let settings = HandOffSettings::new("words", StorageLevel::MemoryOnly);
    let buffer = HandOffBuffer::new(stream.clone(), settings, BlockStores::none()).unwrap().seeded(1);
    let mut reader = buffer.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(reader.ready().await, 0);
    put(&stream, &shard_id, 0..BLOCK_RECORDS);
    settle().await;
    assert_eq!(reader.next_batch().await.unwrap().records, []);
    assert_eq!(reader.ready().await, block_bytes().await);
    assert_eq!(reader.next_batch().await.unwrap().records.len(), BLOCK_RECORDS);
}
