//! Hand-overs between live workers: no record comes twice, and no shard waits for long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup, shards};
use kinesis_streaming::lease_store::{Consistency, CountingLeaseStore};
use kinesis_streaming::prelude::*;
use test_support::{Journal, LIMIT, wait_until};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// The time between two records of the producer, over all shards.
const PUT_INTERVAL: Duration = Duration::from_millis(10);

/// The longest time that a planned move may leave a shard unread.
const MAX_GAP: Duration = Duration::from_secs(1);

/// The number of seeds in a quick run. `cargo xtask ci` runs the others too.
const QUICK_SEEDS: u64 = 1;

/// Starts a producer that puts a record every [`PUT_INTERVAL`], numbered from 0, until it is aborted or dropped.
fn start_producer(stream: &InMemoryStream) -> AbortOnDropHandle<()> {
    let stream = stream.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        for number in 0.. {
            put(&stream, number..number + 1);
            tokio::time::sleep(PUT_INTERVAL).await;
        }
    }))
}

/// Checks that no record was delivered twice and that no shard was unread for longer than [`MAX_GAP`].
fn check_nothing_twice_and_no_gap(journal: &Journal) {
    let again: BTreeMap<String, usize> =
        journal.times().into_iter().filter(|(_, times)| *times > 1).collect();
    assert_eq!(again, BTreeMap::new(), "delivered again");
    let mut last: HashMap<ShardId, (Instant, String)> = HashMap::new();
    for delivered in journal.all() {
        let now = (delivered.at, delivered.worker_id.clone());
        if let Some((before, by)) = last.insert(delivered.shard_id.clone(), now) {
            let gap = delivered.at - before;
            assert!(
                gap <= MAX_GAP,
                "{}: {gap:?} between {by} and {}",
                delivered.shard_id,
                delivered.worker_id
            );
        }
    }
}

