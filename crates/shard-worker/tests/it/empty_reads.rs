//! Processors that want to know of reads without records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use shard_worker::{
    BoxError, FailurePolicy, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext, ShardOutcome,
};
use test_support::wait_until_within;

use crate::support::one_shard::{LIMIT, OneShard};

/// The calls so far: the size of a batch, 0 for a read without records.
#[derive(Debug, Clone, Default)]
struct Calls {
    sizes: Arc<Mutex<Vec<usize>>>,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl RecordProcessor for Calls {
    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        self.sizes.lock().unwrap().push(batch.len());
        Ok(())
    }

    async fn nothing_read(&mut self, millis_behind_latest: Option<u64>) -> Result<(), BoxError> {
        assert_eq!(millis_behind_latest, Some(0), "the stream is read up to its tip");
        self.sizes.lock().unwrap().push(0);
        if self.fails.load(Ordering::Relaxed) { Err("no time".into()) } else { Ok(()) }
    }
}

impl Calls {
    fn factory(&self) -> impl RecordProcessorFactory + use<> {
        let calls = self.clone();
        move |_: ShardContext| calls.clone()
    }

    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }

    fn empty(&self) -> usize {
        self.sizes().iter().filter(|size| **size == 0).count()
    }
}

#[tokio::test(start_paused = true)]
async fn empty_reads_are_notified_only_on_request() {
    for is_wanted in [false, true] {
        let (shard, calls) = (OneShard::with(0..3), Calls::default());
        let running = shard.start(calls.factory(), FailurePolicy::default(), |worker| {
            worker.options.calls_for_empty_reads = is_wanted;
        });
        running.wait_for("all are delivered", |progress| progress.acknowledged_records == 3).await;
        if is_wanted {
            wait_until_within(LIMIT, "three empty reads", || calls.empty() >= 3).await;
        } else {
            tokio::time::sleep(LIMIT).await;
            assert_eq!(calls.sizes(), [3]);
        }
        shard.put(["x"]);
        running.wait_for("it is delivered", |progress| progress.acknowledged_records == 4).await;
        let progress = running.progress();
        assert_eq!(running.stop().await, ShardOutcome::Stopped { drained: true });
        assert_eq!(shard.checkpoint(), progress.acknowledged, "an empty read acknowledges nothing");
        assert_eq!(calls.sizes().into_iter().filter(|size| *size > 0).collect::<Vec<_>>(), [3, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_notification_is_repeated_before_the_next_read() {
    let (shard, calls) = (OneShard::with([0; 0]), Calls::default());
    calls.fails.store(true, Ordering::Relaxed);
    let running = shard.start(calls.factory(), FailurePolicy::default(), |worker| {
        worker.options.calls_for_empty_reads = true;
    });
    running.wait_for("it fails", |progress| progress.failed_attempts >= 2).await;
    shard.put(["x"]);
    running.wait_for("it fails again", |progress| progress.failed_attempts >= 4).await;
    assert_eq!(running.progress().acknowledged_records, 0);
    calls.fails.store(false, Ordering::Relaxed);
    running.wait_for("the record is delivered", |progress| progress.acknowledged_records == 1).await;
    assert_eq!(running.progress().last_error, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn end_of_a_shard_is_no_empty_read() {
    let (shard, calls) = (OneShard::with(["x"]), Calls::default());
    shard.stream.split(&shard.shard_id()).unwrap();
    let running = shard.start(calls.factory(), FailurePolicy::default(), |worker| {
        worker.options.calls_for_empty_reads = true;
    });
    assert_eq!(running.task.await.unwrap(), ShardOutcome::Ended);
    assert_eq!(calls.sizes(), [1]);
}
