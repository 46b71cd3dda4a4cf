//! The task that owns a child. A call of the shard worker may be cancelled at any point, and half a line must not reach the
//! child: the task finishes what it started.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use lease_store::Position;
use shard_worker::{Acknowledgement, Record, RecordBatch, ShardContext};
use tokio::sync::{mpsc, oneshot};

use super::faults::fault_of;
use super::positions::CheckpointRange;
use super::shared::Shared;
use super::unacknowledged::Unacknowledged;
use crate::child::running::RunningChild;
use crate::conversation::handler::CheckpointHandler;
use crate::error::MultilangError;
use crate::protocol::checkpoint::{CheckpointFault, CheckpointRequest};
use crate::protocol::outgoing::ChildRecord;

/// What the child has to do next.
pub(super) enum Work {
    /// A batch, and the handle that acknowledges it.
    Batch(RecordBatch, Acknowledgement),
    /// An empty batch, with how far the read was behind the newest record.
    NothingRead(Option<u64>),
    /// `shardEnded`; then the child exits.
    End,
    /// `shutdownRequested`.
    Shutdown,
    /// `leaseLost`; then the child exits.
    LeaseLost,
}

/// Work, and where its result goes. A receiver that is gone stops nothing.
pub(super) struct Command {
    work: Work,
    reply: oneshot::Sender<bool>,
}

/// A running child of a shard. Dropping it ends the child.
#[derive(Debug)]
pub(super) struct ChildTask {
    commands: mpsc::Sender<Command>,
    /// Its drop is the sign to end the child during an action.
    _alive: oneshot::Sender<()>,
}

impl ChildTask {
    /// Runs a child that has answered `initialize` at `start`.
    pub(super) fn spawn(
        child: RunningChild,
        start: Position,
        context: ShardContext,
        shared: Arc<Shared>,
    ) -> Self {
        // The worker makes one call at a time.
        let (commands, received) = mpsc::channel(1);
        let (alive, dropped) = oneshot::channel();
        let checkpoints = Checkpoints {
            range: CheckpointRange::new(start),
            unacknowledged: Unacknowledged::default(),
            context,
            shared,
        };
        tokio::spawn(run(child, checkpoints, received, dropped));
        Self { commands, _alive: alive }
    }

    /// Gives the child work and waits until it is done; `false`: the child has failed, and its batches are dropped.
    pub(super) async fn call(&self, work: Work) -> bool {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command { work, reply }).await.is_ok() && done.await.unwrap_or(false)
    }

    /// Whether the child has failed or exited.
    pub(super) fn is_over(&self) -> bool {
        self.commands.is_closed()
    }
}

/// How an action ended.
enum Done {
    /// The child waits for the next one.
    Continues,
    /// The child has answered its last action.
    Finished,
    Failed(MultilangError),
}

async fn run(
    mut child: RunningChild,
    mut checkpoints: Checkpoints,
    mut commands: mpsc::Receiver<Command>,
    mut dropped: oneshot::Receiver<()>,
) {
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            error = child.failed() => return checkpoints.fail(child, error, None).await,
        };
        let Some(Command { work, reply }) = command else {
            // The processor was dropped between two actions.
            checkpoints.unacknowledged.clear();
            child.stop().await;
            return;
        };
        let done = tokio::select! {
            biased;
            done = perform(&mut child, &mut checkpoints, work) => done,
            _ = &mut dropped => {
                checkpoints.unacknowledged.clear();
                return child.kill().await;
            }
        };
        match done {
            Done::Continues => {
                checkpoints.unacknowledged.drop_records();
                let _ = reply.send(true);
            }
            Done::Finished => {
                checkpoints.unacknowledged.clear();
                drop(commands);
                let exit = child.stop().await;
                tracing::debug!(shard = %checkpoints.context.shard_id, exit, "child exited");
                let _ = reply.send(true);
                return;
            }
            Done::Failed(error) => {
                drop(commands);
                return checkpoints.fail(child, error, Some(reply)).await;
            }
        }
    }
}

async fn perform(child: &mut RunningChild, checkpoints: &mut Checkpoints, work: Work) -> Done {
    let (done, is_last) = match work {
        Work::Batch(batch, handle) => {
            let first = batch.first().map_or(Position::TrimHorizon, Record::position);
            let last = batch.last_position();
            checkpoints.range.deliver(last.clone());
            checkpoints.unacknowledged.push(first, last, handle);
            let records = batch.iter().map(child_record);
            (child.process_records(records, batch.millis_behind_latest(), checkpoints).await, false)
        }
        Work::NothingRead(millis_behind_latest) => {
            let nothing = std::iter::empty();
            (child.process_records(nothing, millis_behind_latest, checkpoints).await, false)
        }
        Work::End => {
            checkpoints.range.reach_end();
            let done = child.shard_ended(checkpoints).await;
            match done {
                Ok(()) if !checkpoints.range.checkpointed().is_shard_end() => {
                    (Err(child.end_not_checkpointed()), true)
                }
                done => (done, true),
            }
        }
        Work::Shutdown => (child.shutdown_requested(checkpoints).await, false),
        Work::LeaseLost => (child.lease_lost().await, true),
    };
    match done {
        Ok(()) if is_last => Done::Finished,
        Ok(()) => Done::Continues,
        Err(error) => Done::Failed(error),
    }
}

fn child_record(record: &Record) -> ChildRecord<'_> {
    ChildRecord {
        data: &record.data,
        partition_key: record.partition_key.as_deref(),
        sequence_number: record.sequence_number.as_str(),
        arrival_millis: record.approximate_arrival.map_or(0, millis_since_1970),
        sub_sequence_number: record.sub_sequence_number,
    }
}

fn millis_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
    }
}

/// Executes the checkpoints of a child: each acknowledges the batches up to its position, and is answered once that position is
/// written to the lease.
struct Checkpoints {
    range: CheckpointRange,
    unacknowledged: Unacknowledged,
    context: ShardContext,
    shared: Arc<Shared>,
}

impl Checkpoints {
    /// Drops the batches, reports the failure and ends the child.
    async fn fail(
        mut self,
        child: RunningChild,
        error: MultilangError,
        reply: Option<oneshot::Sender<bool>>,
    ) {
        self.shared.failed(&self.context.shard_id, error);
        self.unacknowledged.clear();
        child.kill().await;
        if let Some(reply) = reply {
            let _ = reply.send(false);
        }
    }
}

#[async_trait]
impl CheckpointHandler for Checkpoints {
    async fn checkpoint(&mut self, request: &CheckpointRequest) -> Result<(), CheckpointFault> {
        if self.context.lease_lost.is_cancelled() {
            return Err(CheckpointFault::Shutdown);
        }
        let position = self.range.resolve(request)?;
        self.unacknowledged.acknowledge_through(&position);
        // A new child starts where the worker resumes: at the acknowledged position.
        self.shared.checkpointed(&self.context.shard_id, &position);
        // The end of the shard itself is recorded when the processor has returned.
        if let Err(error) = self.context.checkpoint().await {
            let fault = fault_of(&error);
            let shard = &self.context.shard_id;
            tracing::warn!(%shard, %position, %error, answer = %fault, "checkpoint of the child is not written");
            return Err(fault);
        }
        self.range.checkpoint(position);
        Ok(())
    }
}
