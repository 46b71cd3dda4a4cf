//! Fleets that receive through a storage buffer: every level, crashes, takeovers, reshards, and object stores that fail.

use std::sync::Arc;
use std::time::Duration;

use end_to_end_tests::fleet::{Member, SEED, member, parents, put, setup};
use kinesis_streaming::lease_store::Consistency;
use kinesis_streaming::prelude::*;
use kinesis_streaming::storage::StorageUsage;
use test_support::faulty_object_store::{FaultyObjectStore, TestDirectory};
use test_support::{Journal, LIMIT, ReadLog, wait_until};
use tokio::sync::Semaphore;

const LEVELS: [StorageLevel; 6] = [
    StorageLevel::MemoryOnly,
    StorageLevel::MemoryAndDisk,
    StorageLevel::DiskOnly,
    StorageLevel::MemoryOnly2,
    StorageLevel::MemoryAndDisk2,
    StorageLevel::DiskOnly2,
];

/// The application name that `fleet::member` sets.
const APPLICATION: &str = "embedded-test";

/// The local object store of a worker, and the replica that all workers share.
#[derive(Debug, Clone, Default)]
struct Stores {
    local: FaultyObjectStore,
    replica: FaultyObjectStore,
}

impl Stores {
    fn stores(&self) -> BlockStores {
        BlockStores::none().local(self.local.shared()).replica(self.replica.shared())
    }

    /// The stores of another worker: its own local store and the same replica.
    fn of_another_worker(&self) -> Self {
        Self { local: FaultyObjectStore::default(), replica: self.replica.clone() }
    }

    fn buffer(&self, stream: impl StreamSource, settings: StorageSettings) -> StorageBuffer {
        StorageBuffer::new(stream, settings, self.stores()).unwrap().seeded(SEED)
    }
}

fn settings(level: StorageLevel) -> StorageSettings {
    StorageSettings::new(APPLICATION, level)
}

/// A member whose handler needs a permit of the semaphore for each batch.
fn with_permits(
    name: &str,
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
    journal: &Journal,
    permits: &Arc<Semaphore>,
) -> ConsumerBuilder {
    let (journal, permits) = (journal.clone(), permits.clone());
    member(name, stream, store, &journal.clone()).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let (journal, permits) = (journal.clone(), permits);
            async move {
                permits.acquire().await?.forget();
                journal.record(&shard, &batch);
                Ok(())
            }
        },
    ))
}

