//! Single calls to the lease store that take long or never end: they delay no other shard, no hand-over and no fail-over, and
//! a stop in the middle of them reports what it leaves behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup};
use kinesis_streaming::lease_store::{
    Consistency, Lease, LeaseChange, LeaseWrite, StoreError, StoreErrorKind, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::ShardOutcome;
use test_support::{
    HookedLeaseStore, HookedStream, LIMIT, StoreCall, StreamCall, Switch, wait_until, wait_until_within,
};
use tokio::time::Instant;

fn is_take(write: &LeaseWrite) -> bool {
    matches!(write, LeaseWrite::Update { change: LeaseChange::Take { .. }, .. })
}

/// A store that applies the take with this number, counted from 0, and delays its answer.
fn with_slow_take(
    table: InMemoryLeaseStore,
    number: usize,
    delay: Duration,
) -> (HookedLeaseStore, Arc<AtomicUsize>) {
    let takes = Arc::new(AtomicUsize::new(0));
    let counted = takes.clone();
    let store = HookedLeaseStore::new(table).after_write(move |write, outcome| {
        let is_slow = is_take(&write) && counted.fetch_add(1, Ordering::Relaxed) == number;
        async move {
            if is_slow {
                tokio::time::sleep(delay).await;
            }
            outcome
        }
    });
    (store, takes)
}

async fn rows(table: &InMemoryLeaseStore) -> Vec<Lease> {
    table.list(Consistency::Strong).await.unwrap().leases
}

fn unavailable() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the table cannot be reached")
}

