//! Fleets that share shards: balance, crashes, stops, reshards, standbys, and the writes of a quiet fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, parents, put, setup, shards};
use kinesis_streaming::lease_store::{Consistency, CountingLeaseStore};
use kinesis_streaming::prelude::*;
use test_support::{Journal, LIMIT, wait_until};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn every_record_arrives_through_splits_and_merges() {
    let (stream, store, journal) = setup(4);
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
    let (stream, store, journal) = setup(7);
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
async fn workers_that_start_together_rarely_steal() {
    for seed in SEED..SEED + 10 {
        let (stream, store, journal) = setup(16);
        let builder = member("w", &stream, &store, &journal).seed(seed);
        let group = ConsumerGroup::new(&builder, 4).unwrap();
        let handle = group.handle();
        let running = tokio::spawn(group.run());
        wait_until("the shares are even", || handle.statuses().iter().all(|status| status.shards.len() == 4))
            .await;
        let moves: u64 = handle.statuses().iter().map(|status| status.lost_leases).sum();
        assert!(
            moves <= 6,
            "seed {seed}: {moves} of 16 leases moved; a greedy first worker would take all 16"
        );
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_others_resume_from_the_checkpoint() {
    let (stream, store, journal) = setup(2);
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
    assert_eq!(again, (100..120).collect(), "exactly the records after the checkpoint are delivered again");
    assert!(heir.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn stop_costs_nothing() {
    let (stream, store, journal) = setup(3);
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
    let (stream, store, journal) = setup(1);
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
async fn restart_under_the_same_name_resumes_at_once() {
    let (stream, store, journal) = setup(2);
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
async fn leases_of_ended_shards_go_once_their_children_have_begun() {
    let (stream, store, journal) = setup(1);
    let member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    put(&stream, 10..50);
    journal.wait_for(50, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await; // covers a checkpoint of the children and a lease round
    let remaining: Vec<_> = store.list(Consistency::Strong).await.unwrap().leases;
    assert_eq!(remaining.len(), 2, "{remaining:?}");
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
    assert_eq!(after.writes() - before.writes(), renewals, "renewals only");
}

/// The clock of all processes jumps while handlers work and calls are under way, as after a suspension.
#[tokio::test(start_paused = true)]
async fn clock_that_jumps_by_an_hour_skips_no_record() {
    let (stream, store, journal) = setup(4);
    let slow = |name: &str| {
        let delivered = journal.clone();
        let handler = batch_handler(move |shard: ShardContext, batch| {
            delivered.record(&shard, &batch);
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            }
        });
        Member::start(member(name, &stream, &store, &journal).processors(handler))
    };
    let members = ["a", "b", "c"].map(slow);
    let mut rng = fastrand::Rng::with_seed(SEED);
    for round in 0..20 {
        put(&stream, round * 20..(round + 1) * 20);
        if round % 7 == 3 {
            stream.split(&stream.open_shards()[round % 4]).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(500..20_000))).await;
        // A fleet forgets its leases in a quarter of an hour, and the stream its records in a day.
        tokio::time::advance(Duration::from_secs(rng.u64(5..3_600))).await;
    }
    // A worker that lost a lease by a jump repeats what it had not checkpointed.
    journal.wait_for(400, LIMIT * 2).await;
    // Leases that expired in the last jump are taken again.
    tokio::time::sleep(FAILOVER_TIME).await;
    for member in members {
        assert!(member.stop().await.is_drained());
    }
    let rows = store.list(Consistency::Strong).await.unwrap().leases;
    assert!(rows.iter().all(|row| row.owner.is_none() || row.is_finished()), "{rows:?}");
}