/// Lets a second worker join a worker that holds all shards.
async fn check_planned_move(seed: u64) {
    let (stream, store, journal) = setup(8);
    let _producer = start_producer(&stream);
    let first = Member::start(member("first", &stream, &store, &journal).seed(seed));
    first.wait_until_holding(8).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let joined_at = Instant::now();
    let second = Member::start(member("second", &stream, &store, &journal).seed(seed + 1000));
    second.wait_until_holding(4).await;
    let time = joined_at.elapsed();
    assert!(time < FAILOVER_TIME, "seed {seed}: the second worker had its share after {time:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((first.held().len(), second.held().len()), (4, 4), "seed {seed}: balanced");
    check_nothing_twice_and_no_gap(&journal);
    let statuses = [first.handle.status(), second.handle.status()];
    assert_eq!(statuses.map(|status| status.lost_leases), [0, 0], "seed {seed}: no lease was stolen");
    assert_eq!(
        first.handle.status().handed_over_leases,
        4,
        "seed {seed}: only the leases that had to move moved"
    );
}

#[tokio::test(start_paused = true)]
async fn a_planned_move_delivers_nothing_twice_and_leaves_no_gap() {
    for seed in SEED..SEED + QUICK_SEEDS {
        check_planned_move(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn planned_moves_of_more_seeds_repeat_nothing() {
    for seed in SEED + QUICK_SEEDS..SEED + 10 {
        check_planned_move(seed).await;
    }
}

/// Stops one of three workers.
async fn check_stop(seed: u64) {
    let (stream, store, journal) = setup(6);
    let producer = start_producer(&stream);
    let staying: Vec<Member> = ["a", "b"]
        .map(|name| {
            Member::start(member(name, &stream, &store, &journal).seed(seed + u64::from(name.as_bytes()[0])))
        })
        .into();
    let leaving = Member::start(member("leaving", &stream, &store, &journal).seed(seed));
    leaving.wait_until_holding(2).await;
    wait_until("the others hold their shares", || staying.iter().all(|member| member.held().len() == 2))
        .await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stopped_at = Instant::now();
    assert!(leaving.stop().await.is_drained(), "seed {seed}");
    let time = stopped_at.elapsed();
    assert!(time < Duration::from_secs(5), "seed {seed}: the stop took {time:?}");
    wait_until("the others hold all", || staying.iter().all(|member| member.held().len() == 3)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    producer.abort();
    check_nothing_twice_and_no_gap(&journal);
}

#[tokio::test(start_paused = true)]
async fn a_stop_hands_the_shards_over_without_a_gap() {
    for seed in SEED..SEED + QUICK_SEEDS {
        check_stop(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn stops_of_more_seeds_leave_no_gap() {
    for seed in SEED + QUICK_SEEDS..SEED + 10 {
        check_stop(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_from_a_stopping_worker_without_a_gap() {
    let (stream, store, journal) = setup(1);
    let producer = start_producer(&stream);
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    let standby = Member::start(member("standby", &stream, &store, &journal));
    wait_until("it is a standby", || standby.handle.status().is_standby).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(first.stop().await.is_drained());
    standby.wait_until_holding(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    producer.abort();
    check_nothing_twice_and_no_gap(&journal);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_replacement_delivers_everything_once_without_a_gap() {
    let (stream, store, journal) = setup(9);
    let producer = start_producer(&stream);
    let mut fleet: Vec<Member> =
        ["old-0", "old-1", "old-2"].map(|name| Member::start(member(name, &stream, &store, &journal))).into();
    wait_until("all shards are held", || fleet.iter().map(|member| member.held().len()).sum::<usize>() == 9)
        .await;
    for name in ["new-0", "new-1", "new-2"] {
        let new = Member::start(member(name, &stream, &store, &journal));
        wait_until("the new one has a share", || new.held().len() >= 2).await;
        assert!(fleet.remove(0).stop().await.is_drained());
        fleet.push(new);
        wait_until("all shards are held", || {
            fleet.iter().map(|member| member.held().len()).sum::<usize>() == 9
        })
        .await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    producer.abort();
    check_nothing_twice_and_no_gap(&journal);
    let lost: u64 = fleet.iter().map(|member| member.handle.status().lost_leases).sum();
    assert_eq!(lost, 0);
}

#[tokio::test(start_paused = true)]
async fn workers_that_stop_together_do_not_wait_for_each_other() {
    let (stream, store, journal) = setup(4);
    let members: Vec<Member> =
        ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal))).into();
    wait_until("both hold their shares", || members.iter().all(|member| member.held().len() == 2)).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let stopped_at = Instant::now();
    for member in &members {
        member.handle.stop();
    }
    for member in members {
        assert!(member.stop().await.is_drained());
    }
    assert!(stopped_at.elapsed() < Duration::from_secs(2), "{:?}", stopped_at.elapsed());
    let owners: BTreeSet<_> =
        store.list(Consistency::Strong).await.unwrap().leases.into_iter().map(|lease| lease.owner).collect();
    assert_eq!(owners, BTreeSet::from([None]));
}

#[tokio::test(start_paused = true)]
async fn a_lone_worker_stops_at_once() {
    let (stream, store, journal) = setup(2);
    let lone = Member::start(member("lone", &stream, &store, &journal));
    lone.wait_until_holding(2).await;
    let stopped_at = Instant::now();
    assert!(lone.stop().await.is_drained());
    assert!(stopped_at.elapsed() < Duration::from_secs(1), "{:?}", stopped_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn slow_handler_gets_the_drain_time_before_a_hand_over() {
    let (stream, store, journal) = setup(2);
    let shared = journal.clone();
    let slow = member("slow", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let journal = shared;
            async move {
                tokio::time::sleep(FAILOVER_TIME * 2).await;
                journal.record(&shard, &batch);
                Ok(())
            }
        },
    ));
    let slow = Member::start(slow);
    slow.wait_until_holding(2).await;
    put(&stream, 0..20);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heir = Member::start(member("heir", &stream, &store, &journal));
    heir.wait_until_holding(1).await;
    journal.wait_for(20, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME * 4).await;
    assert!(journal.times().values().all(|times| *times == 1), "{:?}", journal.times());
    assert_eq!(slow.handle.status().lost_leases, 0, "it had agreed to hand over, so the requester waited");
}

#[tokio::test(start_paused = true)]
async fn hung_handler_is_cut_off_after_the_drain_time_of_a_move() {
    let (stream, store, journal) = setup(2);
    let hung = member("hung", &stream, &store, &journal)
        .processors(batch_handler(|_, _| std::future::pending()))
        .drain_time(Duration::from_secs(15));
    let hung = Member::start(hung);
    hung.wait_until_holding(2).await;
    put(&stream, 0..20);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heir = Member::start(member("heir", &stream, &store, &journal).max_leases(1));
    heir.wait_until_holding(1).await;
    assert_eq!(hung.held().len(), 1);
    wait_until("the heir delivers the records of the hung worker", || !journal.all().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn crashed_requester_costs_the_failover_time_and_no_repeat() {
    let (stream, store, journal) = setup(2);
    let _producer = start_producer(&stream);
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let joining = Member::start(member("joining", &stream, &store, &journal));
    loop {
        let leases = store.list(Consistency::Strong).await.unwrap().leases;
        if leases.iter().any(|lease| lease.requested_by.is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    joining.crash().await;
    // The owner hands over to a crashed worker, and takes the lease back once it has expired.
    wait_until("it was handed over", || first.held().len() == 1).await;
    let handed_over_at = Instant::now();
    first.wait_until_holding(2).await;
    let gap = handed_over_at.elapsed();
    assert!(gap < FAILOVER_TIME + Duration::from_secs(3), "{gap:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        journal.times().values().all(|times| *times == 1),
        "the hand-over kept the checkpoint, so nothing is read twice"
    );
}

/// Starts a fleet whose workers hold `share` shards each once it is balanced.
async fn check_balance(workers: usize, share: usize) {
    let (stream, journal) = (InMemoryStream::new("s", shards(workers * share)), Journal::default());
    let store = CountingLeaseStore::new(InMemoryLeaseStore::new());
    let members: Vec<Member> = (0..workers)
        .map(|index| Member::start(member(&format!("worker-{index:02}"), &stream, &store, &journal)))
        .collect();
    let loads = || members.iter().map(|member| member.held().len()).collect::<Vec<_>>();
    wait_until("all hold their share", || loads().iter().all(|load| *load == share)).await;
    let moved = || -> u64 {
        let statuses = members.iter().map(|member| member.handle.status());
        statuses.map(|status| status.lost_leases + status.handed_over_leases).sum()
    };
    let moves = moved();
    let leases = workers * share;
    assert!(moves <= leases as u64 / 10, "{moves} of {leases} leases moved until the fleet was balanced");
    tokio::time::sleep(FAILOVER_TIME * 12).await;
    assert_eq!(moved(), moves, "a balanced fleet moves nothing");
    assert!(loads().iter().all(|load| *load == share));
}

#[tokio::test(start_paused = true)]
async fn hundred_shards_on_ten_workers_balance_and_stop_moving() {
    check_balance(10, 10).await;
}

#[tokio::test(start_paused = true)]
async fn thousand_shards_on_twenty_workers_balance_and_stop_moving() {
    check_balance(20, 50).await;
}

/// Stops a worker this long after it has joined.
async fn check_stopped_requester(delay_millis: u64) {
    let (stream, store, journal) = setup(4);
    let producer = start_producer(&stream);
    let first = Member::start(member("first", &stream, &store, &journal));
    first.wait_until_holding(4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let joining = Member::start(member("joining", &stream, &store, &journal));
    tokio::time::sleep(Duration::from_millis(delay_millis)).await;
    assert!(joining.stop().await.is_drained());
    first.wait_until_holding(4).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    producer.abort();
    assert_eq!(first.held().len(), 4, "after {delay_millis} ms");
    let again = journal.times().values().filter(|times| **times > 1).count();
    assert_eq!(again, 0, "after {delay_millis} ms");
    // The other member has to find the released leases in its next lease round.
    let mut last: HashMap<ShardId, Instant> = HashMap::new();
    for delivered in journal.all() {
        let before = last.insert(delivered.shard_id.clone(), delivered.at).unwrap_or(delivered.at);
        let gap = delivered.at - before;
        assert!(
            gap < FAILOVER_TIME / 2,
            "after {delay_millis} ms: {} unread for {gap:?}",
            delivered.shard_id
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_stops_leaves_no_shard_unread() {
    for delay_millis in [1000, 2000] {
        check_stopped_requester(delay_millis).await;
    }
}

#[tokio::test(start_paused = true)]
async fn requesters_that_stop_at_more_times_leave_no_shard_unread() {
    for delay_millis in (0..4000).step_by(250) {
        check_stopped_requester(delay_millis).await;
    }
}
