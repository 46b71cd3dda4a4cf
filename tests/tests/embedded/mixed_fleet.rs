//! Our workers and workers that follow the rules of the KCL 2.x on one lease table.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, parents, put, setup};
use end_to_end_tests::kcl_peer::KclPeer;
use kinesis_streaming::lease_store::{Consistency, LeaseChange, LeaseWrite, WorkerId};
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::ReadFrom;
use test_support::{HookedLeaseStore, LIMIT, StoreCall, wait_until};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn silent_kcl_worker_loses_leases_to_the_fleet() {
    let (stream, store, journal) = setup(6);
    let first = Member::start(member("bootstrap", &stream, &store, &journal));
    first.wait_until_holding(6).await;
    first.stop().await;
    let java = KclPeer::start("java", FAILOVER_TIME, &stream, &store, &journal);
    wait_until("the KCL worker holds all", || java.held().len() == 6).await;
    let joined_at = Instant::now();
    let ours = Member::start(member("ours", &stream, &store, &journal));
    ours.wait_until_holding(3).await;
    let time = joined_at.elapsed();
    assert!(time >= FAILOVER_TIME, "it got a request first: {time:?}");
    assert!(time < FAILOVER_TIME * 2, "{time:?}");
    put(&stream, 0..200);
    journal.wait_for(200, LIMIT).await;
    wait_until("the KCL worker noticed", || java.held().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn mixed_fleet_delivers_in_order_through_reshards_and_crashes() {
    for seed in SEED..SEED + 5 {
        let (stream, store, journal) = setup(6);
        let ours = Member::start(member("ours", &stream, &store, &journal).seed(seed));
        let java = KclPeer::start("java", FAILOVER_TIME, &stream, &store, &journal);
        let dying = KclPeer::start("dying", FAILOVER_TIME, &stream, &store, &journal);
        put(&stream, 0..300);
        wait_until("all take part", || {
            !ours.held().is_empty() && !java.held().is_empty() && !dying.held().is_empty()
        })
        .await;
        stream.split(&stream.open_shards()[0]).unwrap();
        put(&stream, 300..600);
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(dying);
        put(&stream, 600..900);
        let open = stream.open_shards();
        stream
            .merge(&open[0], &open[1])
            .unwrap_or_else(|_| stream.split(&open[2]).unwrap().into_iter().next().unwrap());
        put(&stream, 900..1200);
        journal.wait_for(1200, LIMIT * 2).await;
        journal.check_order();
        journal.check_parents_first(&parents(&stream).await);
        assert!(ours.stop().await.is_drained(), "seed {seed}");
        // A KCL worker of 2.6 and later takes a released lease at once.
        put(&stream, 1200..1300);
        journal.wait_for(1300, FAILOVER_TIME * 4).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fleets_replace_each_other_one_worker_at_a_time() {
    let (stream, store, journal) = setup(6);
    put(&stream, 0..60);
    let mut java: Vec<KclPeer> = Vec::new();
    let bootstrap = Member::start(member("bootstrap", &stream, &store, &journal));
    bootstrap.wait_until_holding(6).await;
    for name in ["java-0", "java-1", "java-2"] {
        java.push(KclPeer::start(name, FAILOVER_TIME, &stream, &store, &journal));
    }
    bootstrap.stop().await;
    wait_until("the KCL fleet holds all", || java.iter().map(|peer| peer.held().len()).sum::<usize>() == 6)
        .await;
    let mut ours = Vec::new();
    let mut numbers = 60;
    for name in ["ours-0", "ours-1", "ours-2"] {
        drop(java.remove(0));
        ours.push(Member::start(member(name, &stream, &store, &journal)));
        put(&stream, numbers..numbers + 60);
        numbers += 60;
        journal.wait_for(numbers, LIMIT).await;
    }
    wait_until("ours hold all", || ours.iter().map(|member| member.held().len()).sum::<usize>() == 6).await;
    for name in ["java-3", "java-4", "java-5"] {
        assert!(ours.remove(0).stop().await.is_drained());
        java.push(KclPeer::start(name, FAILOVER_TIME, &stream, &store, &journal));
        put(&stream, numbers..numbers + 60);
        numbers += 60;
        journal.wait_for(numbers, LIMIT).await;
    }
    journal.check_order();
    assert_eq!(journal.times().len(), numbers, "none missing");
}

#[tokio::test(start_paused = true)]
async fn request_left_in_the_row_by_a_kcl_worker_is_ignored() {
    let (stream, store, journal) = setup(2);
    let ours = Member::start(member("ours", &stream, &store, &journal));
    ours.wait_until_holding(2).await;
    // A request to an earlier owner, from a requester that is gone.
    let mut row = store.list(Consistency::Strong).await.unwrap().leases.remove(0);
    let java = KclPeer::start("java", FAILOVER_TIME, &stream, &store, &journal);
    wait_until("they share", || java.held().len() == 1 && ours.held().len() == 1).await;
    let of_java: BTreeSet<ShardId> = java.held().into_iter().collect();
    row.shard_id = of_java.first().unwrap().clone();
    let row = store.get(&row.shard_id).await.unwrap().unwrap();
    let request =
        LeaseChange::Request { by: WorkerId::new("gone").unwrap(), instead_of: row.requested_by.clone() };
    let write =
        LeaseWrite::Update { shard_id: row.shard_id.clone(), expected: row.version(), change: request };
    store.write(&write).await.unwrap();
    drop(java);
    ours.wait_until_holding(2).await;
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    assert_eq!(ours.held().len(), 2, "it was not handed over to a worker that is gone");
}

#[tokio::test(start_paused = true)]
async fn offered_lease_has_its_newest_position() {
    let (stream, table, journal) = setup(2);
    let offered: Arc<Mutex<Vec<ShardId>>> = Arc::default();
    let store = HookedLeaseStore::new(table.clone()).before({
        let (table, stream, offered) = (table.clone(), stream.clone(), offered.clone());
        move |call| {
            let shard_id = match call {
                StoreCall::Write(LeaseWrite::Update { shard_id, change: LeaseChange::Offer, .. }) => {
                    Some(shard_id)
                }
                _ => None,
            };
            let (table, stream, offered) = (table.clone(), stream.clone(), offered.clone());
            async move {
                // From now on a KCL worker may take the lease.
                if let Some(shard_id) = shard_id {
                    let row = table.get(&shard_id).await.unwrap().unwrap();
                    assert_eq!(row.checkpoint, newest_of(&stream, &shard_id).await, "{shard_id}");
                    offered.lock().unwrap().push(shard_id);
                }
                Ok(())
            }
        }
    });
    let interval = FAILOVER_TIME * 100;
    let ours = Member::start(member("ours", &stream, &store, &journal).checkpoint_interval(interval));
    ours.wait_until_holding(2).await;
    let java = KclPeer::start("java", FAILOVER_TIME, &stream, &table, &journal);
    wait_until("they share", || java.held().len() == 1 && ours.held().len() == 1).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    assert!(ours.stop().await.is_drained());
    assert!(!offered.lock().unwrap().is_empty());
}

async fn newest_of(stream: &InMemoryStream, shard_id: &ShardId) -> Position {
    let mut reader = stream.open(shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    let records = reader.next_batch().await.unwrap().records;
    records.last().unwrap().position()
}
