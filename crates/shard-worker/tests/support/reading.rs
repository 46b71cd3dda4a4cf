//! Reads a stream of one shard with one worker, and records what the application sees.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use checkpointer::CheckpointWriter;
use lease_store::{BoxError, Position, StoreError};
use shard_worker::{
    InMemoryStream, Record, RecordBatch, RecordProcessorFactory, Shard, ShardEndRecorder, ShardOutcome,
    ShardProgress, ShardWorker, batch_handler,
};
use tokio_util::sync::CancellationToken;

/// The records that an application saw, and the last checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    records: Arc<Mutex<Vec<(Position, String)>>>,
    checkpoint: Arc<Mutex<Option<Position>>>,
}

impl Seen {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.records.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        self.records.lock().unwrap().iter().map(|(position, _)| position.clone()).collect()
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

/// The result of a run.
pub(crate) struct Run {
    pub(crate) seen: Seen,
    pub(crate) outcome: ShardOutcome,
    pub(crate) progress: ShardProgress,
}

/// Reads the stream from a position; the handler stops the worker when it gets a record with the text `stop_at`.
pub(crate) async fn run(
    stream: &InMemoryStream,
    start: Position,
    stop_at: Option<&'static str>,
    change: impl FnOnce(&mut ShardWorker),
) -> Run {
    let (seen, stop) = (Arc::new(Seen::default()), CancellationToken::new());
    let (recorder, stopper) = (seen.clone(), stop.clone());
    let handler = batch_handler(move |_, batch: RecordBatch| {
        let texts = super::texts(&batch);
        if texts.iter().any(|text| Some(text.as_str()) == stop_at) {
            stopper.cancel();
        }
        recorder.records.lock().unwrap().extend(batch.iter().map(Record::position).zip(texts));
        async { Ok(()) }
    });
    run_with(stream, start, &seen, handler, |worker| {
        worker.context.stopping = stop;
        change(worker);
    })
    .await
}

/// Reads the stream from a position with these processors; `seen` has the last checkpoint.
pub(crate) async fn run_with(
    stream: &InMemoryStream,
    start: Position,
    seen: &Arc<Seen>,
    processors: impl RecordProcessorFactory,
    change: impl FnOnce(&mut ShardWorker),
) -> Run {
    let (mut worker, progress) = super::worker(stream, start, processors, super::ONLY_ON_DEMAND, seen);
    change(&mut worker);
    let outcome = worker.run().await;
    let progress = progress.borrow().clone();
    Run { seen: Seen::clone(seen), outcome, progress }
}
