//! The processor of one shard: each call becomes an action of the conversation with its child.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_store::BoxError;
use shard_worker::{FlushReason, RecordBatch, RecordProcessor, ShardContext};
use tokio::time::{sleep, timeout};

use super::child_task::{ChildTask, Work};
use super::shared::Shared;
use crate::child::running::RunningChild;
use crate::error::{MultilangError, MultilangErrorKind};

/// How long the signals that end a child may take, beyond its own times.
const EXIT_SLACK: Duration = Duration::from_secs(10);

/// The processor of one shard.
pub(super) struct ChildProcessor {
    context: ShardContext,
    shared: Arc<Shared>,
    child: Option<ChildTask>,
    /// Batches of a failed child were dropped: nothing may be sent before the worker has read them again.
    must_reread: bool,
    /// The child has answered `shardEnded`.
    has_ended: bool,
    /// The child was told of the stop.
    is_stopping: bool,
}

impl ChildProcessor {
    pub(super) fn new(context: ShardContext, shared: Arc<Shared>) -> Self {
        Self { context, shared, child: None, must_reread: false, has_ended: false, is_stopping: false }
    }

    /// Starts a child at the last checkpoint, unless one runs.
    async fn start(&mut self) -> Result<(), MultilangError> {
        if self.child.as_ref().is_some_and(|child| !child.is_over()) {
            return Ok(());
        }
        self.child = None;
        let (start, failures) = self.shared.start_of(&self.context);
        let shard_id = &self.context.shard_id;
        if self.shared.options.restarts.is_final(failures) {
            let message = format!(
                "child of shard {shard_id} failed {failures} times in a row, none is started any more; fix the cause and \
                 restart the daemon"
            );
            return Err(MultilangError::new(MultilangErrorKind::ChildExited, message));
        }
        // A stop cancels this wait: only a step that is retried has one.
        sleep(self.shared.wait(failures)).await;
        let Shared { launcher, sink, options, .. } = &*self.shared;
        let started = RunningChild::start(&**launcher, shard_id.as_str(), options.limits, sink.clone());
        let initialized = match started {
            Ok(mut child) => {
                let position = Some((start.checkpoint(), start.sub_sequence_number()));
                let answered = child.initialize(position).await;
                answered.map(|()| child)
            }
            Err(error) => Err(error),
        };
        match initialized {
            Ok(child) => {
                let (context, shared) = (self.context.clone(), self.shared.clone());
                self.child = Some(ChildTask::spawn(child, start, context, shared));
                Ok(())
            }
            Err(error) => {
                let message = error.to_string();
                let kind = error.kind();
                self.shared.failed(shard_id, error);
                Err(MultilangError::new(kind, message))
            }
        }
    }

    /// Gives the child work; `false`: it has failed, which is reported.
    async fn call(&self, work: Work) -> bool {
        match &self.child {
            Some(child) => child.call(work).await,
            None => false,
        }
    }

    /// Tells the child that the lease is lost or given back, and waits until it has exited. A child that still works on an
    /// action may take twice its exit time for the answers; then it is killed.
    async fn end(&mut self) {
        let limit = self.shared.options.limits.exit_time * 2 + EXIT_SLACK;
        if timeout(limit, self.call(Work::LeaseLost)).await.is_err() {
            let shard = &self.context.shard_id;
            tracing::warn!(%shard, waited = ?limit, "child does not answer although the lease is lost, killing it");
        }
        self.child = None;
    }

    /// Tells the child of the stop, once.
    async fn request_shutdown(&mut self) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            self.call(Work::Shutdown).await;
        }
    }
}

#[async_trait]
impl RecordProcessor for ChildProcessor {
    async fn initialize(&mut self) -> Result<(), BoxError> {
        Ok(self.start().await?)
    }

    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        // Deferred first: whatever happens, only a checkpoint acknowledges the batch.
        let handle = batch.defer();
        if self.must_reread || self.child.as_ref().is_none_or(ChildTask::is_over) {
            // The child failed between two batches. The worker restarts at the last checkpoint, with a new child.
            self.must_reread = true;
            drop(handle.without_records());
            return Ok(());
        }
        if !self.call(Work::Batch(batch.clone(), handle)).await {
            self.must_reread = true;
        }
        Ok(())
    }

    async fn nothing_read(&mut self, millis_behind_latest: Option<u64>) -> Result<(), BoxError> {
        // A child that has failed is started again with the next records.
        if !self.must_reread && self.child.as_ref().is_some_and(|child| !child.is_over()) {
            self.must_reread = !self.call(Work::NothingRead(millis_behind_latest)).await;
        }
        Ok(())
    }

    async fn flush(&mut self, reason: FlushReason) -> Result<(), BoxError> {
        match reason {
            FlushReason::ShardEnd if !self.must_reread && !self.has_ended => {
                if self.call(Work::End).await {
                    self.has_ended = true;
                } else {
                    self.must_reread = true;
                }
            }
            FlushReason::Stop => {
                self.request_shutdown().await;
                // The batches without a checkpoint are left to the next owner.
                self.end().await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn lease_lost(&mut self) {
        self.end().await;
        self.shared.forget(&self.context.shard_id);
    }

    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        if !self.has_ended {
            self.start().await?;
            if !self.call(Work::End).await {
                return Err(format!(
                    "child of shard {} failed at the end of the shard",
                    self.context.shard_id
                )
                .into());
            }
            self.has_ended = true;
        }
        self.child = None;
        self.shared.forget(&self.context.shard_id);
        Ok(())
    }

    async fn shutdown_requested(&mut self) -> Result<(), BoxError> {
        if self.child.is_some() && !self.has_ended {
            self.request_shutdown().await;
        }
        self.end().await;
        self.shared.forget(&self.context.shard_id);
        Ok(())
    }
}
