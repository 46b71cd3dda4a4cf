//! Shards that make no progress, in virtual time: a hung handler, a hung source, a hung store; and health as data.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup, wait_until};
use kinesis_streaming::lease_store::{
    Consistency, Lease, LeaseListing, LeaseWrite, StoreError, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, ShardState, SourceError, StreamDescription,
};
use tokio::time::{Instant, sleep};

const NO_PROGRESS_TIME: Duration = Duration::from_secs(60);

/// Lets virtual time pass until it is so, at most an hour.
async fn within_an_hour(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited an hour in vain until {what}");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_once_is_started_anew_and_loses_nothing() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..10);
    let calls = Arc::new(AtomicUsize::new(0));
    let noted = (journal.clone(), calls.clone());
    let builder = member("a", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let (journal, calls) = noted.clone();
            async move {
                if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                    std::future::pending::<()>().await;
                }
                journal.note(&shard, &batch);
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
async fn a_handler_that_hangs_always_costs_its_worker_the_lease_and_others_go_on() {
    let (stream, store, journal) = setup(2);
    let hangs = Arc::new(AtomicBool::new(true));
    let (noted, hanging) = (journal.clone(), hangs.clone());
    let hung = member("hung", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).processors(
        batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let (journal, hangs) = (noted.clone(), hanging.clone());
            async move {
                if hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                journal.note(&shard, &batch);
                Ok(())
            }
        }),
    );
    let hung = Member::start(hung);
    hung.wait_until_holding(2).await;
    put(&stream, 0..20);
    within_an_hour("both leases are given up", || hung.handle.status().given_up_leases == 2).await;
    let given_up_at = Instant::now();
    assert_eq!(hung.held().len(), 0);
    let heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(20, FAILOVER_TIME).await;
    assert!(journal.all().iter().all(|delivered| delivered.worker_id == "heir"));
    // It stays away from both for a while, even when nobody else is there.
    heir.stop().await;
    hangs.store(false, Ordering::Relaxed);
    put(&stream, 20..40);
    within_an_hour("it tries again", || hung.held().len() == 2).await;
    let rest = given_up_at.elapsed();
    assert!(rest >= Duration::from_secs(59) && rest < Duration::from_secs(120), "{rest:?}");
    journal.wait_for(40, FAILOVER_TIME).await;
    assert!(hung.stop().await.is_drained());
}

/// A stream whose reads hang as long as they are told to.
#[derive(Debug)]
struct HungStream {
    stream: InMemoryStream,
    hangs: Arc<AtomicBool>,
}

#[derive(Debug)]
struct HungShard {
    source: Box<dyn RecordSource>,
    hangs: Arc<AtomicBool>,
}

#[async_trait]
impl StreamSource for HungStream {
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
        let source = self.stream.open(shard_id, from).await?;
        Ok(Box::new(HungShard { source, hangs: self.hangs.clone() }))
    }
}

#[async_trait]
impl RecordSource for HungShard {
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.source.next_batch().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_costs_its_worker_the_lease_and_others_go_on() {
    let (stream, store, journal) = setup(1);
    let hangs = Arc::new(AtomicBool::new(false));
    let source = HungStream { stream: stream.clone(), hangs: hangs.clone() };
    let hung = member("hung", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME).source(source);
    let hung = Member::start(hung);
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
    hangs.store(true, Ordering::Relaxed);
    within_an_hour("the lease is given up", || hung.handle.status().given_up_leases == 1).await;
    put(&stream, 5..10);
    let _heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(10, FAILOVER_TIME).await;
    assert_eq!(journal.times(), (0..10).map(|number| (number.to_string(), 1)).collect(), "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_shard_is_not_taken_for_a_stuck_one() {
    let (stream, store, journal) = setup(1);
    let quiet = Member::start(member("a", &stream, &store, &journal).no_progress_time(NO_PROGRESS_TIME));
    quiet.wait_until_holding(1).await;
    sleep(Duration::from_secs(24 * 3600)).await;
    let status = quiet.handle.status();
    assert_eq!((status.given_up_leases, status.shards[0].progress.restarts), (0, 0));
    assert!(status.shards[0].since_progress.unwrap() < NO_PROGRESS_TIME);
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
}

/// A store that answers this worker no more as soon as it is told to.
#[derive(Debug, Clone)]
struct SilentStore {
    table: InMemoryLeaseStore,
    is_silent: Arc<AtomicBool>,
}

impl SilentStore {
    async fn answer(&self) {
        if self.is_silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl LeaseStore for SilentStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.answer().await;
        self.table.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.answer().await;
        self.table.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        self.answer().await;
        self.table.write(write).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_its_worker_the_lease_and_others_go_on() {
    let (stream, table, journal) = setup(1);
    let is_silent = Arc::new(AtomicBool::new(false));
    let store = SilentStore { table: table.clone(), is_silent: is_silent.clone() };
    let cut_off = Member::start(member("cut-off", &stream, &store, &journal));
    cut_off.wait_until_holding(1).await;
    is_silent.store(true, Ordering::Relaxed);
    put(&stream, 0..5);
    journal.wait_for(5, FAILOVER_TIME).await;
    let heir = Member::start(member("heir", &stream, &table, &journal));
    heir.wait_until_holding(1).await;
    within_an_hour("the first has noticed", || cut_off.held().is_empty()).await;
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
