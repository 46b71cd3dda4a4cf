//! Bounded memory, fairness between shards, and thousands of shards in a process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, SEED, member, put, setup, shards};
use futures::StreamExt as _;
use kinesis_streaming::lease_store::HashKey;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{ByteUsage, ReadFrom, ShardState, SourceErrorKind};
use test_support::{LIMIT, wait_until};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A hash key of shard `index` of `count`.
fn hash_key(index: usize, count: usize) -> HashKey {
    HashKey(u128::MAX / count as u128 * index as u128 + count as u128)
}

fn put_into(stream: &InMemoryStream, (index, count): (usize, usize), text: String) {
    stream.put_with_hash_key(hash_key(index, count), Some("key"), text).unwrap();
}

fn usage(member: &Member) -> ByteUsage {
    member.handle.status().memory
}

/// About the bytes that a short record counts for: payload and bookkeeping.
const RECORD_BYTES: u64 = 400;

/// Reads this many shards in one process.
async fn check_budget(shards: usize) {
    const BUDGET: u64 = 16 * 1024;
    let (stream, store, journal) = setup(shards);
    for round in 0..4 {
        for index in 0..shards {
            put_into(&stream, (index, shards), format!("{index}-{round}"));
        }
    }
    let shared = journal.clone();
    let builder = member("a", &stream, &store, &journal).max_buffered_bytes(BUDGET).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            shared.record(&shard, &batch);
            async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            }
        }),
    );
    let member = Member::start(builder);
    member.wait_until_holding(shards).await;
    wait_until("all records are delivered", || journal.count() >= 4 * shards).await;
    // More records while every shard is read, and then a stop that loses nothing.
    for index in 0..shards {
        put_into(&stream, (index, shards), format!("{index}-late"));
    }
    wait_until("the late records are delivered", || journal.count() >= 5 * shards).await;
    assert!(journal.times().values().all(|times| *times == 1));
    journal.check_order();
    let used = usage(&member);
    assert!(used.most_buffered_bytes <= BUDGET, "{used:?}");
    assert!(used.most_buffered_bytes > BUDGET / 2, "the budget is used: {used:?}");
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn five_hundred_shards_in_a_process_within_the_budget() {
    check_budget(500).await;
}

#[tokio::test(start_paused = true)]
async fn five_thousand_shards_in_a_process_within_the_budget() {
    check_budget(5000).await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_smaller_than_two_batches_lets_all_shards_finish() {
    const SHARDS: usize = 40;
    let (stream, store, journal) = setup(SHARDS);
    stream.set_max_batch_records(shards(5));
    put(&stream, 0..1000);
    // Every fifth shard has one record that is larger than the whole budget.
    for index in (0..SHARDS).step_by(5) {
        put_into(&stream, (index, SHARDS), format!("{index:05000}"));
    }
    let member = Member::start(member("a", &stream, &store, &journal).max_buffered_bytes(7 * RECORD_BYTES));
    journal.wait_for(1000 + SHARDS / 5, LIMIT).await;
    journal.check_order();
    assert!(journal.times().values().all(|times| *times == 1));
    wait_until("all memory is free again", || usage(&member).buffered_bytes == 0).await;
    let most = usage(&member).most_buffered_bytes;
    assert!(most < 5000 + 5 * RECORD_BYTES, "each large record is held alone: {most}");
}

#[tokio::test(start_paused = true)]
async fn a_hot_shard_starves_no_other() {
    const SHARDS: usize = 100;
    /// The longest wait: every other shard may first process a batch and a prefetched one.
    const LONGEST: Duration = Duration::from_secs(3);
    let (stream, store, journal) = setup(SHARDS);
    stream.set_max_batch_records(shards(10));
    let put_at = Instant::now();
    for number in 0..200_000 {
        put_into(&stream, (0, SHARDS), format!("hot-{number}"));
    }
    let shared = journal.clone();
    let builder = member("a", &stream, &store, &journal).max_buffered_bytes(20 * RECORD_BYTES).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            shared.record(&shard, &batch);
            async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(())
            }
        }),
    );
    let member = Member::start(builder);
    member.wait_until_holding(SHARDS).await;
    let mut put_at_of = BTreeMap::new();
    for round in 0..5 {
        for index in 1..SHARDS {
            let text = format!("trickle-{round}-{index}");
            put_at_of.insert(text.clone(), Instant::now());
            put_into(&stream, (index, SHARDS), text);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    tokio::time::sleep(LONGEST).await;
    let delivered: BTreeMap<String, Instant> =
        journal.all().into_iter().map(|delivered| (delivered.text, delivered.at)).collect();
    for (text, put_at) in &put_at_of {
        let waited = delivered.get(text).map(|at| *at - *put_at);
        assert!(waited.is_some_and(|waited| waited <= LONGEST), "{text} waited {waited:?}");
    }
    let hot = delivered.keys().filter(|text| text.starts_with("hot")).count();
    assert!(hot > 1000, "the hot shard makes progress too: {hot} in {:?}", put_at.elapsed());
    assert!(hot < 200_000, "the hot shard had records until the end");
}

#[tokio::test(start_paused = true)]
async fn handler_that_never_awaits_does_not_starve_other_shards() {
    let (stream, store, journal) = setup(2);
    stream.set_max_batch_records(shards(1));
    // Each batch of shard 0 puts the next record, so its reads would never pause by themselves.
    let (again, seen) = (stream.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = seen.clone();
    let shared = journal.clone();
    let builder = member("a", &stream, &store, &journal).read_ahead_bytes(0).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            assert!(number < 100_000, "the other shard starves");
            if shard.shard_id == ShardId::numbered(0) {
                put_into(&again, (0, 2), "again".to_owned());
            } else {
                shared.record(&shard, &batch);
            }
            async { Ok(()) }
        },
    ));
    let running = Member::start(builder);
    running.wait_until_holding(2).await;
    put_into(&stream, (0, 2), "first".to_owned());
    put_into(&stream, (1, 2), "other".to_owned());
    let delivered = async {
        while journal.all().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    delivered.await;
    assert!(seen.load(Ordering::Relaxed) < 1000, "{seen:?}");
    running.crash().await;
}

