//! Operations on an application whose worker is alive: it is asked, and nothing is changed behind its back.

use end_to_end_tests::interop::wait_for;
use lease_store::Position;

use crate::bed::{APPLICATION, Bed, PATIENCE, shard};

#[tokio::test(flavor = "multi_thread")]
async fn live_worker_is_asked_to_reset_and_reads_again() {
    let bed = Bed::start().await;
    let worker = bed.start_worker("w1");
    bed.put_records(0..10).await;
    worker.wait_for(10, 1).await;
    let reset = ["reset", APPLICATION, "--to", "trim-horizon", "--execute"];
    bed.run(&reset).await.assert(1, "worker w1 renews");
    assert!(worker.read.lock().unwrap().values().all(|times| *times == 1), "nothing was changed");
    bed.run(&[&reset[..], &["--live"]].concat()).await.assert(0, "2 done");
    worker.wait_for(10, 2).await;
    // A standing fleet skips its backlog.
    bed.run(&["reset", APPLICATION, "--to", "latest", "--live", "--execute"]).await.assert(0, "2 done");
    bed.put_records(10..20).await;
    worker.wait_for(20, 1).await;
    let read = worker.read.lock().unwrap().clone();
    assert!(read.values().filter(|times| **times == 1).count() == 10, "{read:?}");
    bed.run(&["delete", APPLICATION, "--execute"]).await.assert(1, "worker w1 renews");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_application_is_reset_at_the_first_look() {
    let bed = Bed::start().await;
    let worker = bed.start_worker("w1");
    bed.put_records(0..10).await;
    worker.wait_for(10, 1).await;
    worker.stop().await;
    let reset = ["reset", APPLICATION, "--to", "trim-horizon", "--execute", "--look-time", "0s"];
    bed.run(&reset).await.assert(0, "2 done");
    let again = bed.start_worker("w2");
    again.wait_for(10, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_worker_hands_an_assigned_shard_over() {
    let bed = Bed::start().await;
    let first = bed.start_worker("w1");
    bed.put_records(0..10).await;
    first.wait_for(10, 1).await;
    let second = bed.start_worker("w2");
    let owner = async |number: u64| bed.row(number).await.owner.map(|owner| owner.to_string());
    // Each of the two gets one of the two shards.
    wait_for("each of the two owns a shard", PATIENCE, async || match (owner(0).await, owner(1).await) {
        (Some(one), Some(other)) if one != other => Ok(()),
        owners => Err(format!("{owners:?}")),
    })
    .await;
    let number = if owner(0).await.as_deref() == Some("w1") { 0 } else { 1 };
    let shard_id = shard(number);
    bed.run(&["assign", APPLICATION, shard_id.as_str(), "w2"]).await.assert(0, "1 done");
    bed.put_records(10..20).await;
    let read = || first.read.lock().unwrap().len() + second.read.lock().unwrap().len();
    wait_for("all records are read", PATIENCE, async || match read() {
        20.. => Ok(()),
        count => Err(format!("{count} records")),
    })
    .await;
    assert_eq!(read(), 20, "no record is read twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_worker_leaves_a_paused_shard() {
    let bed = Bed::start().await;
    let worker = bed.start_worker("w1");
    bed.put_records(0..10).await;
    worker.wait_for(10, 1).await;
    bed.run(&["pause", APPLICATION, "--for", "1h"]).await.assert(0, "2 done");
    let is_free = async |number| bed.row(number).await.owner.is_none();
    wait_for("the worker has left both shards", PATIENCE, async || {
        if is_free(0).await && is_free(1).await { Ok(()) } else { Err("a shard is owned".to_owned()) }
    })
    .await;
    assert!(matches!(bed.row(0).await.checkpoint, Position::After(_)), "{}", shard(0));
    bed.put_records(10..20).await;
    bed.run(&["resume", APPLICATION]).await.assert(0, "2 done");
    worker.wait_for(20, 1).await;
    assert!(worker.read.lock().unwrap().values().all(|times| *times == 1));
}

/// The worker that read a shard to its end stays named in its row, and renews it no more.
#[tokio::test(flavor = "multi_thread")]
async fn live_reset_rewinds_the_ended_parent_too() {
    let bed = Bed::start().await;
    let worker = bed.start_worker("w1");
    bed.put_records(0..10).await;
    worker.wait_for(10, 1).await;
    bed.split(0).await;
    wait_for("the parent has ended", PATIENCE, async || match bed.row(0).await {
        row if row.is_finished() && row.owner.is_some() => Ok(()),
        row => Err(format!("{row:?}")),
    })
    .await;
    let reset = ["reset", APPLICATION, "--to", "trim-horizon", "--live", "--execute"];
    bed.run(&reset).await.assert(0, "2 done");
    worker.wait_for(10, 2).await;
    worker.stop().await;
}
