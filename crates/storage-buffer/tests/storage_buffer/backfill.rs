//! Stored blocks that are missing, damaged or foreign: read from the replica, backfilled from the stream, or refused.

use std::num::NonZeroUsize;
use std::time::Duration;

use lease_store::{Position, SequenceNumber, ShardId};
use object_store::path::Path;
use shard_worker::{Aggregator, InMemoryStream, ReadFrom, RecordSource, SourceErrorKind, StreamSource as _};
use storage_buffer::{BlockStores, StorageBuffer, StorageLevel, StorageSettings};
use test_support::faulty_object_store::{FaultyObjectStore, TestDirectory};
use test_support::{LIMIT, ReadLog, wait_until};
use tokio::time::timeout;

use crate::BLOCK_RECORDS;

/// A stream of one shard, and the two stores of its blocks.
struct Setup {
    stream: InMemoryStream,
    shard_id: ShardId,
    local: FaultyObjectStore,
    replica: FaultyObjectStore,
    numbers: Vec<SequenceNumber>,
}

impl Setup {
    /// Puts a number of records, each with its index as text.
    fn new(records: usize) -> Self {
        let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
        stream.set_max_batch_records(NonZeroUsize::new(BLOCK_RECORDS).unwrap());
        let shard_id = stream.open_shards().swap_remove(0);
        let mut setup = Self {
            stream,
            shard_id,
            local: FaultyObjectStore::default(),
            replica: FaultyObjectStore::default(),
            numbers: Vec::new(),
        };
        setup.put(0..records);
        setup
    }

    fn put(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.numbers.push(self.stream.put("k", number.to_string()).unwrap().1);
        }
    }

    fn buffer(&self, level: StorageLevel) -> (StorageBuffer, ReadLog) {
        let log = ReadLog::default();
        let watched = log.watch(self.stream.clone());
        let stores = BlockStores::none().local(self.local.shared()).replica(self.replica.shared());
        let buffer = StorageBuffer::new(watched, StorageSettings::new("words", level), stores).unwrap();
        (buffer.seeded(1), log)
    }

    /// A first process: it receives and stores every record, serves none, and ends.
    async fn store_all(&self, level: StorageLevel) {
        let (buffer, _) = self.buffer(level);
        let reader = buffer.open(&self.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        wait_until("all records are received", || {
            buffer.usage().received_records == self.numbers.len() as u64
        })
        .await;
        drop(reader);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// A second process that reads from a position until `last`. Returns the texts, the buffer and the log of stream reads.
    async fn read_again(&self, from: ReadFrom, last: usize) -> (Vec<String>, StorageBuffer, ReadLog) {
        let (buffer, log) = self.buffer(StorageLevel::DiskOnly2);
        let mut reader = buffer.open(&self.shard_id, &from).await.unwrap();
        let texts = texts_until(&mut reader, last).await;
        (texts, buffer, log)
    }
}

/// Reads until this index; returns its text and all texts before it.
async fn texts_until(reader: &mut Box<dyn RecordSource>, last: usize) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let reading = async {
        while texts.last() != Some(&last.to_string()) {
            let batch = reader.next_batch().await.unwrap();
            texts.extend(
                batch.records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()),
            );
        }
    };
    timeout(LIMIT, reading).await.expect("every record arrives");
    texts
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Evicted,
    Truncated,
    Emptied,
    Flipped,
    Overwritten,
}

const HARMS: [Harm; 5] = [Harm::Evicted, Harm::Truncated, Harm::Emptied, Harm::Flipped, Harm::Overwritten];

async fn harm(store: &FaultyObjectStore, path: &Path, harm: Harm) {
    match harm {
        Harm::Evicted => store.remove(path).await,
        Harm::Truncated => store.change(path, |bytes| bytes.truncate(bytes.len() - 7)).await,
        Harm::Emptied => store.change(path, Vec::clear).await,
        Harm::Flipped => {
            store
                .change(path, |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 4;
                })
                .await;
        }
        // As after a power failure: the length is right, the content is zeros.
        Harm::Overwritten => store.change(path, |bytes| bytes.fill(0)).await,
    }
}

