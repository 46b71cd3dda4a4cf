//! Lease stores that fail, answer with stale or malformed rows, or never answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, parents, put, setup, shards};
use futures::FutureExt as _;
use kinesis_streaming::lease_store::{
    Consistency, CountingLeaseStore, FaultRates, FaultyLeaseStore, Lease, LeaseChange, LeaseListing,
    LeaseWrite, MalformedLease, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::{ConsumerErrorKind, UnreadReason};
use test_support::{HookedLeaseStore, Journal, LIMIT, StoreCall, Switch, wait_until};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn stop_retries_a_throttled_checkpoint_as_the_policy_allows() {
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
    assert!(!report.is_drained(), "records after the last checkpoint are delivered again");
}

#[tokio::test(start_paused = true)]
async fn paused_worker_is_fenced_and_notified() {
    let (stream, store, journal) = setup(1);
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    // Other workers consider this one dead and take its lease while it still processes.
    let row = store.list(Consistency::Strong).await.unwrap().leases.remove(0);
    let change = LeaseChange::take(WorkerId::new("other").unwrap());
    let take = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
    assert!(matches!(store.write(&take).await.unwrap(), WriteOutcome::Applied { .. }));
    put(&stream, 0..5);
    journal.wait_for(5, LIMIT).await;
    wait_until("the loss is reported", || first.handle.status().lost_leases == 1).await;
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

/// A table in which the row of one shard is malformed. A write to that row fails the test.
fn with_malformed_row(shard_id: &ShardId) -> HookedLeaseStore {
    let (listed, written) = (shard_id.clone(), shard_id.clone());
    let row = MalformedLease::new(shard_id.to_string(), "checkpoint", "absent");
    HookedLeaseStore::new(InMemoryLeaseStore::new())
        .after_list(move |_, mut listing| {
            listing.leases.retain(|lease| lease.shard_id != listed);
            listing.malformed.push(row.clone());
            listing
        })
        .before_write(move |write| {
            assert_ne!(write.shard_id(), &written, "a malformed row is never overwritten");
        })
}

#[tokio::test(start_paused = true)]
async fn a_malformed_row_leaves_the_others_usable() {
    let (stream, journal) = (InMemoryStream::new("s", shards(3)), Journal::default());
    let bad = stream.open_shards().swap_remove(1);
    let store = with_malformed_row(&bad);
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(2).await;
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    assert!(!member.held().contains(&bad));
    let report = member.stop().await;
    assert!(report.is_drained() && !report.is_complete(), "a stop names what was never read");
    let fault = UnreadReason::MalformedRow("attribute \"checkpoint\": absent".into());
    let unread: Vec<_> = report.unread.iter().map(|unread| (unread.key.as_str(), &unread.reason)).collect();
    assert_eq!(unread, [(bad.as_str(), &fault)]);
}

#[tokio::test(start_paused = true)]
async fn lease_of_an_unknown_shard_is_reported_as_unread() {
    let (stream, store, journal) = setup(2);
    let unknown = ShardId::numbered(777);
    store.write(&LeaseWrite::Create(Lease::unowned(unknown.clone(), Position::TrimHorizon))).await.unwrap();
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(3).await;
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    let report = member.stop().await;
    let keys: Vec<_> = report.unread.iter().map(|unread| unread.key.as_str()).collect();
    assert_eq!((report.is_complete(), keys), (false, vec![unknown.as_str()]), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn children_of_a_malformed_row_wait() {
    let (stream, journal) = (InMemoryStream::new("s", shards(2)), Journal::default());
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    let store = with_malformed_row(&parent);
    for child in stream
        .list_shards(&ShardFilter::All)
        .await
        .unwrap()
        .into_iter()
        .filter(|shard| shard.parents.contains(&parent))
    {
        let mut lease = Lease::unowned(child.shard_id, Position::TrimHorizon);
        lease.parents = child.parents;
        store.write(&LeaseWrite::Create(lease)).await.unwrap();
    }
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(1).await;
    tokio::time::sleep(FAILOVER_TIME * 10).await;
    assert_eq!(member.held().len(), 1, "only the unrelated shard");
}

#[tokio::test(start_paused = true)]
async fn children_of_a_malformed_row_get_no_leases() {
    let (stream, journal) = (InMemoryStream::new("s", shards(2)), Journal::default());
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    let store = with_malformed_row(&parent);
    let latest = member("a", &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let member = Member::start(latest);
    member.wait_until_holding(1).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    let leases = store.table.list(Consistency::Strong).await.unwrap().leases;
    assert_eq!(leases.len(), 1, "at LATEST the children would miss earlier records: {leases:?}");
}

/// Checks the order of writes: when a shard is marked as ended, its children have leases.
fn children_first(stream: &InMemoryStream, ended: &Arc<AtomicUsize>) -> HookedLeaseStore {
    let (table, stream, ended) = (InMemoryLeaseStore::new(), stream.clone(), ended.clone());
    HookedLeaseStore::new(table.clone()).before_write(move |write| {
        let LeaseWrite::Update { shard_id, change, .. } = write else { return };
        let LeaseChange::Checkpoint { position, children } = change.without_report() else { return };
        if position.is_shard_end() {
            // The in-memory stream answers at once.
            let mut shards = stream.list_shards(&ShardFilter::All).now_or_never().unwrap().unwrap();
            shards.retain(|shard| shard.parents.contains(shard_id));
            let expected: BTreeSet<ShardId> = shards.into_iter().map(|shard| shard.shard_id).collect();
            assert_eq!(*children, expected, "the row of {shard_id} names its children");
            for child in &expected {
                let lease = table.get(child).now_or_never().unwrap().unwrap();
                assert!(lease.is_some(), "{child} has no lease yet");
            }
            ended.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn children_have_leases_before_shard_end_and_start_at_once() {
    let (stream, journal) = (InMemoryStream::new("s", shards(1)), Journal::default());
    let ended = Arc::new(AtomicUsize::new(0));
    let store = children_first(&stream, &ended);
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(1).await;
    let [left, right] = stream.split(&stream.open_shards()[0]).unwrap();
    put(&stream, 0..10);
    journal.wait_for(10, Duration::from_secs(2)).await;
    stream.merge(&left, &right).unwrap();
    put(&stream, 10..20);
    journal.wait_for(20, Duration::from_secs(2)).await;
    assert_eq!(ended.load(Ordering::Relaxed), 3);
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn new_leases_are_seen_at_once_although_listings_lag() {
    const LAG: Duration = Duration::from_secs(1);
    let (stream, table, journal) = setup(1);
    let created_at = Arc::new(Mutex::new(HashMap::new()));
    let listed = created_at.clone();
    let store = HookedLeaseStore::new(table)
        .before_write(move |write| {
            if let LeaseWrite::Create(lease) = write {
                created_at.lock().unwrap().insert(lease.shard_id.clone(), Instant::now());
            }
        })
        .after_list(move |consistency, mut listing| {
            let created_at = listed.lock().unwrap();
            let is_seen = |lease: &Lease| created_at[&lease.shard_id].elapsed() >= LAG;
            listing.leases.retain(|lease| consistency == Consistency::Strong || is_seen(lease));
            listing
        });
    put(&stream, 0..1);
    let _member = Member::start(member("a", &stream, &store, &journal));
    journal.wait_for(1, LAG / 2).await;
    stream.split(&stream.open_shards()[0]).unwrap();
    put(&stream, 1..10);
    journal.wait_for(10, LAG / 2).await;
}

#[tokio::test(start_paused = true)]
async fn start_retries_a_throttled_store_and_fails_on_a_wrong_one() {
    let (stream, journal) = (InMemoryStream::new("s", shards(1)), Journal::default());
    let store = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, SEED);
    let mut rates = FaultRates::NONE;
    rates.throttled = 1.0;
    store.set_rates(rates);
    let throttled = Member::start(member("a", &stream, &store, &journal));
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.set_rates(FaultRates::NONE);
    throttled.wait_until_holding(1).await;

    let wrong_layout = HookedLeaseStore::new(InMemoryLeaseStore::new()).before(|call| async move {
        assert!(
            matches!(call, StoreCall::Prepare),
            "a table with another layout is neither read nor written"
        );
        Err(StoreError::new(StoreErrorKind::Invalid, "table \"x\" has the key \"id\""))
    });
    let wrong = Consumer::builder()
        .application("wrong")
        .source(stream)
        .lease_store(wrong_layout)
        .processors(batch_handler(|_, _| async { Ok(()) }))
        .build()
        .unwrap();
    let error = wrong.run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Invalid);
    assert!(error.to_string().contains("table \"x\""), "{error}");
}

#[test]
fn contradictory_options_are_refused_all_at_once() {
    let builder =
        Consumer::builder().application("x").worker_id("").failover_time(Duration::ZERO).max_leases(0);
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
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

#[tokio::test(start_paused = true)]
async fn stop_ends_within_the_drain_time_with_a_silent_store() {
    const DRAIN_TIME: Duration = Duration::from_secs(20);
    let (stream, table, journal) = setup(4);
    let silent = Switch::default();
    let silenced = silent.clone();
    let store = HookedLeaseStore::new(table).before(move |_| {
        let silenced = silenced.clone();
        async move {
            silenced.hang_if_on().await;
            Ok(())
        }
    });
    let members: Vec<Member> = ["a", "b"]
        .map(|name| Member::start(member(name, &stream, &store, &journal).drain_time(DRAIN_TIME)))
        .into();
    wait_until("both hold their shares", || members.iter().all(|member| member.held().len() == 2)).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    silent.turn_on();
    for member in members {
        let stopped_at = Instant::now();
        member.stop().await;
        let time = stopped_at.elapsed();
        assert!(time <= DRAIN_TIME + Duration::from_secs(6), "{time:?}");
    }
}

/// A server that does not return the row with a failed condition, and a client that believes the row is gone.
#[tokio::test(start_paused = true)]
async fn failed_conditions_without_their_row_cost_no_record() {
    for seed in SEED..SEED + 4 {
        let (stream, journal) = (InMemoryStream::new("s", shards(3)), Journal::default());
        let table = InMemoryLeaseStore::new();
        let faulty = FaultyLeaseStore::new(table.clone(), FaultRates::each(0.05), seed);
        let store = HookedLeaseStore::new(faulty.clone()).after_write(|_, outcome| async {
            match outcome {
                WriteOutcome::Lost { .. } => WriteOutcome::Lost { lease: None },
                outcome => outcome,
            }
        });
        let members =
            ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal).seed(seed)));
        for round in 0..10 {
            put(&stream, round * 50..(round + 1) * 50);
            if round % 3 == 1 {
                stream.split(&stream.open_shards()[round % 2]).unwrap();
            }
            // Both take what the other one holds now and then.
            if round % 2 == 0 {
                let rows = table.list(Consistency::Strong).await.unwrap().leases;
                for row in rows.into_iter().filter(|row| !row.is_finished()) {
                    let change = LeaseChange::take(WorkerId::new("a").unwrap());
                    let expected = row.version();
                    drop(table.write(&LeaseWrite::Update { shard_id: row.shard_id, expected, change }).await);
                }
            }
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
        journal.wait_for(500, LIMIT * 5).await;
        faulty.set_rates(FaultRates::NONE);
        // A take that seemed lost and was applied leaves the lease with a worker that does not hold it, for one fail-over time.
        tokio::time::sleep(FAILOVER_TIME * 2).await;
        for member in members {
            member.stop().await;
        }
        let rows = table.list(Consistency::Strong).await.unwrap().leases;
        assert!(rows.iter().all(|row| row.owner.is_none() || row.is_finished()), "seed {seed}: {rows:?}");
    }
}

/// Eventually consistent listings show the table as it was three minutes ago.
#[tokio::test(start_paused = true)]
async fn listings_that_are_minutes_old_skip_no_record() {
    const AGE: Duration = Duration::from_secs(180);
    let (stream, journal) = (InMemoryStream::new("s", shards(4)), Journal::default());
    let table = InMemoryLeaseStore::new();
    let start = |name: &str| {
        let listed: Mutex<Vec<(Instant, LeaseListing)>> = Mutex::default();
        let store = HookedLeaseStore::new(table.clone()).after_list(move |consistency, listing| {
            let (mut listed, now) = (listed.lock().unwrap(), Instant::now());
            listed.push((now, listing.clone()));
            let old = listed.iter().rposition(|(at, _)| *at + AGE <= now).unwrap_or(0);
            listed.drain(..old);
            if consistency == Consistency::Strong { listing } else { listed[0].1.clone() }
        });
        Member::start(member(name, &stream, &store, &journal))
    };
    let first = start("a");
    let second = start("b");
    for round in 0..20 {
        put(&stream, round * 20..(round + 1) * 20);
        if round % 6 == 1 {
            stream.split(&stream.open_shards()[round % 4]).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    journal.wait_for(400, LIMIT).await;
    let repeats: usize = journal.times().values().map(|times| times - 1).sum();
    assert!(repeats < 100, "{repeats} repeats of 400 records");
    // A crash is noticed when the listings show it.
    first.crash().await;
    put(&stream, 400..500);
    journal.wait_for(500, AGE * 3).await;
    journal.check_order();
    journal.check_parents_first(&parents(&stream).await);
    assert!(second.stop().await.is_drained());
}
