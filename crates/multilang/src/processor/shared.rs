//! What the processors of all shards share, and what outlives the processors of one shard: its last checkpoint and its
//! failures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use lease_store::{FencingToken, Position, ShardId};
use shard_worker::ShardContext;

use super::restarts::RestartPolicy;
use crate::child::launch::ChildLauncher;
use crate::child::output::ChildOutput;
use crate::child::running::ChildLimits;
use crate::error::MultilangError;

/// The failure of a child.
#[derive(Debug)]
#[non_exhaustive]
pub struct ChildFailure {
    /// The shard of the child.
    pub shard_id: ShardId,
    /// What happened, with the shard and the action.
    pub error: MultilangError,
    /// The failures in a row, this one included.
    pub failures: u32,
    /// No child is started for this shard any more; a daemon that is compatible with Java exits with 1.
    pub is_final: bool,
}

/// How children are run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ChildProcessorOptions {
    /// The time limits of a child.
    pub limits: ChildLimits,
    /// How often a failed child is started again.
    pub restarts: RestartPolicy,
    /// The seed of the randomised waits before a start.
    pub seed: u64,
}

impl ChildProcessorOptions {
    /// These limits, no restart, and this seed.
    pub fn new(limits: ChildLimits, restarts: RestartPolicy, seed: u64) -> Self {
        Self { limits, restarts, seed }
    }
}

/// The parts that the processors of all shards share.
pub(super) struct Shared {
    pub(super) launcher: Arc<dyn ChildLauncher>,
    pub(super) sink: Arc<dyn ChildOutput>,
    pub(super) options: ChildProcessorOptions,
    on_failure: Box<dyn Fn(ChildFailure) + Send + Sync>,
    shards: Mutex<BTreeMap<ShardId, Remembered>>,
    rng: Mutex<Rng>,
}

/// What outlives the processors of a shard while this worker owns it.
#[derive(Debug, Clone)]
struct Remembered {
    owner: FencingToken,
    checkpointed: Position,
    failures: u32,
}

impl Shared {
    pub(super) fn new(
        launcher: Arc<dyn ChildLauncher>,
        sink: Arc<dyn ChildOutput>,
        options: ChildProcessorOptions,
        on_failure: Box<dyn Fn(ChildFailure) + Send + Sync>,
    ) -> Self {
        let rng = Mutex::new(Rng::with_seed(options.seed));
        Self { launcher, sink, options, on_failure, shards: Mutex::default(), rng }
    }

    /// Where the next child of the shard starts, and the failures in a row so far.
    pub(super) fn start_of(&self, context: &ShardContext) -> (Position, u32) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Remembered {
            owner: context.fencing_token.clone(),
            checkpointed: context.start.clone(),
            failures: 0,
        };
        let remembered = shards.entry(context.shard_id.clone()).or_insert_with(new);
        if remembered.owner != context.fencing_token {
            // The shard was owned by another worker in between; its lease knows better.
            *remembered = new();
        }
        (remembered.checkpointed.clone(), remembered.failures)
    }

    /// The child has checkpointed.
    pub(super) fn checkpointed(&self, shard_id: &ShardId, position: &Position) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remembered) = shards.get_mut(shard_id)
            && *position > remembered.checkpointed
        {
            remembered.checkpointed = position.clone();
            remembered.failures = 0;
        }
    }

    /// The child has failed.
    pub(super) fn failed(&self, shard_id: &ShardId, error: MultilangError) {
        let failures = {
            let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
            shards.get_mut(shard_id).map_or(1, |remembered| {
                remembered.failures = remembered.failures.saturating_add(1);
                remembered.failures
            })
        };
        let is_final = self.options.restarts.is_final(failures);
        tracing::error!(shard = %shard_id, %error, failures, is_final, "child failed");
        (self.on_failure)(ChildFailure { shard_id: shard_id.clone(), error, failures, is_final });
    }

    /// The shard is done or lost.
    pub(super) fn forget(&self, shard_id: &ShardId) {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).remove(shard_id);
    }

    /// The wait before the next start.
    pub(super) fn wait(&self, failures: u32) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.options.restarts.wait(failures, &mut rng)
    }
}