#[tokio::test(start_paused = true)]
async fn stored_blocks_are_served_again_without_the_stream() {
    let setup = Setup::new(9);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let (buffer, log) = setup.buffer(StorageLevel::DiskOnly2);
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut direct = setup.stream.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    for _ in 0..3 {
        assert_eq!(reader.next_batch().await.unwrap().records, direct.next_batch().await.unwrap().records);
    }
    assert_eq!((buffer.usage().from_local, buffer.usage().from_stream), (3, 0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The writer reads on at the last record, inclusive, so that record is read again.
    assert_eq!(log.opened(), [ReadFrom::At(setup.numbers[8].clone())]);
    assert_eq!(log.texts(), numbers(8..9));
}

#[tokio::test(start_paused = true)]
async fn with_both_copies_the_local_one_is_read() {
    let setup = Setup::new(6);
    setup.store_all(StorageLevel::DiskOnly2).await;
    assert_eq!(setup.local.paths().await, setup.replica.paths().await);
    let (texts, buffer, _) = setup.read_again(ReadFrom::TrimHorizon, 5).await;
    assert_eq!(texts, numbers(0..6));
    let usage = buffer.usage();
    assert_eq!((usage.from_local, usage.from_replica, usage.from_stream), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn with_only_a_local_copy_the_local_one_is_read() {
    let setup = Setup::new(6);
    setup.store_all(StorageLevel::DiskOnly).await;
    assert!(setup.replica.paths().await.is_empty());
    let (texts, buffer, _) = setup.read_again(ReadFrom::TrimHorizon, 5).await;
    assert_eq!(texts, numbers(0..6));
    assert_eq!((buffer.usage().from_local, buffer.usage().from_stream), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_missing_or_damaged_local_copy_is_read_from_the_replica() {
    for kind in HARMS {
        let setup = Setup::new(9);
        setup.store_all(StorageLevel::DiskOnly2).await;
        let middle = setup.local.paths().await.swap_remove(1);
        harm(&setup.local, &middle, kind).await;
        let (texts, buffer, log) = setup.read_again(ReadFrom::TrimHorizon, 8).await;
        assert_eq!(texts, numbers(0..9), "{kind:?}");
        let usage = buffer.usage();
        assert_eq!((usage.from_local, usage.from_replica, usage.from_stream), (2, 1, 0), "{kind:?}");
        assert!(!log.texts().contains(&"3".to_owned()), "the stream is not read: {kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_lost_from_all_stores_is_backfilled() {
    for index in 0..3 {
        for kind in HARMS {
            for other in [Harm::Evicted, Harm::Flipped] {
                let setup = Setup::new(9);
                setup.store_all(StorageLevel::DiskOnly2).await;
                let path = setup.local.paths().await.swap_remove(index);
                harm(&setup.local, &path, kind).await;
                harm(&setup.replica, &path, other).await;
                let (texts, buffer, _) = setup.read_again(ReadFrom::TrimHorizon, 8).await;
                assert_eq!(texts, numbers(0..9), "block {index}: {kind:?} and {other:?}");
                assert_eq!(buffer.usage().losses, 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn local_replica_and_stream_combine_in_order() {
    let setup = Setup::new(15);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let paths = setup.local.paths().await;
    harm(&setup.local, &paths[1], Harm::Evicted).await;
    harm(&setup.replica, &paths[0], Harm::Truncated).await;
    for store in [&setup.local, &setup.replica] {
        harm(store, &paths[3], Harm::Flipped).await;
    }
    let (texts, buffer, _) = setup.read_again(ReadFrom::TrimHorizon, 14).await;
    assert_eq!(texts, numbers(0..15));
    let usage = buffer.usage();
    assert_eq!((usage.from_local, usage.from_replica, usage.from_stream), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn with_nothing_stored_the_stream_is_read() {
    let setup = Setup::new(9);
    setup.store_all(StorageLevel::DiskOnly2).await;
    for path in setup.local.paths().await {
        setup.local.remove(&path).await;
        setup.replica.remove(&path).await;
    }
    let (texts, _, log) = setup.read_again(ReadFrom::At(setup.numbers[4].clone()), 8).await;
    assert_eq!(texts, numbers(4..9));
    assert_eq!(log.opened(), [ReadFrom::At(setup.numbers[4].clone())]);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_reads_across_empty_and_longer_answers() {
    let setup = Setup::new(9);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let path = setup.local.paths().await.swap_remove(1);
    for store in [&setup.local, &setup.replica] {
        harm(store, &path, Harm::Evicted).await;
    }
    // Answers of one record with many empty ones between, then answers that reach beyond the gap.
    for page_records in [1, 2, 9] {
        setup.stream.set_max_batch_records(NonZeroUsize::new(page_records).unwrap());
        let (buffer, log) = setup.buffer(StorageLevel::DiskOnly2);
        log.set_empty_pages(25);
        let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(texts_until(&mut reader, 8).await, numbers(0..9));
        assert_eq!((buffer.usage().from_stream, buffer.usage().losses), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_inside_an_aggregate_reads_it_whole() {
    let mut setup = Setup::new(2);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for text in ["a", "b", "c"] {
        aggregator.add("k", None, text.as_bytes()).unwrap();
    }
    let aggregate = aggregator.finish().unwrap().data;
    let (_, number) = setup.stream.put("k", aggregate.clone()).unwrap();
    setup.numbers.push(number.clone());
    setup.put(3..6);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let aggregates = |reader: Box<dyn RecordSource>| {
        let (number, aggregate) = (number.clone(), aggregate.clone());
        async move {
            let mut reader = reader;
            let mut first = None;
            while first.is_none() {
                first = reader.next_batch().await.unwrap().records.into_iter().next();
            }
            let first = first.unwrap();
            assert_eq!((first.sequence_number, first.sub_sequence_number), (number, 0));
            assert_eq!(first.data, aggregate);
            reader
        }
    };
    // The checkpoint lies inside the aggregate, which is the last record of its block: the block is not deleted.
    let (buffer, _) = setup.buffer(StorageLevel::DiskOnly2);
    let reader = buffer.open(&setup.shard_id, &ReadFrom::At(number.clone())).await.unwrap();
    let mut reader = aggregates(reader).await;
    assert_eq!(buffer.usage().from_local, 1);
    reader.checkpointed(&Position::after(number.clone(), 1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(setup.local.paths().await.len(), 2, "a part of the aggregate is not acknowledged");
    drop(reader);
    // Lost from both stores, the aggregate comes from the stream, as a whole.
    let path = setup.local.paths().await.swap_remove(0);
    for store in [&setup.local, &setup.replica] {
        harm(store, &path, Harm::Flipped).await;
    }
    let (buffer, _) = setup.buffer(StorageLevel::DiskOnly2);
    let reader = buffer.open(&setup.shard_id, &ReadFrom::At(number.clone())).await.unwrap();
    let mut reader = aggregates(reader).await;
    assert_eq!(texts_until(&mut reader, 5).await, numbers(3..6));
    assert_eq!((buffer.usage().from_stream, buffer.usage().losses), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn records_lost_everywhere_are_counted_and_the_rest_served() {
    let mut setup = Setup::new(6);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let path = setup.local.paths().await.swap_remove(0);
    for store in [&setup.local, &setup.replica] {
        harm(store, &path, Harm::Overwritten).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    setup.stream.trim_older_than(Duration::from_secs(5));
    // Stored records are served even if the stream no longer has them.
    let (texts, buffer, _) = setup.read_again(ReadFrom::TrimHorizon, 5).await;
    assert_eq!(texts, numbers(3..6));
    assert_eq!((buffer.usage().losses, buffer.usage().from_local), (1, 1));
    setup.put(6..9);
    let (texts, _, _) = setup.read_again(ReadFrom::TrimHorizon, 8).await;
    assert_eq!(texts, numbers(3..9));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_waits_for_an_unreachable_store() {
    let setup = Setup::new(3);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let path = setup.local.paths().await.swap_remove(0);
    harm(&setup.local, &path, Harm::Flipped).await;
    setup.replica.faults.refuses_reads.turn_on();
    tokio::time::sleep(Duration::from_secs(10)).await;
    setup.stream.trim_older_than(Duration::from_secs(5));
    let (buffer, _) = setup.buffer(StorageLevel::DiskOnly2);
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let mut errors = 0;
    for _ in 0..30 {
        match reader.next_batch().await {
            Ok(batch) => assert!(batch.records.is_empty(), "the damaged copy"),
            Err(error) => {
                assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
                assert!(error.to_string().contains("repair the store"), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 0);
    setup.replica.faults.refuses_reads.turn_off();
    assert_eq!(texts_until(&mut reader, 2).await, numbers(0..3));
    assert_eq!(buffer.usage().losses, 0);
}

#[tokio::test(start_paused = true)]
async fn blocks_of_another_stream_or_version_are_refused() {
    let setup = Setup::new(3);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let paths = setup.local.paths().await;
    // A stream of the same name that was deleted and created again is another stream.
    let other = setup.stream.recreated(NonZeroUsize::MIN);
    let stores = || BlockStores::none().local(setup.local.shared());
    let settings = || StorageSettings::new("words", StorageLevel::DiskOnly);
    let buffer = StorageBuffer::new(other, settings(), stores()).unwrap();
    let error = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    for part in ["another application or stream", "Move these blocks away", paths[0].as_ref()] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // Another format version in the name.
    let newer = Path::from(paths[0].as_ref().replace(".v1.", ".v2."));
    setup.local.rename(&paths[0], &newer).await;
    let buffer = StorageBuffer::new(setup.stream.clone(), settings(), stores()).unwrap();
    let error = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(setup.local.paths().await, std::slice::from_ref(&newer), "nothing was deleted");
    // Another format version in the content.
    setup.local.rename(&newer, &paths[0]).await;
    setup.local.change(&paths[0], |bytes| bytes[7] = 9).await;
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    for _ in 0..2 {
        let error = reader.next_batch().await.unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }
    assert_eq!(setup.local.paths().await, paths);
}

#[tokio::test(start_paused = true)]
async fn a_block_copied_from_another_shard_is_refused() {
    let setup = Setup::new(3);
    setup.store_all(StorageLevel::DiskOnly).await;
    let path = setup.local.paths().await.swap_remove(0);
    let elsewhere = Path::from(path.as_ref().replace("shardId-000000000000", "shardId-000000000007"));
    setup.local.rename(&path, &elsewhere).await;
    let (buffer, _) = setup.buffer(StorageLevel::DiskOnly);
    let mut reader = buffer.open(&ShardId::numbered(7), &ReadFrom::TrimHorizon).await.unwrap();
    let error = reader.next_batch().await.unwrap_err();
    assert!(error.to_string().contains("shard shardId-000000000000"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn checkpointed_blocks_are_deleted_at_the_next_start() {
    let setup = Setup::new(9);
    setup.store_all(StorageLevel::DiskOnly2).await;
    let paths = setup.local.paths().await;
    let (texts, _buffer, _) = setup.read_again(ReadFrom::At(setup.numbers[4].clone()), 8).await;
    assert_eq!(texts, numbers(4..9), "from the middle of a block");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(setup.local.paths().await, paths[1..]);
    assert_eq!(setup.replica.paths().await, paths[1..]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_shard_end_is_received_again() {
    let setup = Setup::new(3);
    let children = setup.stream.split(&setup.shard_id).unwrap();
    setup.store_all(StorageLevel::DiskOnly).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let paths = setup.local.paths().await;
    assert!(paths.len() == 2 && paths[1].as_ref().contains("/end-"), "{paths:?}");
    for damage in [false, true] {
        if damage {
            harm(&setup.local, &paths[1], Harm::Flipped).await;
        }
        let (buffer, _) = setup.buffer(StorageLevel::DiskOnly);
        let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(texts_until(&mut reader, 2).await, numbers(0..3));
        let ending = async {
            loop {
                if let Some(end) = reader.next_batch().await.unwrap().shard_end {
                    break end;
                }
            }
        };
        let end = timeout(LIMIT, ending).await.unwrap();
        assert_eq!(end.children.iter().map(|child| child.shard_id.clone()).collect::<Vec<_>>(), children);
        assert!(reader.next_batch().await.unwrap().shard_end.is_some(), "each further read reports the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_gone_from_the_stream_is_served_from_blocks() {
    let setup = Setup::new(9);
    setup.stream.split(&setup.shard_id).unwrap();
    setup.store_all(StorageLevel::DiskOnly).await;
    let paths = setup.local.paths().await;
    setup.local.remove(&paths[1]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    setup.stream.trim_older_than(Duration::from_secs(5));
    let gone = setup.stream.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap_err();
    assert_eq!(gone.kind(), SourceErrorKind::ShardNotFound);
    let (buffer, _) = setup.buffer(StorageLevel::DiskOnly);
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let texts = texts_until(&mut reader, 8).await;
    assert_eq!(texts, [numbers(0..3), numbers(6..9)].concat(), "without the lost block");
    assert_eq!(buffer.usage().losses, 1);
    assert!(reader.next_batch().await.unwrap().shard_end.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_missing_block_is_noticed_by_the_next_one() {
    let setup = Setup::new(12);
    setup.store_all(StorageLevel::DiskOnly).await;
    let paths = setup.local.paths().await;
    setup.local.remove(&paths[1]).await;
    setup.local.remove(&paths[2]).await;
    let (buffer, log) = setup.buffer(StorageLevel::DiskOnly);
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(texts_until(&mut reader, 11).await, numbers(0..12));
    assert_eq!((buffer.usage().from_local, buffer.usage().from_stream), (2, 1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.opened().len(), 2, "once for the gap and once for new records");
}

#[tokio::test(start_paused = true)]
async fn blocks_in_a_directory_survive_the_process() {
    let setup = Setup::new(9);
    let directory = TestDirectory::new("storage-buffer");
    let stores = || BlockStores::none().directory(directory.path()).unwrap();
    let settings = || StorageSettings::new("words", StorageLevel::DiskOnly);
    let buffer = StorageBuffer::new(setup.stream.clone(), settings(), stores()).unwrap();
    let reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    wait_until("all records are received", || buffer.usage().received_records == 9).await;
    drop((reader, buffer));
    let log = ReadLog::default();
    let watched = log.watch(setup.stream.clone());
    let buffer = StorageBuffer::new(watched, settings(), stores()).unwrap();
    let mut reader = buffer.open(&setup.shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(texts_until(&mut reader, 8).await, numbers(0..9));
    reader.checkpointed(&Position::after(setup.numbers[8].clone(), 0));
    let folder = directory.path().join("words/s/shardId-000000000000");
    wait_until("one block is left", || std::fs::read_dir(&folder).unwrap().count() == 1).await;
    reader.checkpointed(&Position::ShardEnd);
    wait_until("no block is left", || std::fs::read_dir(&folder).unwrap().count() == 0).await;
    assert!(!log.texts().contains(&"0".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_unusable_directory_is_named() {
    let directory = TestDirectory::new("storage-buffer");
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = BlockStores::none().directory(file.join("blocks")).unwrap_err();
    assert!(error.to_string().contains("file/blocks"), "{error}");
}
