//! One shard worker by itself, on a paused clock: which calls it makes, and in which order.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{BoxError, FencingToken, Position, ShardId, StoreError, WorkerId};
use shard_worker::{
    InMemoryStream, Interventions, RecordBatch, RecordProcessor, Shard, ShardContext, ShardEndRecorder,
    ShardOutcome, ShardProgress, ShardWorker, ShardWorkerOptions,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What happened, in order.
#[derive(Debug, Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn note(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl CheckpointWriter for Events {
    async fn write(&self, _position: &Position) -> Result<(), StoreError> {
        self.note("checkpoint");
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Events {
    async fn record_end(&self, children: &[Shard]) -> Result<(), BoxError> {
        self.note(format!("end with {} children", children.len()));
        Ok(())
    }
}

/// Notes its calls; fails, or hangs, as often as it is told.
struct Noting {
    events: Events,
    failing_starts: usize,
    hangs: bool,
}

#[async_trait]
impl RecordProcessor for Noting {
    async fn initialize(&mut self) -> Result<(), BoxError> {
        self.events.note("initialize");
        if self.failing_starts > 0 {
            self.failing_starts -= 1;
            return Err("not yet".into());
        }
        Ok(())
    }

    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        self.events.note(format!("process {}", batch.len()));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.events.note("lease lost");
    }

    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        self.events.note("shard ended");
        Ok(())
    }

    async fn shutdown_requested(&mut self) -> Result<(), BoxError> {
        self.events.note("shutdown requested");
        Ok(())
    }
}

/// A worker on a stream of one shard with three records.
struct Fixture {
    stream: InMemoryStream,
    shard_id: ShardId,
    events: Events,
    stop: CancellationToken,
    lease_lost: CancellationToken,
}

impl Fixture {
    fn new() -> Self {
        let stream = InMemoryStream::new("s", NonZeroUsize::MIN);
        let shard_id = stream.open_shards().swap_remove(0);
        for text in ["a", "b", "c"] {
            stream.put("key", text).unwrap();
        }
        let (stop, lease_lost) = (CancellationToken::new(), CancellationToken::new());
        Self { stream, shard_id, events: Events::default(), stop, lease_lost }
    }

    fn worker(&self, failing_starts: usize, hangs: bool) -> ShardWorker {
        let worker_id = WorkerId::new("w").unwrap();
        let events = self.events.clone();
        // Longer than any test: what is written before is written because somebody asked.
        let cadence = Cadence { interval: Duration::from_secs(3600), records: None };
        let (start, rng) = (Position::TrimHorizon, Rng::with_seed(1));
        let writer = Arc::new(self.events.clone());
        ShardWorker {
            context: ShardContext {
                lease_lost: self.lease_lost.clone(),
                ..ShardContext::new(
                    "test",
                    "s",
                    self.shard_id.clone(),
                    FencingToken { owner: worker_id, counter: 1 },
                )
            },
            source: Arc::new(self.stream.clone()),
            processors: Arc::new(move |_| Noting { events: events.clone(), failing_starts, hangs }),
            checkpointer: Checkpointer::start(writer, start, cadence, RetryPolicy::default(), rng.clone()),
            end_recorder: Arc::new(self.events.clone()),
            stop: self.stop.clone(),
            progress: watch::channel(ShardProgress::default()).0,
            options: ShardWorkerOptions::default(),
            interventions: Interventions::default(),
            rng,
        }
    }
}

async fn wait_a_little() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_is_recorded_after_the_last_checkpoint() {
    let fixture = Fixture::new();
    fixture.stream.split(&fixture.shard_id).unwrap();
    assert_eq!(fixture.worker(0, false).run().await, ShardOutcome::Ended);
    let expected = ["initialize", "process 3", "shard ended", "checkpoint", "end with 2 children"];
    assert_eq!(fixture.events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_the_application_and_checkpoints() {
    let fixture = Fixture::new();
    let running = tokio::spawn(fixture.worker(2, false).run());
    wait_a_little().await;
    fixture.stop.cancel();
    assert_eq!(running.await.unwrap(), ShardOutcome::Stopped { drained: true });
    let expected =
        ["initialize", "initialize", "initialize", "process 3", "shutdown requested", "checkpoint"];
    assert_eq!(fixture.events.all(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_cuts_the_handler_short_and_writes_nothing() {
    let fixture = Fixture::new();
    let running = tokio::spawn(fixture.worker(0, true).run());
    wait_a_little().await;
    fixture.lease_lost.cancel();
    assert_eq!(running.await.unwrap(), ShardOutcome::LeaseLost);
    assert_eq!(fixture.events.all(), ["initialize", "process 3", "lease lost"]);
}
