//! Fleets on the in-memory stream and store, in virtual time: the promises of `ARCHITECTURE.md`, end to end.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::Journal;
use futures::StreamExt as _;
use kinesis_streaming::lease_store::{
    Consistency, CountingLeaseStore, FaultRates, FaultyLeaseStore, HashKey, Lease, LeaseChange, LeaseListing,
    LeaseWrite, MalformedLease, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::ReceiverErrorKind;
use kinesis_streaming::shard_worker::{ShardOutcome, SourceErrorKind};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The seed of every fleet here; change it to try another schedule.
const SEED: u64 = 20_261_124;

const FAILOVER_TIME: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);

fn shards(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// A fleet member that runs in a task, so that it can be crashed.
struct Member {
    handle: ReceiverHandle,
    task: JoinHandle<StopReport>,
}

impl Member {
    fn start(builder: ReceiverBuilder) -> Self {
        let receiver = builder.build().unwrap();
        Self { handle: receiver.handle(), task: tokio::spawn(async move { receiver.run().await.unwrap() }) }
    }

    /// What a crash does: the tasks vanish, nothing is flushed or released.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn stop(self) -> StopReport {
        self.handle.stop();
        self.task.await.unwrap()
    }

    fn held(&self) -> BTreeSet<ShardId> {
        self.handle.status().shards.into_iter().map(|shard| shard.shard_id).collect()
    }

    async fn wait_until_holding(&self, count: usize) {
        wait_until(&format!("it holds {count} shards"), || self.held().len() == count).await;
    }
}

/// Looks again in virtual time, which costs nothing, until it is so.
async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member called `name` that notes what it gets.
fn member(
    name: &str,
    stream: &InMemoryStream,
    store: &(impl LeaseStore + Clone),
    journal: &Journal,
) -> ReceiverBuilder {
    let journal = journal.clone();
    Consumer::builder()
        .application("embedded-test")
        .worker_id(name)
        .source(stream.clone())
        .lease_store(store.clone())
        .seed(SEED ^ name.bytes().map(u64::from).sum::<u64>())
        .processors(batch_handler(move |shard: ShardContext, batch| {
            journal.note(&shard, &batch);
            async { Ok(()) }
        }))
}

fn put(stream: &InMemoryStream, numbers: std::ops::Range<usize>) {
    for number in numbers {
        stream.put(format!("key-{number}"), number.to_string()).unwrap();
    }
}

async fn parents(stream: &InMemoryStream) -> BTreeMap<ShardId, BTreeSet<ShardId>> {
    stream.list_shards().await.unwrap().into_iter().map(|shard| (shard.shard_id, shard.parents)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_record_arrives_through_splits_and_merges() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(4)), InMemoryLeaseStore::new(), Journal::default());
    let members: Vec<_> =
        ["a", "b", "c"].map(|name| Member::start(member(name, &stream, &store, &journal))).into();
    put(&stream, 0..400);
    let first = stream.open_shards().swap_remove(0);
    let [left, right] = stream.split(&first).unwrap();
    put(&stream, 400..800);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let child = stream.merge(&left, &right).unwrap();
    put(&stream, 800..1200);
    stream.split(&child).unwrap();
    put(&stream, 1200..1600);
    journal.wait_for(1600, LIMIT).await;
    journal.check_order();
    journal.check_parents_first(&parents(&stream).await);
    for member in members {
        assert!(member.stop().await.is_drained());
    }
    assert_eq!(journal.times().len(), 1600);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_shares_the_shards_evenly() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(7)), InMemoryLeaseStore::new(), Journal::default());
    let members: Vec<_> =
        ["a", "b", "c"].map(|name| Member::start(member(name, &stream, &store, &journal))).into();
    let loads = || members.iter().map(|member| member.held().len()).collect::<Vec<_>>();
    wait_until("the shares are even", || {
        let mut loads = loads();
        loads.sort_unstable();
        loads == [2, 2, 3]
    })
    .await;
    let moves = || members.iter().map(|member| member.handle.status().lost_leases).sum::<u64>();
    let moves_before = moves();
    tokio::time::sleep(FAILOVER_TIME * 10).await;
    assert_eq!(moves(), moves_before, "a balanced fleet moves nothing");
}