#[tokio::test(start_paused = true)]
async fn a_stop_amid_takes_leaves_nothing_unreported() {
    for number in [0, 1, 5, 40, 63] {
        for delay in [Duration::from_secs(3), Duration::from_secs(3600)] {
            let (stream, table, journal) = setup(64);
            let (store, takes) = with_slow_take(table.clone(), number, delay);
            let member = Member::start(member("a", &stream, &store, &journal));
            wait_until("the slow take is under way", || takes.load(Ordering::Relaxed) > number).await;
            let report = member.stop().await;
            let owned: BTreeSet<ShardId> = rows(&table)
                .await
                .into_iter()
                .filter(|lease| lease.owner.is_some())
                .map(|lease| lease.shard_id)
                .collect();
            let listed: BTreeSet<ShardId> =
                report.shards.iter().map(|(shard_id, _)| shard_id.clone()).collect();
            assert!(owned.is_subset(&listed), "take {number}, {delay:?}: {} left", owned.len());
            assert!(owned.is_empty() || !report.is_drained(), "take {number}, {delay:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_the_table_is_not_drained() {
    for hangs in [false, true] {
        for outage in [0, 3, 9, 12, 30, 90] {
            let (stream, table, journal) = setup(2);
            let away = Switch::default();
            let switch = away.clone();
            let store = HookedLeaseStore::new(table.clone()).before(move |_| {
                let switch = switch.clone();
                async move {
                    match (switch.is_on(), hangs) {
                        (true, true) => std::future::pending().await,
                        (true, false) => Err(unavailable()),
                        (false, _) => Ok(()),
                    }
                }
            });
            let builder = member("a", &stream, &store, &journal).checkpoint_interval(LIMIT);
            let member = Member::start(builder);
            member.wait_until_holding(2).await;
            away.turn_on();
            put(&stream, 0..10);
            journal.wait_for(10, LIMIT).await;
            tokio::time::sleep(Duration::from_secs(outage)).await;
            let report = member.stop().await;
            let stored = rows(&table).await.iter().any(|lease| lease.checkpoint != Position::TrimHorizon);
            assert!(!stored);
            assert!(!report.is_drained(), "hangs: {hangs}, after {outage} s: {:?}", report.shards);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_another_owner_does_not_undrain_a_stop() {
    let (stream, table, journal) = setup(2);
    let away = Switch::default();
    let switch = away.clone();
    let store = HookedLeaseStore::new(table.clone()).before(move |_| {
        let is_away = switch.is_on();
        async move { if is_away { Err(unavailable()) } else { Ok(()) } }
    });
    let cut_off = Member::start(member("a", &stream, &store, &journal).checkpoint_interval(LIMIT));
    cut_off.wait_until_holding(2).await;
    away.turn_on();
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    let other = Member::start(member("b", &stream, &table, &journal));
    other.wait_until_holding(2).await;
    away.turn_off();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cut_off.stop().await.is_drained(), "another owner stands in each row");
}

#[tokio::test(start_paused = true)]
async fn a_slow_take_delays_no_other_shard() {
    for number in [0, 1, 20] {
        let (stream, table, journal) = setup(32);
        let (store, _) = with_slow_take(table, number, Duration::from_secs(30));
        let member = Member::start(member("a", &stream, &store, &journal));
        let limit = Duration::from_secs(4);
        wait_until_within(limit, "all others are held", || member.held().len() >= 31).await;
        let limit = Duration::from_secs(3);
        wait_until_within(limit, "the slow one is taken again", || member.held().len() == 32).await;
        assert_eq!(member.handle.status().lost_leases, 0, "take {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_take_without_an_answer_costs_no_lease() {
    let (stream, table, journal) = setup(64);
    let (store, _) = with_slow_take(table, 40, FAILOVER_TIME + Duration::from_secs(1));
    let member = Member::start(member("a", &stream, &store, &journal));
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    assert_eq!(member.handle.status().lost_leases, 0);
    assert_eq!(member.held().len(), 64);
}

#[tokio::test(start_paused = true)]
async fn many_slow_takes_are_renewed_in_time() {
    let (stream, table, journal) = setup(600);
    let store = HookedLeaseStore::new(table).after_write(|_, outcome| async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        outcome
    });
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(600).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    assert_eq!(member.handle.status().lost_leases, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_poll_delays_no_other_hand_over() {
    let (stream, table, journal) = setup(8);
    let first = Member::start(member("first", &stream, &table, &journal));
    first.wait_until_holding(8).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    // One poll is not answered for half a minute.
    let store = HookedLeaseStore::new(table).before(move |call| {
        let is_slow = matches!(call, StoreCall::Get(_)) && counted.fetch_add(1, Ordering::Relaxed) == 3;
        async move {
            if is_slow {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            Ok(())
        }
    });
    let second = Member::start(member("second", &stream, &store, &journal));
    let limit = FAILOVER_TIME + Duration::from_secs(2);
    wait_until_within(limit, "it has its share", || second.held().len() == 4).await;
    assert!(polls.load(Ordering::Relaxed) > 3);
    assert_eq!(first.handle.status().lost_leases, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_at_a_stop_holds_up_no_shard() {
    let (stream, table, journal) = setup(4);
    let first = Member::start(member("first", &stream, &table, &journal));
    first.wait_until_holding(4).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let hangs = Switch::default();
    let switch = hangs.clone();
    let store = HookedLeaseStore::new(table.clone()).before(move |call| {
        let hangs = matches!(call, StoreCall::Get(_)) && switch.is_on();
        async move { if hangs { std::future::pending().await } else { Ok(()) } }
    });
    let second = Member::start(member("second", &stream, &store, &journal).checkpoint_interval(LIMIT));
    second.wait_until_holding(1).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    hangs.turn_on();
    // The second request of the worker is not answered yet.
    second.handle.stop();
    let report = second.stop().await;
    let held = report.shards.iter().filter(|(_, outcome)| outcome.is_some()).count();
    assert!(held >= 1, "{report:?}");
    for (shard_id, outcome) in &report.shards {
        let drained = matches!(outcome, Some(ShardOutcome::Stopped { drained: true }));
        assert!(drained || outcome.is_none(), "{shard_id}: {outcome:?}");
    }
}

/// Adds rows of ended shards that the clean-up deletes: they have no parents, and their child has progress.
async fn add_ended_rows(table: &InMemoryLeaseStore, count: usize) {
    let child = rows(table).await.remove(0).shard_id;
    for number in 0..count {
        let mut lease = Lease::unowned(ShardId::numbered(5000 + number as u64), Position::ShardEnd);
        lease.children = BTreeSet::from([child.clone()]);
        table.write(&LeaseWrite::Create(lease)).await.unwrap();
    }
}

/// A view of the table in which each deletion takes 20 ms and is counted.
fn with_slow_deletes(table: &InMemoryLeaseStore) -> (HookedLeaseStore, Arc<AtomicUsize>) {
    let deletes = Arc::new(AtomicUsize::new(0));
    let counted = deletes.clone();
    let store = HookedLeaseStore::new(table.clone()).before(move |call| {
        let deletes = matches!(call, StoreCall::Write(LeaseWrite::Delete { .. }));
        counted.fetch_add(usize::from(deletes), Ordering::Relaxed);
        async move {
            if deletes {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
    });
    (store, deletes)
}

#[tokio::test(start_paused = true)]
async fn clean_up_is_the_leaders_and_delays_no_fail_over() {
    let (stream, table, journal) = setup(4);
    let ((store_a, deletes_a), (store_b, deletes_b)) = (with_slow_deletes(&table), with_slow_deletes(&table));
    let a = Member::start(member("a", &stream, &store_a, &journal));
    let b = Member::start(member("b", &stream, &store_b, &journal));
    wait_until("both hold their shares", || a.held().len() == 2 && b.held().len() == 2).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    add_ended_rows(&table, 500).await;
    let total = || deletes_a.load(Ordering::Relaxed) + deletes_b.load(Ordering::Relaxed);
    wait_until("the clean-up is under way", || total() > 0).await;
    let a_leads = a.handle.status().is_leader;
    let (leader, other) = if a_leads { (a, b) } else { (b, a) };
    let crashed_at = Instant::now();
    other.crash().await;
    leader.wait_until_holding(4).await;
    let gap = crashed_at.elapsed();
    assert!(gap <= FAILOVER_TIME + Duration::from_secs(3), "{gap:?}");
    let by_others = if a_leads { &deletes_b } else { &deletes_a };
    assert_eq!(by_others.load(Ordering::Relaxed), 0, "only the leader deletes");
    tokio::time::sleep(FAILOVER_TIME * 6).await;
    assert_eq!(rows(&table).await.len(), 4, "all are deleted in the end");
}

/// The mean of an exponential distribution whose 99th percentile is 250 ms.
const MEAN_CALL_MILLIS: f64 = 54.3;

/// A store in which 99 of 100 calls take up to 250 ms, and one takes 5 s: half of that before and half after the effect.
fn with_long_tail(table: &InMemoryLeaseStore, seed: u64) -> HookedLeaseStore {
    let rng = Arc::new(std::sync::Mutex::new(fastrand::Rng::with_seed(seed)));
    let wait = {
        move || {
            let mut rng = rng.lock().unwrap();
            let drawn = -rng.f64().max(f64::MIN_POSITIVE).ln() * MEAN_CALL_MILLIS;
            let millis = if rng.u32(..100) == 0 { 5000.0 } else { drawn.min(250.0) };
            Duration::from_secs_f64(millis / 2000.0)
        }
    };
    let after = wait.clone();
    HookedLeaseStore::new(table.clone())
        .before(move |call| {
            let (one, other) = (wait(), wait());
            // A write waits again after its effect.
            let delay = if matches!(call, StoreCall::Write(_)) { one } else { one + other };
            async move {
                tokio::time::sleep(delay).await;
                Ok(())
            }
        })
        .after_write(move |_, outcome: WriteOutcome| {
            let delay = after();
            async move {
                tokio::time::sleep(delay).await;
                outcome
            }
        })
}

#[tokio::test(start_paused = true)]
async fn fail_over_with_long_tails_is_within_three_seconds() {
    let mut gaps = Vec::new();
    for seed in SEED..SEED + 16 {
        let (stream, table, journal) = setup(6);
        let mut rng = fastrand::Rng::with_seed(seed);
        let members: Vec<Member> = ["a", "b", "c"]
            .map(|name| {
                let store = with_long_tail(&table, rng.u64(..));
                Member::start(member(name, &stream, &store, &journal).seed(rng.u64(..)))
            })
            .into();
        wait_until("all hold their shares", || members.iter().all(|member| member.held().len() == 2)).await;
        tokio::time::sleep(FAILOVER_TIME + Duration::from_millis(rng.u64(..5000))).await;
        let mut members = members;
        let victim = members.remove(rng.usize(..3));
        let crashed_at = Instant::now();
        victim.crash().await;
        let held = || members.iter().map(|member| member.held().len()).sum::<usize>();
        wait_until("the others hold all", || held() == 6).await;
        let lost: u64 = members.iter().map(|member| member.handle.status().lost_leases).sum();
        gaps.push((crashed_at.elapsed(), lost, seed));
    }
    gaps.sort();
    let limit = FAILOVER_TIME + Duration::from_secs(3);
    let slow: Vec<_> = gaps.iter().filter(|(gap, ..)| *gap > limit).collect();
    assert!(slow.is_empty(), "{slow:?} of {gaps:?}");
    assert!(gaps.iter().all(|(_, lost, _)| *lost == 0), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_without_an_answer_delays_no_fail_over() {
    let (stream, table, journal) = setup(4);
    let hangs = Switch::default();
    let switch = hangs.clone();
    let store = HookedLeaseStore::new(table.clone()).before(move |call| {
        let hangs = matches!(call, StoreCall::List(_)) && switch.take();
        async move {
            if hangs {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Ok(())
        }
    });
    let a = Member::start(member("a", &stream, &store, &journal));
    let b = Member::start(member("b", &stream, &table, &journal));
    wait_until("both hold their shares", || a.held().len() == 2 && b.held().len() == 2).await;
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    let crashed_at = Instant::now();
    b.crash().await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    hangs.turn_on();
    a.wait_until_holding(4).await;
    assert!(!hangs.is_on());
    let gap = crashed_at.elapsed();
    assert!(gap <= FAILOVER_TIME + Duration::from_secs(3), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_description_delays_no_open() {
    let (stream, table, journal) = setup(8);
    let hangs = Arc::new(AtomicBool::new(false));
    let slow = HookedStream::new(stream.clone()).before({
        let hangs = hangs.clone();
        move |call| {
            let hangs = matches!(call, StreamCall::Describe) && hangs.load(Ordering::Relaxed);
            async move {
                if hangs {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                Ok(())
            }
        }
    });
    let member_of = |name| member(name, &stream, &table, &journal).source(slow.clone());
    let [a, b] = ["a", "b"].map(|name| Member::start(member_of(name)));
    wait_until("both hold their shares", || a.held().len() == 4 && b.held().len() == 4).await;
    hangs.store(true, Ordering::Relaxed);
    tokio::time::sleep(FAILOVER_TIME).await;
    let crashed_at = Instant::now();
    a.crash().await;
    put(&stream, 0..200);
    journal.wait_for(200, LIMIT).await;
    let gap = crashed_at.elapsed();
    assert!(gap <= FAILOVER_TIME + Duration::from_secs(5), "{gap:?}");
}
