//! One shard worker: the calls that it makes, and their order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::CheckpointWriter;
use lease_store::{BoxError, Position, StoreError};
use shard_worker::{RecordBatch, RecordProcessor, Shard, ShardEndRecorder, ShardOutcome, ShardWorker};

use crate::support::one_shard::OneShard;
use crate::support::{self, ONLY_ON_DEMAND};

/// The calls, in order.
#[derive(Debug, Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn record(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl CheckpointWriter for Events {
    async fn write(&self, _position: &Position) -> Result<(), StoreError> {
        self.record("checkpoint");
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Events {
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError> {
        self.record(format!("end with {} children", children.len()));
        Ok(())
    }
}

/// Records its calls; `initialize` fails `failing_starts` times, and `process` may hang.
struct Recording {
    events: Events,
    failing_starts: usize,
    hangs: bool,
}

#[async_trait]
impl RecordProcessor for Recording {
    async fn initialize(&mut self) -> Result<(), BoxError> {
        self.events.record("initialize");
        if self.failing_starts > 0 {
            self.failing_starts -= 1;
            return Err("not yet".into());
        }
        Ok(())
    }

    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        self.events.record(format!("process {}", batch.len()));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.events.record("lease lost");
    }

    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        self.events.record("shard ended");
        Ok(())
    }

    async fn shutdown_requested(&mut self) -> Result<(), BoxError> {
        self.events.record("shutdown requested");
        Ok(())
    }
}

/// A worker on a shard with three records.
fn worker(shard: &OneShard, events: &Events, failing_starts: usize, hangs: bool) -> ShardWorker {
    let recorder = events.clone();
    let processors = move |_| Recording { events: recorder.clone(), failing_starts, hangs };
    let stored = Arc::new(events.clone());
    support::worker(&shard.stream, Position::TrimHorizon, processors, ONLY_ON_DEMAND, &stored).0
}

fn scene() -> (OneShard, Events) {
    (OneShard::with(["a", "b", "c"]), Events::default())
}

async fn wait_a_little() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_is_recorded_after_the_last_checkpoint() {
    let (shard, events) = scene();
    shard.stream.split(&shard.shard_id()).unwrap();
    assert_eq!(worker(&shard, &events, 0, false).run().await, ShardOutcome::Ended);
    let expected = ["initialize", "process 3", "shard ended", "checkpoint", "end with 2 children"];
    assert_eq!(events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_stop_notifies_the_application_and_checkpoints() {
    let (shard, events) = scene();
    let worker = worker(&shard, &events, 2, false);
    let stop = worker.context.stopping.clone();
    let running = tokio::spawn(worker.run());
    wait_a_little().await;
    stop.cancel();
    assert_eq!(running.await.unwrap(), ShardOutcome::Stopped { drained: true });
    let expected =
        ["initialize", "initialize", "initialize", "process 3", "shutdown requested", "checkpoint"];
    assert_eq!(events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_cancels_the_handler_and_writes_nothing() {
    let (shard, events) = scene();
    let worker = worker(&shard, &events, 0, true);
    let lease_lost = worker.context.lease_lost.clone();
    let running = tokio::spawn(worker.run());
    wait_a_little().await;
    lease_lost.cancel();
    assert_eq!(running.await.unwrap(), ShardOutcome::LeaseLost);
    assert_eq!(events.all(), ["initialize", "process 3", "lease lost"]);
}

#[tokio::test(start_paused = true)]
async fn restart_at_latest_keeps_records_that_wait_for_a_batch() {
    let (shard, events) = scene();
    let recorder = events.clone();
    let processors = move |_| Recording { events: recorder.clone(), failing_starts: 0, hangs: false };
    let stored = Arc::new(events.clone());
    let (mut worker, progress) =
        support::worker(&shard.stream, Position::Latest, processors, ONLY_ON_DEMAND, &stored);
    // The batch waits longer than the test takes.
    worker.options.batch_limits.max_wait = Duration::from_secs(600);
    let (commands, stop) = (worker.watchdog_commands.clone(), worker.context.stopping.clone());
    let running = tokio::spawn(worker.run());
    wait_a_little().await;
    shard.put(["d", "e"]);
    wait_a_little().await;
    commands.restart();
    wait_a_little().await;
    assert_eq!(progress.borrow().restarts, 1);
    shard.put(["f"]);
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert!(events.all().contains(&"process 3".to_owned()), "{:?}", events.all());
    stop.cancel();
    assert_eq!(running.await.unwrap(), ShardOutcome::Stopped { drained: true });
}
