//! Shards that make no progress: a hung handler, source or lease store. And the status that reports it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::ShardState;
use test_support::{HookedLeaseStore, HookedStream, StreamCall, Switch, wait_until, wait_until_within};
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(3600);
const NO_PROGRESS_TIME: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn handler_that_hangs_once_is_restarted_and_loses_nothing() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..10);
    let calls = Arc::new(AtomicUsize::new(0));
    let shared = (journal.clone(), calls.clone());
    let builder = member("a", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let (journal, calls) = shared;
            async move {
                if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                    std::future::pending::<()>().await;
                }
                journal.record(&shard, &batch);
                Ok(())
            }
        }),
    );
    let hung = Member::start(builder);
    let started_at = Instant::now();
    journal.wait_for(10, Duration::from_secs(100)).await;
    assert!(started_at.elapsed() >= NO_PROGRESS_TIME);
    assert_eq!(journal.times(), (0..10).map(|number| (number.to_string(), 1)).collect());
    let status = hung.handle.status();
    assert_eq!((status.shards[0].progress.restarts, status.given_up_leases), (1, 0));
    assert!(hung.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn handler_that_always_hangs_loses_its_lease_to_others() {
    let (stream, store, journal) = setup(2);
    let hangs = Arc::new(AtomicBool::new(true));
    let (shared, hanging) = (journal.clone(), hangs.clone());
    let hung = member("hung", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let (journal, hangs) = (shared.clone(), hanging);
            async move {
                if hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                journal.record(&shard, &batch);
                Ok(())
            }
        }),
    );
    let hung = Member::start(hung);
    hung.wait_until_holding(2).await;
    put(&stream, 0..20);
    wait_until_within(HOUR, "both leases are released", || hung.handle.status().given_up_leases == 2).await;
    let released_at = Instant::now();
    assert_eq!(hung.held().len(), 0);
    let heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(20, FAILOVER_TIME).await;
    assert!(journal.all().iter().all(|delivered| delivered.worker_id == "heir"));
    // The cool-down holds even without another worker.
    heir.stop().await;
    hangs.store(false, Ordering::Relaxed);
    put(&stream, 20..40);
    wait_until_within(HOUR, "it takes both leases again", || hung.held().len() == 2).await;
    let cooldown = released_at.elapsed();
    assert!(cooldown >= Duration::from_secs(59) && cooldown < Duration::from_secs(120), "{cooldown:?}");
    journal.wait_for(40, FAILOVER_TIME).await;
    assert!(hung.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn one_unacknowledged_record_is_no_progress_whatever_follows() {
    let (stream, store, journal) = setup(1);
    let handler = concurrent_handler(
        Concurrency::Unordered(std::num::NonZeroUsize::new(8).unwrap()),
        |_, record: Record| async move {
            if &record.data[..] == b"0" {
                std::future::pending::<()>().await;
            }
            Ok(())
        },
    );
    let stuck = member("stuck", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME);
    let stuck = Member::start(stuck.processors(handler));
    let deadline = Instant::now() + HOUR;
    let mut number = 0;
    while stuck.handle.status().given_up_leases == 0 {
        assert!(Instant::now() < deadline, "the missing progress is not noticed");
        put(&stream, number..number + 1);
        number += 1;
        sleep(Duration::from_secs(1)).await;
    }
}

/// A stream whose reads hang once the switch is on.
fn hanging_stream(stream: &InMemoryStream, hangs: &Switch) -> HookedStream {
    let hangs = hangs.clone();
    HookedStream::new(stream.clone()).before(move |call| {
        let hangs = hangs.clone();
        async move {
            if matches!(call, StreamCall::NextBatch(_)) {
                hangs.hang_if_on().await;
            }
            Ok(())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn hanging_source_costs_its_worker_the_lease() {
    let (stream, store, journal) = setup(1);
    let hangs = Switch::default();
    let source = hanging_stream(&stream, &hangs);
    let hung = member("hung", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).source(source);
    let hung = Member::start(hung);
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
    hangs.turn_on();
    wait_until_within(HOUR, "the lease is released", || hung.handle.status().given_up_leases == 1).await;
    put(&stream, 5..10);
    let _heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(10, FAILOVER_TIME).await;
    assert_eq!(
        journal.times(),
        (0..10).map(|number| (number.to_string(), 1)).collect(),
        "no record is delivered twice"
    );
}

/// Reads a shard without records for this time.
async fn check_quiet_shard(time: Duration) {
    let (stream, store, journal) = setup(1);
    let quiet = Member::start(member("a", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME));
    quiet.wait_until_holding(1).await;
    sleep(time).await;
    let status = quiet.handle.status();
    assert_eq!((status.given_up_leases, status.shards[0].progress.restarts), (0, 0));
    assert!(status.shards[0].since_progress.unwrap() < NO_PROGRESS_TIME);
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
}

#[tokio::test(start_paused = true)]
async fn quiet_shard_is_not_reported_as_stuck() {
    check_quiet_shard(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn quiet_shard_is_not_reported_as_stuck_within_a_day() {
    check_quiet_shard(HOUR * 24).await;
}

/// A store whose calls hang once the switch is on.
fn hanging_store(table: &InMemoryLeaseStore, hangs: &Switch) -> HookedLeaseStore {
    let hangs = hangs.clone();
    HookedLeaseStore::new(table.clone()).before(move |_| {
        let hangs = hangs.clone();
        async move {
            hangs.hang_if_on().await;
            Ok(())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn hanging_store_costs_its_worker_the_lease() {
    let (stream, table, journal) = setup(1);
    let hangs = Switch::default();
    let store = hanging_store(&table, &hangs);
    let cut_off = Member::start(member("cut-off", &stream, &store, &journal));
    cut_off.wait_until_holding(1).await;
    hangs.turn_on();
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
    let heir = Member::start(member("heir", &stream, &table, &journal));
    heir.wait_until_holding(1).await;
    wait_until_within(HOUR, "the first worker has noticed the loss", || cut_off.held().is_empty()).await;
    put(&stream, 5..10);
    journal.wait_for(10, FAILOVER_TIME).await;
    let late = journal.all().into_iter().filter(|delivered| delivered.text.parse::<u32>().unwrap() >= 5);
    assert!(late.into_iter().all(|delivered| delivered.worker_id == "heir"));
}

#[tokio::test(start_paused = true)]
async fn health_is_data() {
    let (stream, store, journal) = setup(1);
    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let builder = Consumer::builder()
        .application("embedded-test")
        .worker_id("a")
        .source(stream.clone())
        .lease_store(store.clone())
        .seed(SEED)
        .failure_policy(FailurePolicy::halt().attempts(std::num::NonZeroU32::MIN))
        .processors(batch_handler(move |_, _| {
            let fails = failing.load(Ordering::Relaxed);
            async move { if fails { Err("the sink is away".into()) } else { Ok(()) } }
        }));
    let watched = Member::start(builder);
    put(&stream, 0..5);
    wait_until("it is checkpointed", || {
        watched.handle.status().shards.first().is_some_and(|shard| shard.since_checkpoint.is_some())
    })
    .await;
    let status = watched.handle.status().shards.swap_remove(0);
    assert_eq!((status.owner.as_str(), status.progress.state), ("a", ShardState::Reading));
    assert_eq!(status.progress.millis_behind_latest, Some(0));
    assert!(status.since_progress.unwrap() < Duration::from_secs(10));
    fails.store(true, Ordering::Relaxed);
    put(&stream, 5..10);
    sleep(Duration::from_secs(100)).await;
    let status = watched.handle.status().shards.swap_remove(0);
    assert_eq!(status.progress.state, ShardState::Halted);
    assert_eq!(status.progress.last_error.as_deref(), Some("the sink is away"));
    assert!(status.since_progress.unwrap() > Duration::from_secs(90), "{:?}", status.since_progress);
    assert!(status.since_checkpoint.unwrap() > Duration::from_secs(90), "{:?}", status.since_checkpoint);
    drop((journal, watched));
}