fn once(count: usize) -> std::collections::BTreeMap<String, usize> {
    (0..count).map(|number| (number.to_string(), 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_level_hands_over_every_record_once_and_in_order() {
    for level in LEVELS {
        let (stream, store, journal) = setup(3);
        stream.set_max_batch_records(7.try_into().unwrap());
        let stores = Stores::default();
        let buffer = stores.buffer(stream.clone(), settings(level).max_memory_bytes(4000));
        put(&stream, 0..300);
        let member = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
        journal.wait_for(300, LIMIT).await;
        put(&stream, 300..400);
        journal.wait_for(400, LIMIT).await;
        assert_eq!(journal.times(), once(400), "{level}");
        journal.check_order();
        assert!(member.stop().await.is_drained());
        let usage = buffer.usage();
        assert_eq!(usage.received_records, 400);
        assert_eq!(stores.replica.writes() > 0, level.is_replicated(), "{level}");
        assert_eq!(usage.from_memory > 0, level.uses_memory(), "{level}: {usage:?}");
        assert_eq!(usage.from_local > 0, level.uses_disk(), "{level}: {usage:?}");
        assert_eq!(usage.from_stream, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn buffer_receives_ahead_of_a_blocked_processor() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(10.try_into().unwrap());
    let stores = Stores::default();
    let buffer = stores.buffer(stream.clone(), settings(StorageLevel::MemoryAndDisk).max_memory_bytes(8000));
    let permits = Arc::new(Semaphore::new(0));
    put(&stream, 0..500);
    let member = Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
    wait_until("everything is received", || buffer.usage().received_records == 500).await;
    assert!(buffer.usage().most_memory_bytes <= 8000 && buffer.usage().local_bytes > 0);
    assert!(journal.all().is_empty());
    let position = |status: ConsumerStatus| status.shards[0].progress.acknowledged.clone();
    assert_eq!(position(member.handle.status()), None, "receiving acknowledges nothing");
    // Records that the stream trims meanwhile are kept in the buffer.
    tokio::time::sleep(Duration::from_secs(10)).await;
    stream.trim_older_than(Duration::from_secs(5));
    assert_eq!(stream.record_count(), 0);
    permits.add_permits(1000);
    journal.wait_for(500, LIMIT).await;
    assert_eq!(journal.times(), once(500));
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_stored_blocks_are_not_read_from_the_stream() {
    for level in [StorageLevel::DiskOnly, StorageLevel::DiskOnly2, StorageLevel::MemoryOnly2] {
        let (stream, store, journal) = setup(1);
        stream.set_max_batch_records(10.try_into().unwrap());
        let stores = Stores::default();
        let buffer = stores.buffer(stream.clone(), settings(level));
        let permits = Arc::new(Semaphore::new(3));
        put(&stream, 0..200);
        let crashed =
            Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
        wait_until("everything is received", || buffer.usage().received_records == 200).await;
        journal.wait_for(30, LIMIT).await;
        tokio::time::sleep(Duration::from_secs(10)).await; // a checkpoint
        crashed.crash().await;
        let read_log = ReadLog::default();
        let buffer = stores.buffer(read_log.watch(stream.clone()), settings(level));
        put(&stream, 200..220);
        let restarted = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
        journal.wait_for(220, LIMIT).await;
        journal.check_order();
        assert_eq!(journal.times(), once(220), "{level}");
        // Reading resumes at the last stored record, which is read again and dropped.
        assert_eq!(
            read_log.texts(),
            (199..220).map(|number| number.to_string()).collect::<Vec<_>>(),
            "{level}"
        );
        assert_eq!(buffer.usage().from_stream, 0);
        assert!(restarted.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn another_worker_resumes_from_the_replica_blocks() {
    let (stream, store, journal) = setup(2);
    stream.set_max_batch_records(10.try_into().unwrap());
    let stores = Stores::default();
    let buffer = stores.buffer(stream.clone(), settings(StorageLevel::MemoryAndDisk2));
    let permits = Arc::new(Semaphore::new(4));
    put(&stream, 0..300);
    let crashed =
        Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
    wait_until("everything is received", || buffer.usage().received_records == 300).await;
    wait_until("some records are processed", || journal.all().len() >= 30).await;
    crashed.crash().await;
    let other = stores.of_another_worker();
    let read_log = ReadLog::default();
    let buffer = other.buffer(read_log.watch(stream.clone()), settings(StorageLevel::MemoryAndDisk2));
    let heir = Member::start(member("b", &stream, &store, &journal).source(buffer.clone()));
    journal.wait_for(300, LIMIT).await;
    journal.check_order();
    let usage = buffer.usage();
    assert!(usage.from_replica >= 26 && usage.from_stream == 0, "{usage:?}");
    let read = read_log.texts();
    assert!(read.len() <= 2, "the last record of each shard: {read:?}");
    assert!(heir.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn blocks_kept_in_memory_only_are_read_again_from_the_stream() {
    let (stream, store, journal) = setup(1);
    let stores = Stores::default();
    stream.set_max_batch_records(10.try_into().unwrap());
    // The first blocks fit into memory, and later ones go to disk.
    let level = settings(StorageLevel::MemoryAndDisk).max_memory_bytes(8000);
    let buffer = stores.buffer(stream.clone(), level.clone());
    let permits = Arc::new(Semaphore::new(0));
    put(&stream, 0..200);
    let crashed =
        Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
    wait_until("everything is received", || buffer.usage().received_records == 200).await;
    crashed.crash().await;
    let read_log = ReadLog::default();
    let buffer = stores.buffer(read_log.watch(stream.clone()), level);
    let restarted = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
    journal.wait_for(200, LIMIT).await;
    assert_eq!(journal.times(), once(200));
    journal.check_order();
    let usage = buffer.usage();
    assert!(usage.from_stream == 1 && usage.from_local > 10 && usage.losses == 0, "{usage:?}");
    let read = read_log.texts().len();
    assert!((10..100).contains(&read), "{read}");
    assert!(restarted.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn every_record_of_a_split_and_a_merge_passes_the_buffer() {
    for level in [StorageLevel::MemoryAndDisk, StorageLevel::DiskOnly2] {
        let (stream, store, journal) = setup(1);
        stream.set_max_batch_records(7.try_into().unwrap());
        let stores = Stores::default();
        let buffer = stores.buffer(stream.clone(), settings(level).max_memory_bytes(4000));
        let permits = Arc::new(Semaphore::new(0));
        let builder = with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone());
        let member = Member::start(builder);
        put(&stream, 0..50);
        let [left, right] = stream.split(&stream.open_shards()[0]).unwrap();
        put(&stream, 50..100);
        stream.merge(&left, &right).unwrap();
        put(&stream, 100..150);
        wait_until("the parent is received to its end", || buffer.usage().received_records == 50).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let held: Vec<_> = member.held().into_iter().collect();
        assert_eq!(held.len(), 1, "the shard ends only after its buffered records are processed");
        permits.add_permits(1000);
        journal.wait_for(150, LIMIT).await;
        assert_eq!(journal.times(), once(150), "{level}");
        journal.check_order();
        journal.check_parents_first(&parents(&stream).await);
        assert!(member.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_stored_end_and_its_tail_loses_no_tail() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(7.try_into().unwrap());
    let stores = Stores::default();
    put(&stream, 0..50);
    let parent = stream.open_shards()[0].clone();
    stream.split(&parent).unwrap();
    put(&stream, 50..100);
    let buffer = stores.buffer(stream.clone(), settings(StorageLevel::DiskOnly));
    let permits = Arc::new(Semaphore::new(2));
    let crashed =
        Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
    journal.wait_for(14, LIMIT).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(
        stores.local.paths().await.iter().any(|path| path.as_ref().contains("end-")),
        "the end of the shard is stored"
    );
    crashed.crash().await;
    let buffer = stores.buffer(stream.clone(), settings(StorageLevel::DiskOnly));
    let restarted = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
    journal.wait_for(100, LIMIT).await;
    assert_eq!(journal.times(), once(100));
    journal.check_parents_first(&parents(&stream).await);
    assert!(restarted.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn checkpoint_never_passes_records_not_stored() {
    let (stream, store, journal) = setup(1);
    let stores = Stores::default();
    let buffer = stores.buffer(stream.clone(), settings(StorageLevel::MemoryOnly2));
    let member = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let checkpoint = || async { store.list(Consistency::Strong).await.unwrap().leases[0].checkpoint.clone() };
    let before = checkpoint().await;
    stores.replica.faults.refuses_writes.turn_on();
    put(&stream, 10..20);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(journal.times(), once(10), "records without a replica are not delivered");
    assert_eq!(checkpoint().await, before);
    let progress = member.handle.status().shards[0].progress.clone();
    assert!(progress.last_error.as_ref().is_some_and(|error| error.contains("cannot write")), "{progress:?}");
    stores.replica.faults.refuses_writes.turn_off();
    journal.wait_for(20, LIMIT).await;
    assert_eq!(journal.times(), once(20));
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn aggregates_pass_the_buffer_over_a_crash_once_per_sub_record() {
    use kinesis_streaming::shard_worker::Aggregator;
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(2.try_into().unwrap());
    let mut number = 0;
    for _ in 0..20 {
        let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
        for _ in 0..5 {
            aggregator.add("k", None, number.to_string().as_bytes()).unwrap();
            number += 1;
        }
        stream.put("k", aggregator.finish().unwrap().data).unwrap();
    }
    let stores = Stores::default();
    let level = settings(StorageLevel::DiskOnly2);
    let buffer = stores.buffer(stream.clone(), level.clone());
    let permits = Arc::new(Semaphore::new(4));
    let crashed =
        Member::start(with_permits("a", &stream, &store, &journal, &permits).source(buffer.clone()));
    journal.wait_for(40, LIMIT).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    crashed.crash().await;
    // Every block is damaged in both stores, so all records come from the stream.
    for object_store in [&stores.local, &stores.replica] {
        for path in object_store.paths().await {
            object_store.change(&path, |bytes| bytes[20] ^= 1).await;
        }
    }
    let buffer = stores.buffer(stream.clone(), level);
    let restarted = Member::start(member("a", &stream, &store, &journal).source(buffer.clone()));
    journal.wait_for(100, LIMIT).await;
    journal.check_order();
    assert_eq!(journal.times(), once(100));
    assert!(buffer.usage().from_stream > 0 && buffer.usage().losses == 0);
    assert!(restarted.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn buffer_in_directories_survives_restarts() {
    let (stream, store, journal) = setup(2);
    stream.set_max_batch_records(10.try_into().unwrap());
    let (local, replica) = (TestDirectory::new("storage-local"), TestDirectory::new("storage-replica"));
    let buffer = || {
        let stores =
            BlockStores::none().directory(local.path()).unwrap().replica_directory(replica.path()).unwrap();
        StorageBuffer::new(stream.clone(), settings(StorageLevel::DiskOnly2), stores).unwrap().seeded(SEED)
    };
    for life in 0..5 {
        put(&stream, life * 50..(life + 1) * 50);
        let name = format!("life-{life}");
        let member = Member::start(member(&name, &stream, &store, &journal).source(buffer()));
        journal.wait_for((life + 1) * 50, LIMIT).await;
        if life % 2 == 0 {
            member.crash().await;
        } else {
            assert!(member.stop().await.is_drained());
        }
    }
    journal.check_order();
}

/// Random loads, kills, takeovers, damage and failing stores, at every level: every record arrives in order.
#[tokio::test(start_paused = true)]
async fn buffer_delivers_in_order_through_kills_damage_and_refusals() {
    let mut buffers: Vec<StorageBuffer> = Vec::new();
    for seed in 0..60_u64 {
        let mut rng = fastrand::Rng::with_seed(SEED ^ seed);
        let level = LEVELS[rng.usize(..LEVELS.len())];
        let (stream, store, journal) = setup(rng.usize(1..=2));
        stream.set_max_batch_records(rng.usize(1..8).try_into().unwrap());
        let stores = Stores::default();
        let level =
            settings(level).max_memory_bytes(rng.u64(2000..10_000)).max_stored_bytes(rng.u64(3000..10_000));
        let mut written = 0;
        let mut lives = 0;
        let mut running: Option<Member> = None;
        for _ in 0..30 {
            match rng.u8(..9) {
                0..=2 => {
                    let more = rng.usize(1..30);
                    put(&stream, written..written + more);
                    written += more;
                }
                3 => {
                    if let Some(member) = running.take() {
                        member.crash().await;
                    }
                }
                4 if rng.u8(..4) == 0 => {
                    let open = stream.open_shards();
                    stream.split(&open[rng.usize(..open.len())]).unwrap();
                }
                5 => {
                    for object_store in [&stores.local, &stores.replica] {
                        let paths = object_store.paths().await;
                        if !paths.is_empty() {
                            let path = &paths[rng.usize(..paths.len())];
                            match rng.u8(..3) {
                                0 => object_store.remove(path).await,
                                1 => object_store.change(path, |bytes| bytes.truncate(bytes.len() / 2)).await,
                                _ => {
                                    let bit = rng.u8(..8);
                                    object_store
                                        .change(path, |bytes| {
                                            let middle = bytes.len() / 2;
                                            bytes[middle] ^= 1 << bit;
                                        })
                                        .await;
                                }
                            }
                        }
                    }
                }
                6 => {
                    let object_store = if rng.bool() { &stores.local } else { &stores.replica };
                    for fault in [
                        &object_store.faults.refuses_writes,
                        &object_store.faults.refuses_reads,
                        &object_store.faults.refuses_deletes,
                    ] {
                        fault.set(rng.u8(..4) == 0);
                    }
                }
                _ => tokio::time::sleep(Duration::from_millis(rng.u64(..8000))).await,
            }
            if running.is_none() && rng.bool() {
                lives += 1;
                let name = format!("life-{lives}");
                let stores = if rng.u8(..3) == 0 { stores.of_another_worker() } else { stores.clone() };
                let buffer = stores.buffer(stream.clone(), level.clone()).seeded(rng.u64(..));
                buffers.push(buffer.clone());
                let delay = Duration::from_millis(rng.u64(..400));
                let shared = journal.clone();
                running = Some(Member::start(
                    member(&name, &stream, &store, &journal).seed(rng.u64(..)).source(buffer).processors(
                        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
                            let journal = shared.clone();
                            async move {
                                tokio::time::sleep(delay).await;
                                journal.record(&shard, &batch);
                                Ok(())
                            }
                        }),
                    ),
                ));
            }
        }
        for object_store in [&stores.local, &stores.replica] {
            let faults = &object_store.faults;
            for fault in [&faults.refuses_writes, &faults.refuses_reads, &faults.refuses_deletes] {
                fault.turn_off();
            }
        }
        if let Some(member) = running.take() {
            member.crash().await;
        }
        let buffer = stores.buffer(stream.clone(), level);
        let last = Member::start(member("last", &stream, &store, &journal).source(buffer));
        journal.wait_for(written, Duration::from_secs(600)).await;
        journal.check_order();
        journal.check_parents_first(&parents(&stream).await);
        last.crash().await;
    }
    let sum = |of: fn(&StorageUsage) -> u64| buffers.iter().map(|buffer| of(&buffer.usage())).sum::<u64>();
    for (what, times) in [
        ("from memory", sum(|usage| usage.from_memory)),
        ("from the local store", sum(|usage| usage.from_local)),
        ("from the replica", sum(|usage| usage.from_replica)),
        ("from the stream", sum(|usage| usage.from_stream)),
        ("failures", sum(|usage| usage.store_failures)),
    ] {
        assert!(times > 20, "{what}: {times}");
    }
    assert_eq!(sum(|usage| usage.losses), 0, "the stream has everything");
}
