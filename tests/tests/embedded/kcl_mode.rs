//! A KCL fleet that changes its mode while a worker of this library runs beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, put, setup};
use kinesis_streaming::lease_store::{StoreError, StoreErrorKind};
use test_support::{HookedLeaseStore, LIMIT, StoreCall, wait_until};
use tokio::time::{Instant, sleep};

/// The longest time between two reads of the mode.
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn worker_takes_no_lease_once_a_leader_assigns_them() {
    let (stream, table, journal) = setup(4);
    let (is_refused, is_throttled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let store = HookedLeaseStore::new(table.clone()).before({
        let (is_refused, is_throttled) = (is_refused.clone(), is_throttled.clone());
        move |call| {
            let is_mode = matches!(call, StoreCall::CheckFleetMode);
            let answer = if is_mode && is_throttled.load(Ordering::Relaxed) {
                Err(StoreError::new(StoreErrorKind::Throttled, "later"))
            } else if is_mode && is_refused.load(Ordering::Relaxed) {
                Err(StoreError::invalid("its leader assigns the leases"))
            } else {
                Ok(())
            };
            async move { answer }
        }
    });
    let java = Member::start(member("java", &stream, &table, &journal).max_leases(2));
    java.wait_until_holding(2).await;
    let rust = Member::start(member("rust", &stream, &table, &journal).lease_store(store));
    rust.wait_until_holding(2).await;
    assert_eq!(rust.handle.status().takes_refused, None);

    is_refused.store(true, Ordering::Relaxed);
    let changed_at = Instant::now();
    wait_until("it shows the refusal", || rust.handle.status().takes_refused.is_some()).await;
    assert!(changed_at.elapsed() < MINUTE, "{:?}", changed_at.elapsed());
    java.crash().await;
    put(&stream, 0..100);
    is_throttled.store(true, Ordering::Relaxed);
    sleep(FAILOVER_TIME * 6 + MINUTE).await;
    assert_eq!(rust.held().len(), 2, "it keeps its own, and takes none of the abandoned ones");
    assert!(
        rust.handle.status().takes_refused.unwrap().contains("leader assigns"),
        "a failed read changes nothing"
    );

    is_throttled.store(false, Ordering::Relaxed);
    is_refused.store(false, Ordering::Relaxed);
    journal.wait_for(100, LIMIT + MINUTE).await;
    rust.wait_until_holding(4).await;
    assert_eq!(rust.handle.status().takes_refused, None);
    assert!(rust.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn worker_reads_the_mode_at_least_every_minute() {
    let (stream, table, journal) = setup(1);
    let reads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = reads.clone();
    let store = HookedLeaseStore::new(table.clone()).before(move |call| {
        if matches!(call, StoreCall::CheckFleetMode) {
            seen.lock().unwrap().push(Instant::now());
        }
        async { Ok(()) }
    });
    let started_at = Instant::now();
    let rust = Member::start(member("rust", &stream, &table, &journal).lease_store(store));
    sleep(MINUTE * 60).await;
    rust.stop().await;
    let reads = reads.lock().unwrap();
    assert!(reads[0] - started_at < Duration::from_secs(1));
    assert!(reads.windows(2).all(|pair| pair[1] - pair[0] < MINUTE), "{reads:?}");
    assert!(reads.len() < 90, "{} reads in an hour", reads.len());
}