#[tokio::test(start_paused = true)]
async fn workers_that_start_together_hardly_take_from_each_other() {
    for seed in SEED..SEED + 10 {
        let (stream, store, journal) =
            (InMemoryStream::new("s", shards(16)), InMemoryLeaseStore::new(), Journal::default());
        let builder = member("w", &stream, &store, &journal).seed(seed);
        let group = ReceiverGroup::new(&builder, 4).unwrap();
        let handle = group.handle();
        let running = tokio::spawn(group.run());
        wait_until("the shares are even", || handle.statuses().iter().all(|status| status.shards.len() == 4))
            .await;
        let moves: u64 = handle.statuses().iter().map(|status| status.lost_leases).sum();
        assert!(
            moves <= 6,
            "seed {seed}: {moves} of 16 leases moved; without restraint the first one takes all 16"
        );
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_others_go_on_from_the_checkpoint() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(2)), InMemoryLeaseStore::new(), Journal::default());
    let dying = Member::start(member("dying", &stream, &store, &journal));
    dying.wait_until_holding(2).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(Duration::from_secs(6)).await; // longer than the checkpoint interval
    put(&stream, 100..120);
    journal.wait_for(120, LIMIT).await;
    dying.crash().await;
    let crashed_at = Instant::now();
    put(&stream, 120..140);
    let heir = Member::start(member("heir", &stream, &store, &journal));
    journal.wait_for(140, LIMIT).await;
    let gap = crashed_at.elapsed();
    assert!(gap > FAILOVER_TIME / 2 && gap < FAILOVER_TIME + Duration::from_secs(3), "{gap:?}");
    let again: BTreeSet<usize> = journal
        .times()
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .map(|(text, _)| text.parse().unwrap())
        .collect();
    assert_eq!(again, (100..120).collect(), "exactly what was not checkpointed is read again");
    assert!(heir.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_stop_costs_nothing() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(3)), InMemoryLeaseStore::new(), Journal::default());
    let leaving = Member::start(member("leaving", &stream, &store, &journal));
    leaving.wait_until_holding(3).await;
    let heir = Member::start(member("heir", &stream, &store, &journal).max_leases(3));
    wait_until("the shares are even", || heir.held().len() == 1 && leaving.held().len() == 2).await;
    put(&stream, 0..300);
    journal.wait_for(300, LIMIT).await;
    let report = leaving.stop().await;
    assert!(report.is_drained(), "{report:?}");
    let (stopped_at, deliveries_before) = (Instant::now(), journal.all());
    put(&stream, 300..600);
    journal.wait_for(600, LIMIT).await;
    assert!(
        stopped_at.elapsed() < FAILOVER_TIME / 3,
        "the leases were free at once: {:?}",
        stopped_at.elapsed()
    );
    let by_leaving = deliveries_before.iter().filter(|delivered| delivered.worker_id == "leaving");
    let by_leaving: BTreeSet<&str> = by_leaving.map(|delivered| delivered.text.as_str()).collect();
    assert!(by_leaving.len() > 100, "{}", by_leaving.len());
    let mut again = journal.all().split_off(deliveries_before.len());
    again.retain(|delivered| by_leaving.contains(delivered.text.as_str()));
    assert!(again.is_empty(), "{} records were delivered again after the stop", again.len());
    heir.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    let standby = Member::start(member("standby", &stream, &store, &journal));
    wait_until("it is a standby", || standby.handle.status().is_standby).await;
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    assert!(standby.handle.status().is_standby && standby.held().is_empty());
    first.crash().await;
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    assert_eq!(standby.held().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_under_the_same_name_goes_on_at_once() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(2)), InMemoryLeaseStore::new(), Journal::default());
    let before = Member::start(member("same", &stream, &store, &journal));
    before.wait_until_holding(2).await;
    before.crash().await;
    put(&stream, 0..10);
    let restarted_at = Instant::now();
    let _after = Member::start(member("same", &stream, &store, &journal));
    journal.wait_for(10, LIMIT).await;
    assert!(restarted_at.elapsed() < Duration::from_secs(1), "{:?}", restarted_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_or_panics_gets_its_batch_again() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let attempts = Arc::new(AtomicUsize::new(0));
    let noted = (journal.clone(), attempts.clone());
    let builder = member("a", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let (journal, attempts) = noted.clone();
            async move {
                match attempts.fetch_add(1, Ordering::Relaxed) {
                    0 => Err("the sink is away".into()),
                    1 => panic!("a bug in the application"),
                    _ => {
                        journal.note(&shard, &batch);
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
async fn the_waits_before_another_attempt_can_be_set() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let attempts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = attempts.clone();
    let builder = member("a", &stream, &store, &journal).processing_retry(RetryPolicy::spark()).processors(
        batch_handler(move |_, _| {
            noted.lock().unwrap().push(Instant::now());
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
async fn a_stop_gives_a_throttled_checkpoint_the_attempts_of_the_policy() {
    let (stream, journal) = (InMemoryStream::new("s", shards(1)), Journal::default());
    let faulty = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, SEED);
    let store = CountingLeaseStore::new(faulty.clone());
    let builder = member("a", &stream, &store, &journal).checkpoint_retry(RetryPolicy::spark());
    let member = Member::start(builder.checkpoint_interval(LIMIT));
    member.wait_until_holding(1).await;
    put(&stream, 0..1);
    journal.wait_for(1, LIMIT).await;
    let mut rates = FaultRates::NONE;
    rates.throttled = 1.0;
    faulty.set_rates(rates);
    let report = member.stop().await;
    assert_eq!(store.calls().checkpoints, 4, "as in Spark");
    assert!(!report.is_drained(), "what was not written comes again");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_denied_at_latest_skips_nothing() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    put(&stream, 0..5);
    let latest = member("a", &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let member = Member::start(latest);
    member.wait_until_holding(1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Before the first record there is no position to go back to but LATEST.
    stream.fail_reads(SourceErrorKind::Denied, 2);
    tokio::time::sleep(Duration::from_millis(50)).await; // the read under way fails, the next one has not begun
    put(&stream, 5..10);
    journal.wait_for(5, LIMIT).await;
    assert_eq!(journal.times(), (5..10).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_does_not_lose_the_lease() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let noted = journal.clone();
    let slow = member("slow", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let journal = noted.clone();
            async move {
                tokio::time::sleep(FAILOVER_TIME * 6).await;
                journal.note(&shard, &batch);
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
async fn a_hung_handler_is_cut_off_and_not_called_drained() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(2)), InMemoryLeaseStore::new(), Journal::default());
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
    let asked_at = Instant::now();
    let report = hung.stop().await;
    assert_eq!(asked_at.elapsed().as_secs(), 7);
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
async fn a_paused_worker_is_fenced_and_told() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    // A worker that others believe dead: its lease is taken while it still works.
    let row = store.list(Consistency::Strong).await.unwrap().leases.remove(0);
    let change = LeaseChange::Take { owner: WorkerId::new("other").unwrap() };
    let take = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
    assert!(matches!(store.write(&take).await.unwrap(), WriteOutcome::Applied { .. }));
    put(&stream, 0..5);
    journal.wait_for(5, LIMIT).await;
    wait_until("it noticed the loss", || first.handle.status().lost_leases == 1).await;
    let row = store.get(&row.shard_id).await.unwrap().unwrap();
    assert_eq!(row.checkpoint, Position::TrimHorizon, "nothing was written over the new owner");
}

#[tokio::test(start_paused = true)]
async fn a_faulty_store_loses_nothing() {
    for seed in SEED..SEED + 8 {
        let (stream, journal) = (InMemoryStream::new("s", shards(3)), Journal::default());
        let table = InMemoryLeaseStore::new();
        let store = FaultyLeaseStore::new(table.clone(), FaultRates::each(0.05), seed);
        let members: Vec<_> =
            ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal).seed(seed))).into();
        for round in 0..10 {
            put(&stream, round * 50..(round + 1) * 50);
            if round % 3 == 1 {
                stream.split(&stream.open_shards()[round % 2]).unwrap();
            }
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
        journal.wait_for(500, LIMIT * 5).await;
        journal.check_order();
        journal.check_parents_first(&parents(&stream).await);
        store.set_rates(FaultRates::NONE);
        for member in members {
            member.stop().await;
        }
        let counters: Vec<_> = table.list(Consistency::Strong).await.unwrap().leases;
        assert!(
            counters.iter().all(|lease| lease.owner.is_none() || lease.is_finished()),
            "seed {seed}: {counters:?}"
        );
    }
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
    let group = ReceiverGroup::new(&builder, 2).unwrap();
    drop(builder);
    let handle = group.handle();
    let running = tokio::spawn(group.run());
    wait_until("both have their share", || handle.statuses().iter().all(|status| status.shards.len() == 2))
        .await;
    put(&stream, 0..100);
    let (mut seen, mut refused) = (BTreeSet::new(), 0);
    while seen.len() < 100 {
        let delivery = batches.next().await.unwrap();
        if refused < 3 {
            // Neither acknowledged nor failed: it must come again.
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
    let delivery = batches.next().await.unwrap();
    assert_eq!(delivery.batch()[0].partition_key, None);
    assert_eq!(&delivery.batch()[0].data[..], b"bare");
    delivery.acknowledge();
}

/// A table in which one row cannot be read.
#[derive(Debug, Clone)]
struct WithMalformedRow {
    table: InMemoryLeaseStore,
    row: MalformedLease,
}

#[async_trait]
impl LeaseStore for WithMalformedRow {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        let mut listing = self.table.list(consistency).await?;
        listing.leases.retain(|lease| lease.shard_id.as_str() != self.row.key);
        listing.malformed.push(self.row.clone());
        Ok(listing)
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.table.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        assert_ne!(write.shard_id().as_str(), self.row.key, "nothing may be written over it");
        self.table.write(write).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_row_leaves_the_others_usable() {
    let (stream, journal) = (InMemoryStream::new("s", shards(3)), Journal::default());
    let bad = stream.open_shards().swap_remove(1);
    let row =
        MalformedLease { key: bad.to_string(), attribute: "leaseCounter".into(), reason: "absent".into() };
    let store = WithMalformedRow { table: InMemoryLeaseStore::new(), row };
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(2).await;
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    assert!(!member.held().contains(&bad));
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_malformed_row_wait() {
    let (stream, journal) = (InMemoryStream::new("s", shards(2)), Journal::default());
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    let row =
        MalformedLease { key: parent.to_string(), attribute: "checkpoint".into(), reason: "absent".into() };
    let store = WithMalformedRow { table: InMemoryLeaseStore::new(), row };
    for child in
        stream.list_shards().await.unwrap().into_iter().filter(|shard| shard.parents.contains(&parent))
    {
        let mut lease = Lease::unowned(child.shard_id, Position::TrimHorizon);
        lease.parents = child.parents;
        store.write(&LeaseWrite::Create(lease)).await.unwrap();
    }
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(1).await;
    tokio::time::sleep(FAILOVER_TIME * 10).await;
    assert_eq!(member.held().len(), 1, "only the shard that has nothing to do with the row");
}

/// Watches the order of writes: when a shard is marked as ended, its children must have leases.
#[derive(Debug, Clone)]
struct ChildrenFirst {
    table: InMemoryLeaseStore,
    stream: InMemoryStream,
    ended: Arc<AtomicUsize>,
}

#[async_trait]
impl LeaseStore for ChildrenFirst {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<LeaseListing, StoreError> {
        self.table.list(consistency).await
    }

    async fn get(&self, shard_id: &ShardId) -> Result<Option<Lease>, StoreError> {
        self.table.get(shard_id).await
    }

    async fn write(&self, write: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
        if let LeaseWrite::Update { shard_id, change: LeaseChange::Checkpoint { position, children }, .. } =
            write
            && position.is_shard_end()
        {
            let shards = self.stream.list_shards().await.unwrap();
            let expected: BTreeSet<ShardId> = shards
                .into_iter()
                .filter(|shard| shard.parents.contains(shard_id))
                .map(|shard| shard.shard_id)
                .collect();
            assert_eq!(*children, expected, "the row of {shard_id} names its children");
            for child in &expected {
                assert!(self.table.get(child).await.unwrap().is_some(), "{child} has no lease yet");
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        self.table.write(write).await
    }
}

#[tokio::test(start_paused = true)]
async fn children_have_leases_before_their_parent_ends_and_start_at_once() {
    let (stream, journal) = (InMemoryStream::new("s", shards(1)), Journal::default());
    let table = InMemoryLeaseStore::new();
    let store = ChildrenFirst { table, stream: stream.clone(), ended: Arc::default() };
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(1).await;
    let [left, right] = stream.split(&stream.open_shards()[0]).unwrap();
    put(&stream, 0..10);
    journal.wait_for(10, Duration::from_secs(2)).await;
    stream.merge(&left, &right).unwrap();
    put(&stream, 10..20);
    journal.wait_for(20, Duration::from_secs(2)).await;
    assert_eq!(store.ended.load(Ordering::Relaxed), 3);
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_malformed_row_get_no_leases() {
    let (stream, journal) = (InMemoryStream::new("s", shards(2)), Journal::default());
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    let row =
        MalformedLease { key: parent.to_string(), attribute: "checkpoint".into(), reason: "absent".into() };
    let store = WithMalformedRow { table: InMemoryLeaseStore::new(), row };
    let latest = member("a", &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let member = Member::start(latest);
    member.wait_until_holding(1).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    let leases = store.table.list(Consistency::Strong).await.unwrap().leases;
    assert_eq!(leases.len(), 1, "at LATEST the children would miss what came before: {leases:?}");
}

#[tokio::test(start_paused = true)]
async fn leases_of_ended_shards_are_deleted_once_their_children_have_begun() {
    let (stream, store, journal) =
        (InMemoryStream::new("s", shards(1)), InMemoryLeaseStore::new(), Journal::default());
    let member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    put(&stream, 10..50);
    journal.wait_for(50, LIMIT).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    let left: Vec<_> = store.list(Consistency::Strong).await.unwrap().leases;
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(member.held(), stream.open_shards().into_iter().collect());
    assert_eq!(journal.times().len(), 50);
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_fleet_writes_only_renewals() {
    let (stream, journal) = (InMemoryStream::new("s", shards(4)), Journal::default());
    let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(4).await;
    let before = store.calls();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let (after, hour) = (store.calls(), Duration::from_secs(3600));
    let renewals = after.renewals - before.renewals;
    let expected = 4 * hour.as_millis() / (FAILOVER_TIME / 3).as_millis();
    assert!(
        u128::from(renewals) <= expected && u128::from(renewals) + 8 >= expected,
        "{renewals} of {expected}"
    );
    assert_eq!(after.writes() - before.writes(), renewals, "nothing but renewals");
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_a_store_that_is_throttled_and_fails_on_a_wrong_one() {
    let (stream, journal) = (InMemoryStream::new("s", shards(1)), Journal::default());
    let store = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, SEED);
    let mut rates = FaultRates::NONE;
    rates.throttled = 1.0;
    store.set_rates(rates);
    let throttled = Member::start(member("a", &stream, &store, &journal));
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.set_rates(FaultRates::NONE);
    throttled.wait_until_holding(1).await;

    #[derive(Debug)]
    struct WrongLayout;
    #[async_trait]
    impl LeaseStore for WrongLayout {
        async fn prepare(&self) -> Result<(), StoreError> {
            Err(StoreError::new(StoreErrorKind::Invalid, "table \"x\" has the key \"id\""))
        }
        async fn list(&self, _: Consistency) -> Result<LeaseListing, StoreError> {
            panic!("it must not be read")
        }
        async fn get(&self, _: &ShardId) -> Result<Option<Lease>, StoreError> {
            panic!("it must not be read")
        }
        async fn write(&self, _: &LeaseWrite) -> Result<WriteOutcome, StoreError> {
            panic!("it must not be written")
        }
    }
    let wrong = Consumer::builder()
        .application("wrong")
        .source(stream)
        .lease_store(WrongLayout)
        .processors(batch_handler(|_, _| async { Ok(()) }))
        .build()
        .unwrap();
    let error = wrong.run().await.unwrap_err();
    assert_eq!(error.kind(), ReceiverErrorKind::Invalid);
    assert!(error.to_string().contains("table \"x\""), "{error}");
}

#[test]
fn contradictory_options_are_refused_all_at_once() {
    let builder =
        Consumer::builder().application("x").worker_id("").failover_time(Duration::ZERO).max_leases(0);
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ReceiverErrorKind::InvalidSettings);
    let message = error.to_string();
    for fault in [
        "application",
        "worker id",
        "failover_time",
        "max_leases",
        "source()",
        "lease_store()",
        "processors()",
    ] {
        assert!(message.contains(fault), "{fault} is not in: {message}");
    }
}
