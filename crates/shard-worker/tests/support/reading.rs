//! Reads one shard with a worker by itself, and notes what the application sees.

#![allow(dead_code)] // each test program uses a part of it

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{BoxError, FencingToken, Position, ShardId, StoreError, WorkerId};
use shard_worker::{
    InMemoryStream, Interventions, Record, RecordBatch, Shard, ShardContext, ShardEndRecorder, ShardOutcome,
    ShardProgress, ShardWorker, ShardWorkerOptions, batch_handler,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an application saw, and the last checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    deliveries: Arc<Mutex<Vec<(Position, String)>>>,
    checkpoint: Arc<Mutex<Option<Position>>>,
}

impl Seen {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.deliveries.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        self.deliveries.lock().unwrap().iter().map(|(position, _)| position.clone()).collect()
    }

    pub(crate) fn checkpoint(&self) -> Position {
        self.checkpoint.lock().unwrap().clone().unwrap()
    }
}

#[async_trait]
impl CheckpointWriter for Seen {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        *self.checkpoint.lock().unwrap() = Some(position.clone());
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Seen {
    async fn record_end(&self, _children: &[Shard]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// How reading went.
pub(crate) struct Run {
    pub(crate) seen: Seen,
    pub(crate) outcome: ShardOutcome,
    pub(crate) progress: ShardProgress,
}

/// Reads the stream from a position; the handler stops the worker from inside when it meets this text.
pub(crate) async fn run(
    stream: &InMemoryStream,
    start: Position,
    stop_at: Option<&'static str>,
    change: impl FnOnce(&mut ShardWorker),
) -> Run {
    let seen = Seen::default();
    let worker_id = WorkerId::new("w").unwrap();
    let cadence = Cadence { interval: Duration::from_secs(3600), records: None };
    let (rng, stop) = (Rng::with_seed(1), CancellationToken::new());
    let (sender, progress) = watch::channel(ShardProgress::default());
    let (noted, stopper) = (seen.clone(), stop.clone());
    let mut worker = ShardWorker {
        context: ShardContext {
            start: start.clone(),
            ..ShardContext::new(
                "test",
                "s",
                ShardId::numbered(0),
                FencingToken { owner: worker_id, counter: 1 },
            )
        },
        source: Arc::new(stream.clone()),
        processors: Arc::new(batch_handler(move |_, batch: RecordBatch| {
            let texts = batch.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned());
            let found: Vec<(Position, String)> = batch.iter().map(Record::position).zip(texts).collect();
            if found.iter().any(|(_, text)| Some(text.as_str()) == stop_at) {
                stopper.cancel();
            }
            noted.deliveries.lock().unwrap().extend(found);
            async { Ok(()) }
        })),
        checkpointer: Checkpointer::start(
            Arc::new(seen.clone()),
            start,
            cadence,
            RetryPolicy::default(),
            rng.clone(),
        ),
        end_recorder: Arc::new(seen.clone()),
        stop,
        progress: sender,
        options: ShardWorkerOptions::default(),
        interventions: Interventions::default(),
        rng,
    };
    change(&mut worker);
    let outcome = worker.run().await;
    let progress = progress.borrow().clone();
    Run { seen, outcome, progress }
}
