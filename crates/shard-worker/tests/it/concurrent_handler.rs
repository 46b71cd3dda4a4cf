//! Many records of a shard at a time, in order per key or unordered: no checkpoint passes a record before it is done.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use lease_store::Position;
use proptest::prelude::*;
use shard_worker::{
    Concurrency, FailurePolicy, InMemoryStream, Record, ShardOutcome, ShardState, concurrent_handler,
};

use test_support::run_with_paused_clock;

use crate::support::one_shard::OneShard;

fn degree(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.data).into_owned()
}

/// The done records, and how many run at a time.
#[derive(Debug, Clone, Default)]
struct Seen {
    done: Arc<Mutex<Vec<(String, Position)>>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
}

impl Seen {
    fn begin(&self) {
        let now = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_running.fetch_max(now, Ordering::Relaxed);
    }

    fn end(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    fn record(&self, record: &Record) {
        self.done
            .lock()
            .unwrap()
            .push((record.partition_key.as_deref().unwrap().to_owned(), record.position()));
    }
}

/// Processes 60 records of 6 keys; each attempt takes a random time, and some fail.
async fn run(concurrency: Concurrency, seed: u64) -> (OneShard, Seen) {
    let shard = OneShard::with([0; 0]);
    for number in 0..60 {
        shard.stream.put(format!("key-{}", number % 6), number.to_string()).unwrap();
    }
    let (seen, rng) = (Seen::default(), Arc::new(Mutex::new(Rng::with_seed(seed))));
    let noted = seen.clone();
    let handler = concurrent_handler(concurrency, move |_, record: Record| {
        let (seen, rng) = (noted, rng);
        async move {
            seen.begin();
            let (millis, fails) = {
                let mut rng = rng.lock().unwrap();
                (rng.u64(1..2000), rng.u8(..) < 40)
            };
            tokio::time::sleep(Duration::from_millis(millis)).await;
            seen.end();
            if fails {
                assert!(millis % 2 == 0, "a bug in the application");
                return Err("not now".into());
            }
            seen.record(&record);
            Ok(())
        }
    });
    let running = shard.start(handler, FailurePolicy::halt(), |_| {});
    running.wait_for("all is done", |progress| progress.acknowledged_records == 60).await;
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
    (shard, seen)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn records_of_a_key_stay_in_order_when_some_fail(seed: u64, lanes in 1..8_usize) {
        let (shard, seen) = run_with_paused_clock(run(Concurrency::PerKey(degree(lanes)), seed));
        let mut by_key: BTreeMap<String, Vec<Position>> = BTreeMap::new();
        for (key, position) in seen.done.lock().unwrap().iter() {
            by_key.entry(key.clone()).or_default().push(position.clone());
        }
        prop_assert_eq!(by_key.len(), 6);
        for (key, positions) in by_key {
            prop_assert_eq!(positions.len(), 10);
            prop_assert!(positions.is_sorted(), "{}: {:?}", key, positions);
        }
        prop_assert!(seen.most_running.load(Ordering::Relaxed) <= lanes);
        let last = seen.done.lock().unwrap().iter().map(|(_, position)| position.clone()).max();
        prop_assert_eq!(shard.checkpoint(), last);
    }

    #[test]
    fn unordered_records_run_once_each_within_the_limit(seed: u64, limit in 1..70_usize) {
        let (_, seen) = run_with_paused_clock(run(Concurrency::Unordered(degree(limit)), seed));
        let mut positions: Vec<Position> = seen.done.lock().unwrap().iter().map(|(_, position)| position.clone()).collect();
        positions.sort();
        positions.dedup();
        prop_assert_eq!(positions.len(), 60);
        prop_assert_eq!(seen.most_running.load(Ordering::Relaxed), limit.min(60));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_key_delays_the_checkpoint_but_no_other_key() {
    let shard = OneShard::with(["stuck", "a", "b", "c"]);
    let done = Arc::new(Mutex::new(Vec::new()));
    let noted = done.clone();
    let handler = concurrent_handler(Concurrency::PerKey(degree(2)), move |_, record: Record| {
        let done = noted;
        async move {
            let text = text(&record);
            if text == "stuck" {
                return Err("never".into());
            }
            done.lock().unwrap().push(text);
            Ok(())
        }
    });
    let running = shard.start(handler, FailurePolicy::halt(), |_| {});
    for round in 0..20 {
        shard.put([format!("x{round}"), "stuck".to_owned()]);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(done.lock().unwrap().len(), 23);
    assert_eq!((shard.checkpoint(), running.progress().acknowledged_records), (None, 0));
    assert_eq!(running.progress().last_error.as_deref(), Some("never"));
    assert_eq!(running.progress().state, ShardState::Reading);
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: false });
}

#[tokio::test(start_paused = true)]
async fn the_failure_policy_applies_to_each_record() {
    let sink = InMemoryStream::new("rejected", NonZeroUsize::MIN);
    let three = NonZeroU32::MIN.saturating_add(2);
    for concurrency in [Concurrency::PerKey(degree(3)), Concurrency::Unordered(degree(3))] {
        for (policy, dead_letters, skipped) in [
            (FailurePolicy::dead_letters(sink.clone()).attempts(three), 2, 0),
            (FailurePolicy::skip().attempts(three).time_limit(Duration::from_secs(9)), 0, 2),
        ] {
            let shard = OneShard::with(["good", "bad", "fine", "hangs"]);
            let policy = policy.time_limit(Duration::from_secs(9));
            let handler = concurrent_handler(concurrency, move |_, record: Record| async move {
                match text(&record).as_str() {
                    "bad" => Err("never".into()),
                    "hangs" => std::future::pending().await,
                    _ => Ok(()),
                }
            });
            let running = shard.start(handler, policy, |_| {});
            running.wait_for("all is passed", |progress| progress.acknowledged_records == 4).await;
            let progress = running.progress();
            assert_eq!((progress.dead_letters, progress.skipped_records), (dead_letters, skipped));
            assert_eq!(progress.failed_attempts, 6);
            running.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_records_not_started_to_the_next_worker() {
    for concurrency in [Concurrency::PerKey(degree(4)), Concurrency::Unordered(degree(4))] {
        let (shard, done) = (OneShard::with(0..100), Arc::new(Mutex::new(Vec::new())));
        let noted = done.clone();
        let handler = concurrent_handler(concurrency, move |_, record: Record| {
            let done = noted;
            async move {
                tokio::time::sleep(Duration::from_secs(10)).await;
                done.lock().unwrap().push(text(&record));
                Ok(())
            }
        });
        let running = shard.start(handler.clone(), FailurePolicy::halt(), |_| {});
        tokio::time::sleep(Duration::from_secs(5)).await;
        let asked_at = tokio::time::Instant::now();
        assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
        assert!(asked_at.elapsed() < Duration::from_secs(6), "{:?}", asked_at.elapsed());
        assert_eq!(done.lock().unwrap().len(), 4);
        let running = shard.start(handler, FailurePolicy::halt(), |_| {});
        running.wait_for("the others are done", |progress| progress.acknowledged_records == 96).await;
        running.stop().await;
        let mut all = done.lock().unwrap().clone();
        all.sort();
        all.dedup();
        assert_eq!((done.lock().unwrap().len(), all.len()), (100, 100), "each once");
    }
}
