//! The lag that workers leave in their rows: at no extra write, true, and void once a worker of the KCL has the lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, put, setup};
use end_to_end_tests::kcl_peer::KclPeer;
use kinesis_streaming::lease_store::{Consistency, CountingLeaseStore, Lease};
use kinesis_streaming::prelude::*;
use test_support::{LIMIT, wait_until};

/// The rows of unfinished leases.
async fn rows(store: &InMemoryLeaseStore) -> Vec<Lease> {
    let leases = store.list(Consistency::Strong).await.unwrap().leases;
    leases.into_iter().filter(|lease| !lease.is_finished()).collect()
}

async fn now_millis(stream: &InMemoryStream) -> u64 {
    let described = stream.describe().await.unwrap();
    let since_1970 = described.now.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since_1970.as_millis()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn rows_tell_a_stuck_handler_from_an_idle_one() {
    let (stream, store, journal) = setup(1);
    let is_stuck = Arc::new(AtomicBool::new(false));
    let stuck = is_stuck.clone();
    let handler = batch_handler(move |_: ShardContext, _: RecordBatch| async move {
        if stuck.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    let counted = CountingLeaseStore::new(store.clone());
    let settings = member("a", &stream, &counted, &journal).processors(handler);
    let member = Member::start(settings);
    member.wait_until_holding(1).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let idle = rows(&store).await[0].lag_report().expect("a renewal carries a report");
    assert_eq!(idle.behind_millis, 0);
    let age = now_millis(&stream).await.saturating_sub(idle.measured_at_millis);
    assert!(age <= 4_000, "measured {age} ms ago, with the newest renewal");

    put(&stream, 0..10);
    tokio::time::sleep(FAILOVER_TIME).await;
    let busy = rows(&store).await[0].clone();
    assert_eq!(busy.lag_report().map(|report| report.behind_millis), Some(0), "{busy:?}");
    assert!(matches!(busy.checkpoint, Position::After(_)), "the checkpoint carries the report");

    is_stuck.store(true, Ordering::Relaxed);
    let before = counted.calls();
    put(&stream, 10..20);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let stuck = rows(&store).await[0].lag_report().expect("a stuck shard is renewed all the same");
    assert!((90_000..=100_000).contains(&stuck.behind_millis), "{stuck:?}");
    let calls = counted.calls();
    assert_eq!(calls.checkpoints, before.checkpoints);
    assert!((29..=31).contains(&(calls.renewals - before.renewals)), "one each 3.3 s: {calls:?}");
}

/// aws/aws-sdk-java #2524 and apache/druid #11005: the lag of a shard without new records grows.
#[tokio::test(start_paused = true)]
async fn idle_shard_reports_no_lag_however_long() {
    let (stream, store, journal) = setup(1);
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(1).await;
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(1_200)).await;
        let report = rows(&store).await[0].lag_report().unwrap();
        assert_eq!(report.behind_millis, 0, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_of_the_kcl_makes_the_report_void() {
    let (stream, store, journal) = setup(2);
    let ours = Member::start(member("ours", &stream, &store, &journal));
    ours.wait_until_holding(2).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    assert!(rows(&store).await.iter().all(|row| row.lag_report().is_some()));
    let java = KclPeer::start("java", FAILOVER_TIME, &stream, &store, &journal);
    wait_until("they share", || java.held().len() == 1 && ours.held().len() == 1).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    for row in rows(&store).await {
        let is_of_java = row.owner.as_ref().is_some_and(|owner| owner.as_str() == "java");
        assert!(row.lag_report_text.is_some(), "the KCL keeps the attribute");
        assert_eq!(row.lag_report().is_none(), is_of_java, "{row:?}");
    }
    put(&stream, 0..40);
    journal.wait_for(40, LIMIT).await;
}
