//! Delivery to the application: failed and slow handlers, redelivery, the united stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup, shards};
use futures::StreamExt as _;
use kinesis_streaming::lease_store::HashKey;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{ShardOutcome, SourceErrorKind};
use test_support::{LIMIT, wait_until};
use tokio::time::{Instant, timeout};

#[tokio::test(start_paused = true)]
async fn failed_or_panicked_handler_gets_its_batch_again() {
    let (stream, store, journal) = setup(1);
    let attempts = Arc::new(AtomicUsize::new(0));
    let shared = (journal.clone(), attempts.clone());
    let builder = member("a", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let (journal, attempts) = shared;
            async move {
                match attempts.fetch_add(1, Ordering::Relaxed) {
                    0 => Err("the sink is away".into()),
                    1 => panic!("a bug in the application"),
                    _ => {
                        journal.record(&shard, &batch);
                        Ok(())
                    }
                }
            }
        },
    ));
    put(&stream, 0..5);
    let member = Member::start(builder);
    journal.wait_for(5, LIMIT).await;
    put(&stream, 5..10);
    journal.wait_for(10, LIMIT).await;
    assert_eq!(journal.times(), (0..10).map(|number| (number.to_string(), 1)).collect());
    let progress = member.handle.status().shards[0].progress.clone();
    assert_eq!((progress.failed_attempts, progress.last_error), (2, None));
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn processing_retry_waits_can_be_set() {
    let (stream, store, journal) = setup(1);
    let attempts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let shared = attempts.clone();
    let builder = member("a", &stream, &store, &journal).processing_retry(RetryPolicy::spark()).processors(
        batch_handler(move |_, _| {
            shared.lock().unwrap().push(Instant::now());
            async { Err("never".into()) }
        }),
    );
    let _member = Member::start(builder);
    put(&stream, 0..1);
    wait_until("there were 20 attempts", || attempts.lock().unwrap().len() >= 20).await;
    let attempts = attempts.lock().unwrap().clone();
    let waits: Vec<Duration> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait < Duration::from_millis(502)), "{waits:?}");
    assert_eq!(waits[3..].iter().collect::<BTreeSet<_>>().len(), 1, "the last wait repeats: {waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_denied_at_latest_skips_nothing() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..5);
    tokio::time::advance(Duration::from_secs(1)).await; // LATEST is an instant, and includes the records of that instant
    let latest = member("a", &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let member = Member::start(latest);
    member.wait_until_holding(1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Before the first record the only position to resume from is LATEST.
    stream.fail_reads(SourceErrorKind::Denied, 2);
    tokio::time::sleep(Duration::from_millis(50)).await; // the read in flight fails, and the next one has not begun
    put(&stream, 5..10);
    journal.wait_for(5, LIMIT).await;
    assert_eq!(journal.times(), (5..10).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_does_not_lose_the_lease() {
    let (stream, store, journal) = setup(1);
    let shared = journal.clone();
    let slow = member("slow", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let journal = shared;
            async move {
                tokio::time::sleep(FAILOVER_TIME * 6).await;
                journal.record(&shard, &batch);
                Ok(())
            }
        },
    ));
    let slow = Member::start(slow);
    slow.wait_until_holding(1).await;
    put(&stream, 0..5);
    let _standby = Member::start(member("standby", &stream, &store, &journal));
    journal.wait_for(5, LIMIT).await;
    assert!(journal.all().iter().all(|delivered| delivered.worker_id == "slow"));
}

#[tokio::test(start_paused = true)]
async fn hung_handler_is_cut_off_and_reported_as_undrained() {
    let (stream, store, journal) = setup(2);
    let hung = member("hung", &stream, &store, &journal)
        .drain_time(Duration::from_secs(7))
        .processors(batch_handler(|_, _| std::future::pending()));
    let hung = Member::start(hung);
    hung.wait_until_holding(2).await;
    let key = (0..).map(|number| format!("key-{number}"));
    // Records for one shard only.
    let (hit, _) = stream.put(key.clone().next().unwrap(), "hang").unwrap();
    wait_until("the handler hangs", || {
        hung.handle.status().shards.iter().any(|shard| format!("{:?}", shard.progress.state) == "Processing")
    })
    .await;
    let stopped_at = Instant::now();
    let report = hung.stop().await;
    assert_eq!(stopped_at.elapsed().as_secs(), 7);
    assert!(!report.is_drained());
    let drained = ShardOutcome::Stopped { drained: true };
    for (shard_id, outcome) in &report.shards {
        assert_eq!(*outcome, if *shard_id == hit { None } else { Some(drained) }, "{shard_id}");
    }
    let heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(1, Duration::from_secs(1)).await;
    heir.stop().await;
}

#[tokio::test(start_paused = true)]
async fn several_receivers_are_united_into_one_stream() {
    let (stream, store) = (InMemoryStream::new("s", shards(4)), InMemoryLeaseStore::new());
    let (processors, mut batches) = united_stream(shards(4));
    let builder = Consumer::builder()
        .application("united")
        .worker_id("united")
        .source(stream.clone())
        .lease_store(store)
        .seed(SEED)
        .processors(processors);
    let group = ConsumerGroup::new(&builder, 2).unwrap();
    drop(builder);
    let handle = group.handle();
    let running = tokio::spawn(group.run());
    wait_until("both have their share", || handle.statuses().iter().all(|status| status.shards.len() == 2))
        .await;
    put(&stream, 0..100);
    let (mut seen, mut refused) = (BTreeSet::new(), 0);
    while seen.len() < 100 {
        let delivery = timeout(LIMIT, batches.next()).await.expect("a delivery in time").unwrap();
        if refused < 3 {
            // A dropped or failed delivery must be repeated.
            refused += 1;
            match refused {
                1 => drop(delivery),
                _ => delivery.fail("not yet"),
            }
            continue;
        }
        for record in delivery.batch() {
            assert!(seen.insert(String::from_utf8_lossy(&record.data).into_owned()), "acknowledged twice");
        }
        delivery.acknowledge();
    }
    handle.stop();
    while batches.next().await.is_some() {}
    assert!(running.await.unwrap().unwrap().iter().all(StopReport::is_drained));
}

#[tokio::test(start_paused = true)]
async fn a_record_without_partition_key_is_delivered() {
    let (stream, store) = (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new());
    stream.put_with_hash_key(HashKey::MIN, None::<String>, "bare").unwrap();
    let (processors, mut batches) = united_stream(shards(1));
    let _member = Member::start(
        Consumer::builder()
            .application("bare")
            .source(stream)
            .lease_store(store)
            .seed(SEED)
            .processors(processors),
    );
    let delivery = timeout(LIMIT, batches.next()).await.expect("a delivery in time").unwrap();
    assert_eq!(delivery.batch()[0].partition_key, None);
    assert_eq!(&delivery.batch()[0].data[..], b"bare");
    delivery.acknowledge();
}
