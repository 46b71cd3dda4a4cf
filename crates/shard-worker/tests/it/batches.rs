//! The size of batches and the delivery rate.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shard_worker::{
    Aggregator, BatchLimits, ByteBudget, FailurePolicy, RateLimit, RecordBatch, RecordProcessorFactory,
    ShardOutcome, batch_handler,
};
use test_support::wait_until_within;
use tokio::time::Instant;

use crate::support::one_shard::{LIMIT, OneShard};

/// The time and the size of each delivered batch.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Instant, usize)>>>);

impl Seen {
    fn handler(&self) -> impl RecordProcessorFactory + use<> {
        let seen = self.0.clone();
        batch_handler(move |_, batch: RecordBatch| {
            seen.lock().unwrap().push((Instant::now(), batch.len()));
            async { Ok(()) }
        })
    }

    fn sizes(&self) -> Vec<usize> {
        self.0.lock().unwrap().iter().map(|(_, size)| *size).collect()
    }

    fn records(&self) -> usize {
        self.sizes().iter().sum()
    }

    /// The time from the first batch to the last.
    fn span(&self) -> Duration {
        let seen = self.0.lock().unwrap();
        seen.last().unwrap().0 - seen[0].0
    }
}

fn limits(max_records: usize, max_payload_bytes: u64, max_wait: Duration) -> BatchLimits {
    let max_records = NonZeroUsize::new(max_records);
    BatchLimits::new(max_records, NonZeroU64::new(max_payload_bytes), max_wait)
}

