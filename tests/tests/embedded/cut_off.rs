//! The end of the drain time for code that does not end by itself: a hanging future, a thread, work that was detached.

use std::future::pending;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, put, shards};
use kinesis_streaming::prelude::*;
use test_support::wait_until;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::streams::{Member, Scene};

/// The default of Kubernetes and ECS between SIGTERM and SIGKILL.
const GRACE_PERIOD: Duration = Duration::from_secs(30);

const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A consumer whose handler never ends, and the token of the shard that it works on.
fn hanging(
    name: &str,
    drain_time: Duration,
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
) -> (Consumer, mpsc::Receiver<CancellationToken>) {
    let (working, seen) = mpsc::channel(16);
    let consumer = Consumer::builder()
        .application("embedded-test")
        .worker_id(name)
        .seed(1)
        .failover_time(FAILOVER_TIME)
        .drain_time(drain_time)
        .no_progress_time(Duration::from_secs(3600))
        .source(stream.clone())
        .lease_store(store.clone())
        .processors(batch_handler(move |shard: ShardContext, _| async move {
            working.send(shard.lease_lost.clone()).await?;
            pending().await
        }))
        .build()
        .unwrap();
    (consumer, seen)
}

fn one_record() -> (InMemoryStream, InMemoryLeaseStore) {
    let stream = InMemoryStream::new("orders", shards(1));
    put(&stream, 0..1);
    (stream, InMemoryLeaseStore::new())
}

/// Work beside the handler learns that its shard was cut off: it cannot be aborted with it.
#[tokio::test(start_paused = true)]
async fn cut_off_shard_ends_the_work_beside_it() {
    let (stream, store) = one_record();
    let (consumer, mut seen) = hanging("a", DRAIN_TIME, &stream, &store);
    let handle = consumer.handle();
    let running = tokio::spawn(consumer.run());
    let lost = seen.recv().await.unwrap();
    assert!(!lost.is_cancelled());
    assert!(!handle.stop_and_wait().await.unwrap().is_drained());
    assert!(lost.is_cancelled());
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn dropped_consumer_ends_the_work_beside_it() {
    let (stream, store) = one_record();
    let (consumer, mut seen) = hanging("a", DRAIN_TIME, &stream, &store);
    let running = tokio::spawn(consumer.run());
    let lost = seen.recv().await.unwrap();
    running.abort();
    wait_until("the work is told", || lost.is_cancelled()).await;
}

#[tokio::test(start_paused = true)]
async fn cut_off_hand_over_ends_the_work_beside_it() {
    let stream = InMemoryStream::new("orders", shards(2));
    put(&stream, 0..20);
    let store = InMemoryLeaseStore::new();
    let (first, mut seen) = hanging("a", DRAIN_TIME, &stream, &store);
    let _first = tokio::spawn(first.run());
    let tokens = [seen.recv().await.unwrap(), seen.recv().await.unwrap()];
    assert!(tokens.iter().all(|token| !token.is_cancelled()));
    // It would take the lease itself after its own drain time.
    let (second, _seen) = hanging("b", DRAIN_TIME * 3, &stream, &store);
    let handle = second.handle();
    let _second = tokio::spawn(second.run());
    wait_until("a shard was handed over", || handle.status().shards.len() == 1).await;
    assert_eq!(tokens.iter().filter(|token| token.is_cancelled()).count(), 1);
}

/// tokio-rs/tokio#5338, Finomnis/tokio-graceful-shutdown#50: a process waits for a blocking call after its shutdown is complete.
#[test]
#[allow(clippy::disallowed_methods)] // a thread of its own, since the end of a runtime may never come
fn runtime_ends_after_a_blocking_call_was_cut_off() {
    let (ended, has_ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let (stream, store) = one_record();
            let (working, mut seen) = mpsc::channel(1);
            let pool = ProcessorPool::new(shards(1));
            let consumer = Consumer::builder()
                .application("embedded-test")
                .source(stream)
                .lease_store(store)
                .drain_time(Duration::from_millis(100))
                .processors(blocking_handler(&pool, move |shard: ShardContext, _: RecordBatch| {
                    let _ = working.try_send(());
                    tokio::runtime::Handle::current().block_on(shard.lease_lost.cancelled());
                    Err("cut off".into())
                }))
                .build()
                .unwrap();
            let handle = consumer.handle();
            tokio::spawn(consumer.run());
            seen.recv().await.unwrap();
            handle.stop_and_wait().await
        });
        // Waits for the call.
        drop(runtime);
        ended.send(report.is_some_and(|report| !report.is_drained())).unwrap();
    });
    let limit = Duration::from_secs(120);
    assert_eq!(has_ended.recv_timeout(limit), Ok(true), "the runtime waits for the blocking call");
}

/// genlayerlabs/genlayer-studio#1682: the drain took all of the grace period, and claims were not released.
#[tokio::test(start_paused = true)]
async fn stop_of_many_streams_fits_the_grace_period() {
    let scene = Scene::new(&[2; 20]);
    let configs = scene
        .configs()
        .into_iter()
        .map(|config| config.processors(batch_handler(async |_, _| pending::<Result<(), BoxError>>().await)));
    let member = Member::start(scene.worker("a"), configs.collect(), &scene.table);
    wait_until("all shards are held", || member.held() == 40).await;
    scene.streams.iter().for_each(|stream| put(stream, 0..10));
    tokio::time::sleep(FAILOVER_TIME).await;
    let stopped_at = tokio::time::Instant::now();
    let report = member.stop().await;
    assert!(stopped_at.elapsed() < GRACE_PERIOD, "{:?}", stopped_at.elapsed());
    assert!(!report.is_drained());
    for index in 0..20 {
        assert!(scene.rows(index).await.iter().all(|row| row.owner.is_none()), "leases are released");
    }
}

/// Apicurio/apicurio-registry#608: one record that could not be decoded ended the loop, and the process looked well.
#[tokio::test(start_paused = true)]
async fn panics_in_one_stream_leave_the_others_alone() {
    let scene = Scene::new(&[1, 1]);
    let panicking = scene.config(0).processors(batch_handler(async |_, batch| {
        let number: u32 = std::str::from_utf8(&batch.records()[0].data)?.parse()?;
        assert!(number > 0, "a bug in the decoder");
        Ok(())
    }));
    let member = Member::start(scene.worker("a"), vec![panicking, scene.config(1)], &scene.table);
    scene.streams.iter().for_each(|stream| put(stream, 0..20));
    scene.journal(1).wait_for(20, test_support::LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME * 20).await;
    let [first, second] = &member.handle.statuses()[..] else { panic!("two streams") };
    assert!(!first.status.health().is_healthy(), "the panicking stream is reported");
    assert!(first.status.health().to_string().contains("a bug in the decoder"), "{}", first.status.health());
    assert!(second.status.health().is_healthy());
    put(&scene.streams[1], 20..40);
    scene.journal(1).wait_for(40, test_support::LIMIT).await;
}
