//! The processors that keep a state: one for each shard, made by [`StatefulProcessors`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use lease_store::{BoxError, Position, ShardId};
use shard_worker::{RecordBatch, RecordProcessor, RecordProcessorFactory, Settling, ShardContext};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::opening::Opening;
use super::shard_state::ShardState;
use super::store::ApplicationStore;
use super::totals::{Totals, read_totals};
use super::{
    KeyedState, LostState, ShardStateStatus, StateError, StateErrorKind, StateLogic, StateSettings,
    StateStore,
};

/// Makes processors that keep the application's state, one for each shard: to be handed to
/// [`ReceiverBuilder::processors`](crate::ReceiverBuilder::processors). Clones are the same, and show what its shards have.
pub struct StatefulProcessors<L: StateLogic> {
    common: Arc<Common<L>>,
}

/// Keeps a state with snapshots in a store.
///
/// # Errors
/// `Invalid` when the settings are unsound, or the store keeps nothing and
/// [`accepts_loss_at_restart`](StateSettings::accepts_loss_at_restart) does not say that this is meant.
pub fn stateful<L: StateLogic>(
    logic: L,
    store: StateStore,
    settings: StateSettings,
) -> Result<StatefulProcessors<L>, StateError> {
    let mut faults = settings.faults();
    if store.is_volatile() && !settings.accepts_loss_at_restart {
        faults.push(
            "the store keeps nothing beyond this process: a restart would go on at the position of the shard with an empty \
             state, and every total would be wrong; use StateStore::directory or StateStore::object_store, or set \
             accepts_loss_at_restart if that is meant"
                .to_owned(),
        );
    }
    if !faults.is_empty() {
        return Err(StateError::new(StateErrorKind::Invalid, faults.join("; ")));
    }
    if store.is_volatile() {
        tracing::warn!(
            schema = %logic.schema(),
            "THE STATE IS NOT KEPT: it stays in the memory of this process while the positions move on; a restart, and every \
             move of a shard to another process, loses totals and windows for good"
        );
    }
    let common = Common {
        logic,
        store,
        settings,
        incarnations: AtomicU32::new(1),
        stored: Mutex::default(),
        live: Mutex::default(),
    };
    Ok(StatefulProcessors { common: Arc::new(common) })
}

/// What the processors of all shards have in common.
pub(super) struct Common<L: StateLogic> {
    pub(super) logic: L,
    store: StateStore,
    pub(super) settings: StateSettings,
    incarnations: AtomicU32,
    /// How far the snapshots of each shard have come here, and under which lease: what starts anew must find that again.
    stored: Mutex<BTreeMap<ShardId, (u64, Position)>>,
    live: Mutex<BTreeMap<ShardId, Weak<ShardState<L>>>>,
}

impl<L: StateLogic> Common<L> {
    pub(super) fn lost_state(&self) -> LostState {
        if self.store.is_volatile() { LostState::BeginEmpty } else { self.settings.lost_state }
    }

    pub(super) fn next_incarnation(&self) -> u32 {
        self.incarnations.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn note_stored(&self, context: &ShardContext, position: &Position) {
        let noted = (context.fencing_token.counter, position.clone());
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.get_mut(&context.shard_id) {
            // A processor that was replaced says nothing any more.
            Some(present) if *present > noted => {}
            Some(present) => *present = noted,
            None => drop(stored.insert(context.shard_id.clone(), noted)),
        }
    }

    /// Up to where the snapshots have to reach: the position of the lease, or what was acknowledged under it since.
    pub(super) fn lease_position(&self, context: &ShardContext) -> Position {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.get(&context.shard_id) {
            Some((counter, position)) if *counter == context.fencing_token.counter => {
                position.max(&context.start).clone()
            }
            _ => context.start.clone(),
        }
    }

    fn store_of(&self, context: &ShardContext) -> ApplicationStore {
        self.store.of_application(&context.application, &context.stream, self.settings.store_time_limit)
    }
}

impl<L: StateLogic> StatefulProcessors<L> {
    /// How the state of each shard in this process stands.
    pub fn status(&self) -> Vec<ShardStateStatus> {
        self.live().iter().map(|shard| shard.status()).collect()
    }

    /// The totals of the shards that this process holds, as they are now. Those of the whole application come from
    /// [`read_totals`](Self::read_totals).
    pub fn local_totals(&self) -> KeyedState<L::State> {
        let mut totals = KeyedState::default();
        for shard in self.live() {
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

    fn live(&self) -> Vec<Arc<ShardState<L>>> {
        let mut live = self.common.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, shard| shard.strong_count() > 0);
        live.values().filter_map(Weak::upgrade).collect()
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
    fn create(&self, context: ShardContext) -> Box<dyn RecordProcessor> {
        Box::new(StatefulProcessor { common: self.common.clone(), context, open: None })
    }
}

struct StatefulProcessor<L: StateLogic> {
    common: Arc<Common<L>>,
    context: ShardContext,
    open: Option<Open<L>>,
}

struct Open<L: StateLogic> {
    shard: Arc<ShardState<L>>,
    /// Writes snapshots when they are due.
    _writer: AbortOnDropHandle<()>,
}

impl<L: StateLogic> StatefulProcessor<L> {
    fn shard(&self) -> Result<&ShardState<L>, BoxError> {
        let open = self.open.as_ref().ok_or("the state of the shard is not there: it was not initialised")?;
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
                    "the lease of shard {} does not say which hash keys it covers, so its state could not be divided \
                     among its children; the KCL fills that in from version 2.3 on",
                    context.shard_id
                ),
            )
        })?;
        let store = self.common.store_of(context);
        let opening = Opening { common: &self.common, context, range, store: &store };
        let beginning = opening.open().await?;
        let shard = ShardState::new(self.common.clone(), context.clone(), range, store.clone(), beginning);
        let shard = Arc::new(shard);
        // What is taken over is stored before anybody lets go of where it came from; and a store that cannot be written is
        // noticed before the first record.
        shard.write().await?;
        opening.release_parents().await;
        tracing::info!(state = ?shard.status(), "the state of the shard is there");
        let writing = shard.clone().write_when_due().instrument(tracing::Span::current());
        let writer = AbortOnDropHandle::new(tokio::spawn(writing));
        let mut live = self.common.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(context.shard_id.clone(), Arc::downgrade(&shard));
        self.open = Some(Open { shard, _writer: writer });
        Ok(())
    }

    async fn process(&mut self, batch: &RecordBatch) -> Result<(), BoxError> {
        let shard = self.shard()?;
        let taken_in = shard.take_in(batch).await;
        if taken_in.is_err() {
            shard.pass(batch).await;
        }
        taken_in
    }

    async fn settle(&mut self, _reason: Settling) -> Result<(), BoxError> {
        Ok(self.shard()?.write().await?)
    }

    async fn lease_lost(&mut self) {
        if let Some(Open { shard, .. }) = self.open.take() {
            shard.let_go();
        }
    }

    async fn shard_ended(&mut self) -> Result<(), BoxError> {
        Ok(self.shard()?.end().await?)
    }
}
