//! One worker on a stream of one shard, in virtual time, and what it stores.

#![allow(dead_code)] // each test program uses a part of it

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::{Cadence, CheckpointWriter, Checkpointer, RetryPolicy};
use fastrand::Rng;
use lease_store::{BoxError, FencingToken, Position, ShardId, StoreError, WorkerId};
use shard_worker::{
    FailurePolicy, InMemoryStream, Interventions, RecordProcessorFactory, Shard, ShardContext,
    ShardEndRecorder, ShardOutcome, ShardProgress, ShardWorker, ShardWorkerOptions,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long anything may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(3600);

/// A stream of one shard, and what is stored about it.
#[derive(Debug, Clone)]
pub(crate) struct OneShard {
    pub(crate) stream: InMemoryStream,
    stored: Stored,
}

#[derive(Debug, Clone, Default)]
struct Stored(Arc<Mutex<Vec<Position>>>);

#[async_trait]
impl CheckpointWriter for Stored {
    async fn write(&self, position: &Position) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(position.clone());
        Ok(())
    }
}

#[async_trait]
impl ShardEndRecorder for Stored {
    async fn record_end(&self, _children: &[Shard]) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(Position::ShardEnd);
        Ok(())
    }
}

/// A worker at work.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<ShardOutcome>,
    pub(crate) progress: watch::Receiver<ShardProgress>,
    pub(crate) stop: CancellationToken,
    pub(crate) lease_lost: CancellationToken,
    pub(crate) interventions: Interventions,
}

impl OneShard {
    /// With these records.
    pub(crate) fn with(texts: impl IntoIterator<Item = impl ToString>) -> Self {
        let one_shard =
            Self { stream: InMemoryStream::new("s", NonZeroUsize::MIN), stored: Stored::default() };
        one_shard.put(texts);
        one_shard
    }

    /// The same stream, of which nothing is read.
    pub(crate) fn unread(&self) -> Self {
        Self { stream: self.stream.clone(), stored: Stored::default() }
    }

    /// Puts each text under itself as its key.
    pub(crate) fn put(&self, texts: impl IntoIterator<Item = impl ToString>) {
        for text in texts {
            let text = text.to_string();
            self.stream.put(text.clone(), text).unwrap();
        }
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        ShardId::numbered(0)
    }

    /// The newest checkpoint.
    pub(crate) fn checkpoint(&self) -> Option<Position> {
        self.stored.0.lock().unwrap().last().cloned()
    }

    /// Waits until the newest checkpoint is this one.
    pub(crate) async fn wait_for_checkpoint(&self, position: &Position) {
        wait_until("the checkpoint is written", || self.checkpoint().as_ref() == Some(position)).await;
    }

    /// Starts a worker from the newest checkpoint.
    pub(crate) fn start(
        &self,
        processors: impl RecordProcessorFactory,
        policy: FailurePolicy,
        change: impl FnOnce(&mut ShardWorker),
    ) -> Running {
        let (mut worker, progress) = self.worker(processors, policy);
        change(&mut worker);
        let (stop, lease_lost) = (worker.stop.clone(), worker.context.lease_lost.clone());
        let interventions = worker.interventions.clone();
        Running { task: tokio::spawn(worker.run()), progress, stop, lease_lost, interventions }
    }

    /// A worker from the newest checkpoint, and its progress.
    pub(crate) fn worker(
        &self,
        processors: impl RecordProcessorFactory,
        policy: FailurePolicy,
    ) -> (ShardWorker, watch::Receiver<ShardProgress>) {
        let owner = FencingToken { owner: WorkerId::new("w").unwrap(), counter: 1 };
        let (stop, lease_lost) = (CancellationToken::new(), CancellationToken::new());
        let (sender, progress) = watch::channel(ShardProgress::default());
        let start = self.checkpoint().unwrap_or(Position::TrimHorizon);
        let cadence = Cadence { interval: Duration::from_secs(1), records: None };
        let (stored, retry, rng) = (Arc::new(self.stored.clone()), RetryPolicy::default(), Rng::with_seed(1));
        let worker = ShardWorker {
            context: ShardContext {
                start: start.clone(),
                stopping: stop.clone(),
                lease_lost,
                failure_policy: policy,
                ..ShardContext::new("test", "s", self.shard_id(), owner)
            },
            source: Arc::new(self.stream.clone()),
            processors: Arc::new(processors),
            checkpointer: Checkpointer::start(stored.clone(), start, cadence, retry, rng.clone()),
            end_recorder: stored,
            stop,
            interventions: Interventions::default(),
            progress: sender,
            options: ShardWorkerOptions::default(),
            rng,
        };
        (worker, progress)
    }
}

impl Running {
    pub(crate) fn progress(&self) -> ShardProgress {
        self.progress.borrow().clone()
    }

    pub(crate) async fn stop(self) -> ShardOutcome {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    pub(crate) async fn wait_for(&self, what: &str, is_so: impl Fn(&ShardProgress) -> bool) {
        wait_until(what, || is_so(&self.progress())).await;
    }
}

/// Looks again in virtual time, which costs nothing, until it is so.
pub(crate) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
