//! Clones: several live workers under one worker id.

use std::collections::BTreeMap;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup};
use kinesis_streaming::lease_store::{
    Consistency, Lease, LeaseChange, LeaseFacts, LeaseWrite, WorkerId, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use test_support::{Journal, LIMIT, wait_until};
use tokio::time::Instant;

/// The name that all of them have.
const NAME: &str = "same";

const SHARDS: usize = 8;

const RECORDS_PER_SECOND: usize = 40;

/// How long records are put.
const SECONDS: usize = 180;

fn clone_of(
    number: u64,
    stream: &InMemoryStream,
    store: &(impl LeaseStore + Clone),
    journal: &Journal,
) -> Member {
    Member::start(member(NAME, stream, store, journal).seed(SEED + number))
}

async fn checkpoints(store: &InMemoryLeaseStore) -> BTreeMap<ShardId, Position> {
    let leases = store.list(Consistency::Strong).await.unwrap().leases;
    leases.into_iter().map(|lease| (lease.shard_id, lease.checkpoint)).collect()
}

/// Runs this many clones, which start together, and checks deliveries and checkpoints.
async fn check_clones(count: u64) {
    let (stream, store, journal) = setup(SHARDS);
    let _clones: Vec<Member> = (0..count).map(|number| clone_of(number, &stream, &store, &journal)).collect();
    let mut earlier = BTreeMap::new();
    for second in 0..SECONDS {
        put(&stream, second * RECORDS_PER_SECOND..(second + 1) * RECORDS_PER_SECOND);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second == SECONDS / 2 {
            earlier = checkpoints(&store).await;
        }
    }
    let records = SECONDS * RECORDS_PER_SECOND;
    journal.wait_for(records, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await; // longer than the checkpoint interval
    let deliveries = journal.all().len();
    assert!(2 * deliveries <= 3 * records, "{count} clones: {deliveries} deliveries of {records} records");
    for (shard_id, checkpoint) in checkpoints(&store).await {
        assert!(checkpoint > earlier[&shard_id], "{count} clones: {shard_id} stays at {checkpoint}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_clones_share_the_shards_and_repeat_little() {
    check_clones(2).await;
}

#[tokio::test(start_paused = true)]
async fn five_clones_share_the_shards_and_repeat_little() {
    check_clones(5).await;
}

#[tokio::test(start_paused = true)]
async fn ten_clones_share_the_shards_and_repeat_little() {
    check_clones(10).await;
}

#[tokio::test(start_paused = true)]
async fn clean_deploy_with_a_stable_name_repeats_nothing() {
    let (stream, store, journal) = setup(SHARDS);
    let old = clone_of(0, &stream, &store, &journal);
    old.wait_until_holding(SHARDS).await;
    let mut new = None;
    let mut old = Some(old);
    for second in 0..60 {
        put(&stream, second * 20..(second + 1) * 20);
        tokio::time::sleep(Duration::from_secs(1)).await;
        match second {
            20 => new = Some(clone_of(1, &stream, &store, &journal)),
            40 => assert!(old.take().unwrap().stop().await.is_drained()),
            _ => {}
        }
    }
    journal.wait_for(60 * 20, LIMIT).await;
    assert_eq!(journal.all().len(), 60 * 20, "no record is delivered twice");
    new.unwrap().wait_until_holding(SHARDS).await;
}

#[tokio::test(start_paused = true)]
async fn clone_of_a_crashed_worker_takes_over_after_failover() {
    let (stream, store, journal) = setup(SHARDS);
    let first = clone_of(0, &stream, &store, &journal);
    first.wait_until_holding(SHARDS).await;
    let second = clone_of(1, &stream, &store, &journal);
    tokio::time::sleep(FAILOVER_TIME).await;
    assert_eq!(second.held().len(), 0, "the first worker is alive");
    first.crash().await;
    put(&stream, 0..100);
    journal.wait_for(100, FAILOVER_TIME + Duration::from_secs(3)).await;
    second.wait_until_holding(SHARDS).await;
}

#[tokio::test(start_paused = true)]
async fn a_live_namesake_is_counted_and_shown_in_the_status() {
    let (stream, store, journal) = setup(SHARDS);
    let first = clone_of(0, &stream, &store, &journal);
    first.wait_until_holding(SHARDS).await;
    let before = first.handle.status();
    assert_eq!((before.namesake, before.namesake_sightings), (None, 0));
    let second = clone_of(1, &stream, &store, &journal);
    wait_until("the namesake is seen", || second.handle.status().namesake.is_some()).await;
    let status = second.handle.status();
    let namesake = status.namesake.unwrap();
    assert!(status.namesake_sightings >= 1);
    let pid = format!(" pid={} ", std::process::id());
    for part in ["host=", pid.as_str(), " started=20", " worker=same"] {
        assert!(namesake.contains(part), "{part} in {namesake}");
    }
    first.stop().await;
    second.wait_until_holding(SHARDS).await;
    wait_until("the namesake is gone", || second.handle.status().namesake.is_none()).await;
}

/// Writes to a row as another process would.
async fn write(store: &InMemoryLeaseStore, row: &Lease, change: LeaseChange) {
    let update = LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change };
    assert!(matches!(store.write(&update).await.unwrap(), WriteOutcome::Applied { .. }));
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_namesake_elsewhere_is_free_after_failover() {
    let (stream, store, journal) = setup(1);
    let first = clone_of(0, &stream, &store, &journal);
    first.wait_until_holding(1).await;
    first.stop().await;
    let shard_id = stream.open_shards().swap_remove(0);
    let row = async || store.get(&shard_id).await.unwrap().unwrap();
    let elsewhere = "host=elsewhere pid=1 ticks=7 started=2026-11-29T20:00:00Z instance=1 worker=same";
    let facts = LeaseFacts { owner_process: Some(elsewhere.to_owned()), ..LeaseFacts::default() };
    write(&store, &row().await, LeaseChange::Take { owner: WorkerId::new(NAME).unwrap(), facts }).await;
    let member = clone_of(1, &stream, &store, &journal);
    for _ in 0..5 {
        tokio::time::sleep(FAILOVER_TIME * 3 / 4).await;
        assert!(member.held().is_empty(), "the other process renews its lease");
        write(&store, &row().await, LeaseChange::Renew).await;
    }
    let last_renewed_at = Instant::now();
    assert_eq!(member.handle.status().namesake.as_deref(), Some(elsewhere));
    member.wait_until_holding(1).await;
    let free_after = last_renewed_at.elapsed();
    assert!(
        free_after > FAILOVER_TIME && free_after < FAILOVER_TIME + Duration::from_secs(2),
        "{free_after:?}"
    );
    assert_ne!(row().await.owner_process.as_deref(), Some(elsewhere));
}

#[tokio::test(start_paused = true)]
async fn the_victim_of_a_clone_does_not_fight_back() {
    let (stream, store, journal) = setup(1);
    let member = clone_of(0, &stream, &store, &journal);
    member.wait_until_holding(1).await;
    let shard_id = stream.open_shards().swap_remove(0);
    let row = async || store.get(&shard_id).await.unwrap().unwrap();
    let own = row().await.owner_process;
    // An older process of the same name keeps the attribute that it does not know.
    let facts = LeaseFacts { owner_process: own, ..LeaseFacts::default() };
    write(&store, &row().await, LeaseChange::Take { owner: WorkerId::new(NAME).unwrap(), facts }).await;
    wait_until("the loss is counted", || member.handle.status().lost_leases == 1).await;
    assert_eq!(member.handle.status().namesake_sightings, 1);
    for _ in 0..5 {
        write(&store, &row().await, LeaseChange::Renew).await;
        tokio::time::sleep(FAILOVER_TIME / 2).await;
        assert!(member.held().is_empty(), "the other process renews its lease");
    }
    member.wait_until_holding(1).await;
}
