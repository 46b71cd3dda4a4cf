//! The lease table is deleted and created again, or its counters are smaller: no acknowledged state is lost.

use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, shards};
use kinesis_streaming::lease_store::{Lease, LeaseWrite};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::ConsumerErrorKind;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use test_support::{HookedLeaseStore, wait_until};
use tokio::time::sleep;

use super::scene::{APPLICATION, Scene};

/// Two snapshots of each shard, the number that is kept, under a counter that a new table reaches only much later.
async fn run_first_life(scene: &Scene, shard_count: usize) {
    let member = scene.start("first");
    member.wait_until_holding(shard_count).await;
    sleep(FAILOVER_TIME * 30).await;
    member.stop().await;
    let member = scene.start("second");
    for round in 0..4 {
        scene.put(round * 50..round * 50 + 50);
        sleep(Duration::from_secs(5)).await;
    }
    scene.wait_until_all_counted().await;
    member.stop().await;
}

/// The table is deleted: the next start finds an empty one.
fn without_table(scene: Scene) -> Scene {
    Scene { leases: HookedLeaseStore::new(InMemoryLeaseStore::new()), ..scene }
}

/// Counts the records of three further runs, each of which must start where the previous one ended.
async fn run_on(scene: &Scene, first: usize) {
    for round in 0..3 {
        let member = scene.start(["third", "fourth", "fifth"][round]);
        scene.put(first + round * 50..first + round * 50 + 50);
        scene.wait_until_all_counted().await;
        assert!(member.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_table_costs_no_acknowledged_state() {
    let scene = Scene::new(2);
    run_first_life(&scene, 2).await;
    let scene = without_table(scene);
    run_on(&scene, 200).await;
}

/// A table whose rows count from 0, with workers that cannot lift the counters: their stream reports no time.
#[tokio::test(start_paused = true)]
async fn new_snapshots_follow_those_of_a_longer_life() {
    let scene = Scene::new(1);
    run_first_life(&scene, 1).await;
    let scene = without_table(scene);
    let source = || {
        test_support::HookedStream::new(scene.stream.clone()).after_describe(|mut description| async move {
            description.now = None;
            Ok(description)
        })
    };
    let shard_id = scene.stream.open_shards().swap_remove(0);
    for (round, name) in ["third", "fourth", "fifth"].into_iter().enumerate() {
        let before = scene.objects.newest(&shard_id).await;
        let member = Member::start(scene.builder(name).source(source()));
        scene.put(200 + round * 50..250 + round * 50);
        scene.wait_until_all_counted().await;
        let row = scene.leases.table.get(&shard_id).await.unwrap().unwrap();
        assert!(row.counter < 1000, "the table counts from 0 again: {}", row.counter);
        assert!(scene.objects.newest(&shard_id).await > before, "the new snapshot is the newest");
        assert!(member.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_grow_over_the_lives_of_a_table() {
    let mut scene = Scene::new(2);
    let mut newest = std::collections::BTreeMap::new();
    for life in 0..4 {
        for name in ["a", "b"] {
            let member = scene.start(name);
            member.wait_until_holding(2).await;
            for shard in member.handle.status().shards {
                let token = newest.insert(shard.shard_id.clone(), shard.lease_counter);
                assert!(token < Some(shard.lease_counter), "{token:?}, then {}", shard.lease_counter);
            }
            sleep(FAILOVER_TIME * 3).await;
            member.stop().await;
        }
        scene = without_table(scene);
        if life == 2 {
            // The rows are created by another worker, a KCL worker for example, and count from 0.
            for shard in scene.stream.list_shards(&ShardFilter::All).await.unwrap() {
                let mut row = Lease::unowned(shard.shard_id, Position::TrimHorizon);
                row.hash_key_range = shard.hash_key_range;
                scene.leases.table.write(&LeaseWrite::Create(row)).await.unwrap();
            }
        }
    }
    assert!(newest.values().all(|token| *token < 1 << 53), "{newest:?}");
}

/// Follows the error message of a table of another stream, word by word, both ways.
#[tokio::test(start_paused = true)]
async fn the_advice_for_a_table_of_another_stream_is_safe() {
    let scene = Scene::new(2);
    run_first_life(&scene, 2).await;
    let of_old_stream = scene.objects.paths().await;
    let anew = Scene::new(2);
    let stream = scene.stream.recreated(shards(2));
    let scene = Scene { stream, expected: anew.expected, ..scene };
    let error = scene.builder("third").build().unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::WrongStream);
    let text = error.to_string();
    for part in [
        "give the application another name (and with it a table of its own)",
        "stop all its workers, delete the table, and, if it keeps state, move the snapshots of the old stream elsewhere",
        "refused for this one, and never deleted",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    // The first way: another name, and with it a table of its own.
    let named = without_table(scene.clone());
    scene.put(0..50);
    for worker in ["fourth", "fifth"] {
        let processors = named.processors();
        let builder = named.builder(worker).application("counting-anew").processors(processors.clone());
        let member = Member::start(builder);
        wait_until("all are counted", || processors.local_totals().get("all") == Some(&50)).await;
        assert!(member.stop().await.is_drained());
    }

    // The second way. A start that forgets the snapshots is refused, names them, and deletes none.
    let scene = without_table(scene);
    let member = scene.start("sixth");
    let error = || member.handle.status().shards.first()?.progress.last_error.clone();
    wait_until("it is refused", || error().is_some()).await;
    let text = error().unwrap();
    for part in
        [&format!("states/{APPLICATION}/text/shardId-"), ".snapshot", "move it elsewhere", "never deleted"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    member.stop().await;
    for path in &of_old_stream {
        assert!(scene.objects.paths().await.contains(path), "{path} is kept");
        let elsewhere = Path::from(format!("elsewhere/{path}"));
        scene.objects.kept.rename(path, &elsewhere).await.unwrap();
    }
    scene.wait_until_all_counted_by(scene.start("seventh")).await;
    run_on(&scene, 50).await;
}
