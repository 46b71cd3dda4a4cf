//! The processors that keep the application's state, one for each shard, and the factory that creates them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lease_store::BoxError;
use shard_worker::{FlushReason, RecordBatch, RecordProcessor, RecordProcessorFactory, ShardContext};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::error::{StateError, StateErrorKind};
use crate::keyed_state::KeyedState;
use crate::restore::Restore;
use crate::settings::StateSettings;
use crate::shard_state::{Common, ShardState};
use crate::snapshot_store::StateStore;
use crate::state_logic::StateLogic;
use crate::status::ShardStateStatus;
use crate::totals::{Totals, read_totals};

/// Creates processors that keep the application's state, one for each shard. Pass it to `processors` of the consumer's
/// builder. Clones share the states, and report on them.
///
/// ```
/// use processor_state::{StateSchema, StateSettings, StateStore, stateful, update_state_by_key};
///
/// let logic = update_state_by_key(
///     StateSchema::new("counts", 1),
///     |record: &shard_worker::Record| Ok(record.partition_key.iter().map(|key| (key.to_string(), 1)).collect()),
///     |count: Option<u64>, one: u64| Some(count.unwrap_or(0) + one),
///     |one, other| one + other,
/// );
/// # let settings = StateSettings { accepts_loss_at_restart: true, ..StateSettings::default() };
/// let processors = stateful(logic, StateStore::volatile(), settings)?;
/// // Give a clone to the consumer, and read the totals of its shards here.
/// assert!(processors.local_totals().is_empty());
/// # Ok::<(), processor_state::StateError>(())
/// ```
pub struct StatefulProcessors<L: StateLogic> {
    common: Arc<Common<L>>,
}

/// Keeps a state, with snapshots in a store.
///
/// # Errors
/// `Invalid` when the settings are invalid, or the store is volatile without
/// [`accepts_loss_at_restart`](StateSettings::accepts_loss_at_restart).
pub fn stateful<L: StateLogic>(
    logic: L,
    store: StateStore,
    settings: StateSettings,
) -> Result<StatefulProcessors<L>, StateError> {
    let mut faults = settings.faults();
    if store.is_volatile() && !settings.accepts_loss_at_restart {
        faults.push(
            "the store is volatile: after a restart the shard would continue at its position with an empty state, and all \
             totals would be wrong; use StateStore::directory or StateStore::object_store, or set accepts_loss_at_restart \
             to accept the loss"
                .to_owned(),
        );
    }
    if !faults.is_empty() {
        return Err(StateError::new(StateErrorKind::Invalid, faults.join("; ")));
    }
    if store.is_volatile() {
        tracing::warn!(
            schema = %logic.schema(),
            "THE STATE IS NOT KEPT: it stays in the memory of this process while the positions advance; a restart, and each \
             move of a shard to another process, loses totals and windows"
        );
    }
    Ok(StatefulProcessors { common: Arc::new(Common::new(logic, store, settings)) })
}

impl<L: StateLogic> StatefulProcessors<L> {
    /// The status of each shard's state in this process.
    pub fn status(&self) -> Vec<ShardStateStatus> {
        self.common.live_shards().iter().map(|shard| shard.status()).collect()
    }

    /// The current totals of the shards that this process owns. [`read_totals`](Self::read_totals) returns those of the whole
    /// application.
    pub fn local_totals(&self) -> KeyedState<L::State> {
        let mut totals = KeyedState::default();
        for shard in self.common.live_shards() {
            shard.add_to(&mut totals);
        }
        totals
    }

    /// The totals of all shards of an application, from their newest snapshots; see [`read_totals`].
    ///
    /// # Errors
    /// As [`read_totals`].
    pub async fn read_totals(&self, application: &str, stream: &str) -> Result<Totals<L::State>, StateError> {
        let Common { logic, store, settings, .. } = &*self.common;
        read_totals(logic, store, settings, application, stream).await
    }
}

impl<L: StateLogic> Clone for StatefulProcessors<L> {
    fn clone(&self) -> Self {
        Self { common: self.common.clone() }
    }
}

impl<L: StateLogic> fmt::Debug for StatefulProcessors<L> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Common { store, settings, .. } = &*self.common;
        formatter
            .debug_struct("StatefulProcessors")
            .field("store", store)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

impl<L: StateLogic> RecordProcessorFactory for StatefulProcessors<L> {
    fn create(&self, context: ShardContext) -> Result<Box<dyn RecordProcessor>, BoxError> {
        Ok(Box::new(StatefulProcessor { common: self.common.clone(), context, open: None }))
    }
}

struct StatefulProcessor<L: StateLogic> {
    common: Arc<Common<L>>,
    context: ShardContext,
    open: Option<Open<L>>,
}

/// The state of an initialised processor.
struct Open<L: StateLogic> {
    shard: Arc<ShardState<L>>,
    /// Writes snapshots when they are due.
    _writer: AbortOnDropHandle<()>,
}

impl<L: StateLogic> StatefulProcessor<L> {
    fn shard(&self) -> Result<&ShardState<L>, BoxError> {
        let open = self.open.as_ref().ok_or("the processor has no state: it was not initialised")?;
        Ok(&open.shard)
    }
}

#[async_trait]
impl<L: StateLogic> RecordProcessor for StatefulProcessor<L> {
    async fn initialize(&mut self) -> Result<(), BoxError> {
        self.open = None;
        let context = &self.context;
        let range = context.hash_key_range.ok_or_else(|| {
            StateError::new(
                StateErrorKind::Invalid,
                format!(
                    "the lease of shard {} has no hash-key range, which the state needs to be divided among child shards; \
                     the KCL fills it in from version 2.3 on",
                    context.shard_id
                ),
            )
        })?;
        let store = self.common.store_of(context);
        let restore = Restore { common: &self.common, context, range, store: &store };
        let restored = restore.run().await?;
        let shard = ShardState::new(self.common.clone(), context.clone(), range, store.clone(), restored);
        let shard = Arc::new(shard);
        // Inherited state is stored before the parents' snapshots are deleted. The write also detects a store that cannot be
        // written before the first record.
        shard.write().await?;
        restore.release_parents().await;
        tracing::info!(state = ?shard.status(), "restored the state of the shard");
        let writing = shard.clone().write_when_due().instrument(tracing::Span::current());
        let writer = AbortOnDropHandle::new(tokio::spawn(writing));
        self.common.add_live_shard(context.shard_id.clone(), &shard);
        self.open = Some(Open { shard, _writer: writer });
        Ok(())
    }

    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let shard = self.shard()?;
        let applied = shard.apply_batch(batch).await;
        if applied.is_err() {
            shard.store_passed(batch).await;
        }
        applied
    }

    async fn flush(&mut self, _reason: FlushReason) -> Result<(), BoxError> {
        Ok(self.shard()?.write().await?)
    }

    async fn lease_lost(&mut self) {
        if let Some(Open { shard, .. }) = self.open.take() {
            shard.drop_deferred();
        }
    }

    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        Ok(self.shard()?.end().await?)
    }
}
