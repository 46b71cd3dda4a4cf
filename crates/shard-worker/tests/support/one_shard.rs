//! A stream of one shard, a running worker on it, and its checkpoints.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use checkpointer::CheckpointWriter;
use lease_store::{BoxError, Position, ShardId, StoreError};
use shard_worker::{
    FailurePolicy, InMemoryStream, RecordProcessorFactory, Shard, ShardEndRecorder, ShardOutcome,
    ShardProgress, ShardWorker,
};
use test_support::wait_until_within;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest wait, in virtual time.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);

/// A stream of one shard, and its checkpoints.
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

/// A running worker.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<ShardOutcome>,
    pub(crate) progress: watch::Receiver<ShardProgress>,
    pub(crate) stop: CancellationToken,
    pub(crate) lease_lost: CancellationToken,
}

impl OneShard {
    /// A stream with these records.
    pub(crate) fn with(texts: impl IntoIterator<Item = impl ToString>) -> Self {
        let one_shard =
            Self { stream: InMemoryStream::new("s", NonZeroUsize::MIN), stored: Stored::default() };
        one_shard.put(texts);
        one_shard
    }

    /// The same stream, without a checkpoint.
    pub(crate) fn unread(&self) -> Self {
        Self { stream: self.stream.clone(), stored: Stored::default() }
    }

    /// Puts each text with itself as its key.
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
        wait_until_within(LIMIT, "the checkpoint is written", || {
            self.checkpoint().as_ref() == Some(position)
        })
        .await;
    }

    /// Starts a worker at the newest checkpoint.
    pub(crate) fn start(
        &self,
        processors: impl RecordProcessorFactory,
        policy: FailurePolicy,
        change: impl FnOnce(&mut ShardWorker),
    ) -> Running {
        let start = self.checkpoint().unwrap_or(Position::TrimHorizon);
        let stored = Arc::new(self.stored.clone());
        let (mut worker, progress) =
            super::worker(&self.stream, start, processors, Duration::from_secs(1), &stored);
        worker.options.failure_policy = policy;
        change(&mut worker);
        let (stop, lease_lost) = (worker.context.stopping.clone(), worker.context.lease_lost.clone());
        Running { task: tokio::spawn(worker.run()), progress, stop, lease_lost }
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
        wait_until_within(LIMIT, what, || is_so(&self.progress())).await;
    }
}
