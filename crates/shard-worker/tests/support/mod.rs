//! Workers on a stream of one shard, in virtual time: the parts that all tests share.

#![allow(dead_code)] // each test program uses a part of it

pub(crate) mod aggregate_checks;
pub(crate) mod one_shard;
pub(crate) mod reading;

use std::sync::Arc;
use std::time::Duration;

use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{FencingToken, Position, ShardId, WorkerId};
use shard_worker::{
    InMemoryStream, RecordBatch, RecordProcessorFactory, ShardContext, ShardEndRecorder, ShardProgress,
    ShardWorker, ShardWorkerOptions, WatchdogCommands,
};
use tokio::sync::watch;

/// Longer than any test: a checkpoint is written only on demand.
pub(crate) const ONLY_ON_DEMAND: Duration = Duration::from_secs(3600);

/// A worker on the first shard of a stream, which stores checkpoints and the end of the shard in `stored`; and its
/// progress.
pub(crate) fn worker<S: CheckpointWriter + ShardEndRecorder>(
    stream: &InMemoryStream,
    start: Position,
    processors: impl RecordProcessorFactory,
    checkpoint_interval: Duration,
    stored: &Arc<S>,
) -> (ShardWorker, watch::Receiver<ShardProgress>) {
    let owner = FencingToken::new(WorkerId::new("w").unwrap(), 1);
    let mut context = ShardContext::new("test", "s", ShardId::numbered(0), owner);
    context.start = start.clone();
    let cadence = Cadence { interval: checkpoint_interval, records: None };
    let rng = Rng::with_seed(1);
    let (sender, progress) = watch::channel(ShardProgress::default());
    let worker = ShardWorker {
        context,
        source: Arc::new(stream.clone()),
        processors: Arc::new(processors),
        checkpointer: Checkpointer::start(
            stored.clone(),
            start,
            cadence,
            RetryPolicy::default(),
            rng.clone(),
        ),
        end_recorder: stored.clone(),
        watchdog_commands: WatchdogCommands::default(),
        progress: sender,
        options: ShardWorkerOptions::default(),
        rng,
    };
    (worker, progress)
}

/// The payloads of a batch as text.
pub(crate) fn texts(batch: &RecordBatch) -> Vec<String> {
    batch.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect()
}