#[tokio::test(start_paused = true)]
async fn without_limits_each_read_is_one_batch() {
    let (shard, seen) = (OneShard::with(0..500), Seen::default());
    let running = shard.start(seen.handler(), FailurePolicy::default(), |_| {});
    running.wait_for("all are delivered", |progress| progress.acknowledged_records == 500).await;
    assert_eq!(seen.sizes(), [500]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_closes_by_number_or_bytes_or_after_its_wait() {
    for by_bytes in [false, true] {
        let (shard, seen) = (OneShard::with([0; 0]), Seen::default());
        let wait = Duration::from_secs(5);
        let batch_limits = if by_bytes { limits(0, 3, wait) } else { limits(3, 0, wait) };
        let running = shard.start(seen.handler(), FailurePolicy::default(), |worker| {
            worker.options.batch_limits = batch_limits;
        });
        shard.put(["a", "b", "c", "d", "e", "f", "g"]);
        wait_until_within(LIMIT, "the full batches are delivered", || seen.records() == 6).await;
        let full_at = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Another read adds to the batch, and does not extend its wait.
        shard.put(["h"]);
        wait_until_within(LIMIT, "the last batch is delivered", || seen.records() == 8).await;
        let waited = full_at.elapsed();
        assert!(
            waited > wait - Duration::from_secs(1) && waited <= wait + Duration::from_millis(100),
            "{waited:?}"
        );
        assert_eq!(seen.sizes(), [3, 3, 2]);
        assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_shard_does_not_wait_for_a_full_batch() {
    let (shard, seen) = (OneShard::with(0..5), Seen::default());
    shard.stream.split(&shard.shard_id()).unwrap();
    let started_at = Instant::now();
    let running = shard.start(seen.handler(), FailurePolicy::default(), |worker| {
        worker.options.batch_limits = limits(3, 0, Duration::from_secs(3600));
    });
    assert_eq!(running.task.await.unwrap(), ShardOutcome::Ended);
    assert_eq!(seen.sizes(), [3, 2]);
    assert!(started_at.elapsed() < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_buffered_records_to_the_next_worker() {
    let (shard, seen) = (OneShard::with(0..5), Seen::default());
    let change = |worker: &mut shard_worker::ShardWorker| {
        worker.options.batch_limits = limits(3, 0, Duration::from_secs(3600));
    };
    let running = shard.start(seen.handler(), FailurePolicy::default(), change);
    wait_until_within(LIMIT, "the full batch is delivered", || seen.records() == 3).await;
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
    shard.put([5]);
    let running = shard.start(seen.handler(), FailurePolicy::default(), change);
    wait_until_within(LIMIT, "the others are delivered", || seen.records() == 6).await;
    assert_eq!(seen.sizes(), [3, 3]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn memory_is_returned_with_the_last_batch_of_its_read() {
    let (shard, seen) = (OneShard::with(0..6), Seen::default());
    let (budget, kept) = (ByteBudget::default(), Arc::new(Mutex::new(Vec::new())));
    let (keeper, handler) = (kept.clone(), seen.clone());
    let keeping = batch_handler(move |_, batch: RecordBatch| {
        handler.0.lock().unwrap().push((Instant::now(), batch.len()));
        keeper.lock().unwrap().push(batch);
        async { Ok(()) }
    });
    let running = shard.start(keeping, FailurePolicy::default(), |worker| {
        worker.options.batch_limits = limits(2, 0, Duration::ZERO);
        worker.options.budget = budget.clone();
        worker.options.read_ahead_bytes = 0;
    });
    wait_until_within(LIMIT, "all are delivered", || seen.records() == 6).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = budget.usage().buffered_bytes;
    assert!(all > 0);
    let last = kept.lock().unwrap().pop();
    kept.lock().unwrap().clear();
    assert_eq!(budget.usage().buffered_bytes, all, "one record keeps the buffer of its read alive");
    drop(last);
    assert_eq!(budget.usage().buffered_bytes, 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_delivers_records_evenly() {
    let (shard, seen) = (OneShard::with(0..100), Seen::default());
    let running = shard.start(seen.handler(), FailurePolicy::default(), |worker| {
        worker.options.rate_limit = RateLimit::new(NonZeroU64::new(20), None);
    });
    running.wait_for("all are delivered", |progress| progress.acknowledged_records == 100).await;
    assert_eq!(seen.sizes(), [2; 50]);
    let span = seen.span().as_millis();
    assert!((4900..5100).contains(&span), "{span} ms");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_counts_sub_records_and_bytes() {
    let shard = OneShard::with([0; 0]);
    let mut aggregator = Aggregator::new(Aggregator::DEFAULT_MAX_BYTES);
    for number in 0..100 {
        aggregator.add(number.to_string(), None, &[0; 10]).unwrap();
    }
    shard.stream.put("key", aggregator.finish().unwrap().data).unwrap();
    for (limit, expected_millis) in [
        (RateLimit::new(NonZeroU64::new(50), None), 1900..2000),
        (RateLimit::new(None, NonZeroU64::new(500)), 1900..2000),
        (RateLimit::default(), 0..1),
    ] {
        let seen = Seen::default();
        let fresh = shard.unread();
        let running = fresh.start(seen.handler(), FailurePolicy::default(), |worker| {
            worker.options.rate_limit = limit;
        });
        running.wait_for("all are delivered", |progress| progress.acknowledged_records == 100).await;
        assert!(expected_millis.contains(&seen.span().as_millis()), "{:?}", seen.span());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_the_rate() {
    let (shard, seen) = (OneShard::with(0..100), Seen::default());
    let running = shard.start(seen.handler(), FailurePolicy::default(), |worker| {
        // The next record may be delivered only after many seconds.
        worker.options.rate_limit = RateLimit::new(None, NonZeroU64::new(1));
        worker.options.batch_limits = limits(50, 0, Duration::ZERO);
    });
    wait_until_within(LIMIT, "the worker waits for the rate limit", || seen.records() == 2).await;
    let asked_at = Instant::now();
    assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
    assert!(asked_at.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_rate_slows_down_after_failures_and_recovers() {
    let shard = OneShard::with(0..2000);
    let (seen, calls) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let (noted, counted) = (seen.clone(), calls.clone());
    // A sink that accepts 1,000 records a second, and refuses the eleventh batch.
    let handler = batch_handler(move |_, batch: RecordBatch| {
        let (seen, refuses) = (noted.clone(), counted.fetch_add(1, Ordering::Relaxed) == 10);
        async move {
            tokio::time::sleep(Duration::from_millis(batch.len() as u64)).await;
            if refuses {
                return Err("slow down".into());
            }
            seen.0.lock().unwrap().push((Instant::now(), batch.len()));
            Ok(())
        }
    });
    let running = shard.start(handler, FailurePolicy::default(), |worker| {
        worker.options.adapts_rate = true;
        worker.options.batch_limits = limits(100, 0, Duration::ZERO);
    });
    running.wait_for("all are delivered", |progress| progress.acknowledged_records == 2000).await;
    let batches = seen.0.lock().unwrap().clone();
    let rate = |from: usize, to: usize| {
        let records: usize = batches[from + 1..=to].iter().map(|(_, size)| size).sum();
        records as f64 / (batches[to].0 - batches[from].0).as_secs_f64()
    };
    assert!(rate(0, 9) > 950.0, "{}", rate(0, 9));
    let after = rate(11, 15);
    assert!((400.0..700.0).contains(&after), "half as fast after the failure: {after}");
    let last = rate(batches.len() - 4, batches.len() - 1);
    assert!(last > after * 1.1, "faster again: {last}");
    running.stop().await;
}