/// A member whose handler finishes one batch for each notification.
fn stepwise(
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
    journal: &test_support::Journal,
) -> (ConsumerBuilder, Arc<Notify>) {
    let (shared, step) = (journal.clone(), Arc::new(Notify::new()));
    let next = step.clone();
    let builder = member("a", stream, store, journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let (journal, next) = (shared.clone(), next);
            async move {
                next.notified().await;
                journal.record(&shard, &batch);
                Ok(())
            }
        },
    ));
    (builder, step)
}

#[tokio::test(start_paused = true)]
async fn one_batch_is_prefetched_if_it_fits_the_limit() {
    for (read_ahead_bytes, batches) in [(0, 1), (RECORD_BYTES / 4, 1), (RECORD_BYTES, 2)] {
        let (stream, store, journal) = setup(1);
        stream.set_max_batch_records(shards(1));
        put(&stream, 0..5);
        let (builder, step) = stepwise(&stream, &store, &journal);
        let member = Member::start(builder.read_ahead_bytes(read_ahead_bytes));
        member.wait_until_holding(1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let buffered = usage(&member).buffered_bytes;
        let of_one = Record::memory_bytes(&record_of(&stream).await);
        assert_eq!(buffered, batches * of_one, "{read_ahead_bytes}");
        // A stop drops the prefetched batch, and the next owner reads it.
        member.handle.stop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        step.notify_one();
        assert!(member.stop().await.is_drained());
        assert_eq!(journal.all().len(), 1, "the prefetched batch is not processed");
        let heir = Member::start(end_to_end_tests::fleet::member("b", &stream, &store, &journal));
        journal.wait_for(5, LIMIT).await;
        assert!(journal.times().values().all(|times| *times == 1), "{:?}", journal.times());
        heir.stop().await;
    }
}

async fn record_of(stream: &InMemoryStream) -> Record {
    let from = ReadFrom::TrimHorizon;
    let mut reader = stream.open(&ShardId::numbered(0), &from).await.unwrap();
    reader.next_batch().await.unwrap().records.swap_remove(0)
}

#[tokio::test(start_paused = true)]
async fn failed_prefetch_is_reported_after_the_batch_before_it() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(shards(1));
    put(&stream, 0..5);
    let (builder, step) = stepwise(&stream, &store, &journal);
    let member = Member::start(builder.initial_position(InitialPosition::TrimHorizon));
    member.wait_until_holding(1).await;
    stream.set_max_batch_records(shards(2));
    wait_until("one batch is processed and one prefetched", || usage(&member).buffered_bytes > 400).await;
    // The next prefetch fails while the second batch is processed.
    stream.fail_reads(SourceErrorKind::Unavailable, 3);
    step.notify_one();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let progress = || member.handle.status().shards[0].progress.clone();
    assert_eq!((journal.all().len(), progress().last_error), (1, None), "the batch in progress comes first");
    step.notify_one();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(progress().last_error.is_some(), "it was read once, and the next attempt waits");
    for _ in 0..5 {
        step.notify_one();
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(journal.times(), (0..5).map(|number| (number.to_string(), 1)).collect());
    journal.check_order();
    assert_eq!((progress().failed_attempts, progress().last_error), (0, None));
}

#[tokio::test(start_paused = true)]
async fn shard_ends_after_its_prefetched_batch() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(shards(2));
    put(&stream, 0..5);
    stream.split(&ShardId::numbered(0)).unwrap();
    put(&stream, 5..20);
    let member = Member::start(member("a", &stream, &store, &journal));
    journal.wait_for(20, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
    journal.check_order();
    journal.check_parents_first(&end_to_end_tests::fleet::parents(&stream).await);
    assert!(member.stop().await.is_drained());
}

/// Never finishes a batch, and takes long when the lease is lost.
struct Slow;

#[async_trait]
impl RecordProcessor for Slow {
    async fn process(&mut self, _: &RecordBatch) -> Result<(), BoxError> {
        std::future::pending().await
    }

    async fn lease_lost(&mut self) {
        tokio::time::sleep(LIMIT * 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lost_lease_frees_its_memory() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(shards(1));
    put(&stream, 0..5);
    let member = Member::start(member("a", &stream, &store, &journal).processors(|_| Slow));
    wait_until("a batch is processed and one prefetched", || usage(&member).buffered_bytes > 400).await;
    // A deleted row means a lost lease, which is taken again later.
    use kinesis_streaming::lease_store::{Consistency, LeaseWrite};
    let lease = store.list(Consistency::Strong).await.unwrap().leases.swap_remove(0);
    let delete = LeaseWrite::Delete { shard_id: lease.shard_id.clone(), expected: lease.version() };
    store.write(&delete).await.unwrap();
    wait_until("its memory is free again", || usage(&member).buffered_bytes == 0).await;
}

#[tokio::test(start_paused = true)]
async fn kept_batch_counts_until_it_is_dropped() {
    let (stream, store) = (InMemoryStream::new("s", shards(2)), InMemoryLeaseStore::new());
    let (processors, mut batches) = united_stream(shards(4));
    let consumer = Consumer::builder()
        .application("united")
        .worker_id("united")
        .source(stream.clone())
        .lease_store(store)
        .seed(SEED)
        .read_ahead_bytes(0)
        .max_buffered_bytes(1)
        .processors(processors);
    let member = Member::start(consumer);
    put_into(&stream, (0, 2), "a".to_owned());
    put_into(&stream, (1, 2), "b".to_owned());
    let first = timeout(LIMIT, batches.next()).await.unwrap().unwrap();
    let kept = first.batch().clone();
    first.acknowledge();
    assert!(timeout(Duration::from_secs(60), batches.next()).await.is_err(), "no memory for another batch");
    assert_eq!(usage(&member).waiting_reads, 2, "the read of the other shard, and the idle read of this one");
    drop(kept);
    timeout(LIMIT, batches.next()).await.unwrap().unwrap().acknowledge();
}

#[tokio::test(start_paused = true)]
async fn the_receivers_of_a_group_share_one_budget() {
    let (stream, store, journal) = setup(8);
    stream.set_max_batch_records(shards(1));
    let builder = member("g", &stream, &store, &journal).max_buffered_bytes(2 * RECORD_BYTES);
    let group = ConsumerGroup::new(&builder, 4).unwrap();
    let handle = group.handle();
    let running = tokio::spawn(group.run());
    // All records go to one receiver; every receiver reports the shared usage.
    for number in 0..200 {
        put_into(&stream, (0, 8), number.to_string());
    }
    journal.wait_for(200, LIMIT).await;
    let memory: Vec<ByteUsage> = handle.statuses().iter().map(|status| status.memory).collect();
    assert!(memory.iter().all(|usage| *usage == memory[0]), "{memory:?}");
    assert!((200..=2 * RECORD_BYTES).contains(&memory[0].most_buffered_bytes), "{memory:?}");
    handle.stop();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn access_and_key_errors_have_their_own_states() {
    for (kind, state) in [
        (SourceErrorKind::Denied, ShardState::Denied),
        (SourceErrorKind::KeyUnavailable, ShardState::KeyUnavailable),
        (SourceErrorKind::Throttled, ShardState::BackingOff),
    ] {
        let (stream, store, journal) = setup(1);
        let member = Member::start(member("a", &stream, &store, &journal));
        member.wait_until_holding(1).await;
        stream.fail_reads(kind, 5);
        let progress = || member.handle.status().shards[0].progress.clone();
        wait_until("the state is reported", || progress().state == state).await;
        assert!(progress().last_error.unwrap().contains("injected"));
        put(&stream, 0..1);
        journal.wait_for(1, LIMIT).await;
        assert_eq!(progress().last_error, None);
        wait_until("the shard is read again", || progress().state == ShardState::Reading).await;
    }
}

#[tokio::test(start_paused = true)]
async fn blocking_handler_uses_its_pool_size() {
    const THREADS: usize = 3;
    let (stream, store, journal) = setup(20);
    stream.set_max_batch_records(shards(1));
    let pool = ProcessorPool::new(shards(THREADS));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (shared, counted) = (journal.clone(), most.clone());
    let is_first = Arc::new(AtomicUsize::new(0));
    let builder = member("a", &stream, &store, &journal).processors(blocking_handler(
        &pool,
        move |shard: ShardContext, batch: RecordBatch| {
            counted.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut sum = 0_u64;
            for number in 0..200_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31) + number);
            }
            running.fetch_sub(1, Ordering::SeqCst);
            match is_first.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("a bug in the application"),
                1 => return Err("the sink is away".into()),
                _ => {}
            }
            shared.record(&shard, &batch);
            Ok(())
        },
    ));
    let member = Member::start(builder);
    put(&stream, 0..200);
    // Not `Journal::wait_for`: its check locks the journal inside the watch channel, and the threads of the pool lock the two in
    // the other order.
    wait_until("all records are delivered", || journal.times().len() == 200).await;
    assert!(journal.times().values().all(|times| *times == 1));
    journal.check_order();
    assert!((1..=THREADS).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    assert!(member.stop().await.is_drained());
}
