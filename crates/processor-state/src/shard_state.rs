//! The state of one shard: which records are applied, which are in a snapshot, and which acknowledgements wait for the next
//! snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use checkpointer::RetryPolicy;
use fastrand::Rng;
use lease_store::{BoxError, HashKeyRange, Position, ShardId, StreamIdentity};
use shard_worker::{Acknowledgement, RecordBatch, ShardContext};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::{StateError, StateErrorKind};
use crate::keyed_state::{KeyedState, StateChanges};
use crate::settings::{LostState, StateSettings};
use crate::snapshot::{SnapshotHeader, encode_snapshot};
use crate::snapshot_cadence::{Due, SnapshotCadence};
use crate::snapshot_retention::{KnownSnapshot, obsolete};
use crate::snapshot_series::SnapshotSeries;
use crate::snapshot_store::{ApplicationStore, SnapshotName, StateStore};
use crate::state_logic::StateLogic;
use crate::status::ShardStateStatus;

/// The most snapshots that are deleted after a write.
const MAX_DELETES_AT_ONCE: usize = 16;

/// A state with more keys than this is encoded on a blocking thread; a smaller one takes about a millisecond.
const MAX_KEYS_INLINE: usize = 5_000;
/// The same limit for the size of the last snapshot, in bytes.
pub(crate) const MAX_BYTES_INLINE: usize = 128 * 1024;

/// The most snapshots of one processor whose existence is uncertain. Before another write the oldest of them is deleted; no
/// record was acknowledged because of it.
const MAX_UNCERTAIN: usize = 8;

/// The parts that the states of all shards share.
pub(crate) struct Common<L: StateLogic> {
    pub(crate) logic: L,
    pub(crate) store: StateStore,
    pub(crate) settings: StateSettings,
    incarnations: AtomicU32,
    /// For each shard, the lease counter and position of the newest snapshot written in this process. A restarted processor
    /// must restore at least that position.
    stored: Mutex<BTreeMap<ShardId, (u64, Position)>>,
    live: Mutex<BTreeMap<ShardId, Weak<ShardState<L>>>>,
}

impl<L: StateLogic> Common<L> {
    pub(crate) fn new(logic: L, store: StateStore, settings: StateSettings) -> Self {
        let incarnations = AtomicU32::new(1);
        Self { logic, store, settings, incarnations, stored: Mutex::default(), live: Mutex::default() }
    }

    pub(crate) fn lost_state(&self) -> LostState {
        if self.store.is_volatile() { LostState::BeginEmpty } else { self.settings.lost_state }
    }

    /// The identity of the stream: that of the settings, or else that of the lease.
    pub(crate) fn stream_identity<'a>(&'a self, context: &'a ShardContext) -> Option<&'a StreamIdentity> {
        self.settings.stream_identity.as_ref().or(context.stream_identity.as_ref())
    }

    pub(crate) fn next_incarnation(&self) -> u32 {
        self.incarnations.fetch_add(1, Ordering::Relaxed)
    }

    fn record_stored(&self, context: &ShardContext, position: &Position) {
        let new = (context.fencing_token.counter, position.clone());
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.get_mut(&context.shard_id) {
            // A late report of a replaced processor.
            Some(present) if *present > new => {}
            Some(present) => *present = new,
            None => drop(stored.insert(context.shard_id.clone(), new)),
        }
    }

    /// The position that a snapshot must reach: that of the lease, or a later one acknowledged under the same lease.
    pub(crate) fn lease_position(&self, context: &ShardContext) -> Position {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.get(&context.shard_id) {
            Some((counter, position)) if *counter == context.fencing_token.counter => {
                position.max(&context.start).clone()
            }
            _ => context.start.clone(),
        }
    }

    pub(crate) fn store_of(&self, context: &ShardContext) -> ApplicationStore {
        self.store.of_application(&context.application, &context.stream, self.settings.store_time_limit)
    }

    pub(crate) fn add_live_shard(&self, shard_id: ShardId, shard: &Arc<ShardState<L>>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(shard_id, Arc::downgrade(shard));
    }

    /// The states of the shards that have a processor in this process.
    pub(crate) fn live_shards(&self) -> Vec<Arc<ShardState<L>>> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, shard| shard.strong_count() > 0);
        live.values().filter_map(Weak::upgrade).collect()
    }
}

/// The state that a shard starts with.
pub(crate) struct RestoredState<S> {
    pub(crate) state: KeyedState<S>,
    pub(crate) ancestors: BTreeSet<ShardId>,
    pub(crate) position: Position,
    /// The position up to which the failure policy may have put records aside.
    pub(crate) passed: Option<Position>,
    /// Whether the newest snapshot holds this state.
    pub(crate) is_stored: bool,
    /// The existing snapshots.
    pub(crate) snapshots: Vec<SnapshotName>,
    /// The lease counter and the incarnation in the names of new snapshots.
    pub(crate) series: SnapshotSeries,
}

/// The state of one shard.
pub(crate) struct ShardState<L: StateLogic> {
    common: Arc<Common<L>>,
    context: ShardContext,
    hash_key_range: HashKeyRange,
    store: ApplicationStore,
    series: SnapshotSeries,
    ancestors: BTreeSet<ShardId>,
    inner: Mutex<Inner<L::State>>,
    /// Batches and snapshots take turns, so that a state need not be copied while it is encoded.
    turn: tokio::sync::Mutex<()>,
    /// Wakes the writer to check the due time again.
    changed: Notify,
    /// Locked during a write: one snapshot is written at a time.
    written: tokio::sync::Mutex<WrittenSnapshots>,
}

struct Inner<S> {
    state: Arc<KeyedState<S>>,
    /// The progress of the state.
    applied: Progress,
    /// The progress of the newest snapshot; `None` without a snapshot.
    stored: Option<Progress>,
    /// Acknowledgements that wait until a snapshot holds their records.
    deferred: Vec<(Position, Acknowledgement)>,
    cadence: SnapshotCadence,
    snapshots_written: u64,
    snapshot_bytes: usize,
    last_error: Option<String>,
}

/// The position up to which records are in a state, and the position up to which records may have been put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    position: Position,
    passed: Option<Position>,
}

/// The snapshots of a shard that exist or may exist, and the number of the last attempt.
struct WrittenSnapshots {
    number: u64,
    names: Vec<KnownSnapshot>,
}

impl<L: StateLogic> ShardState<L> {
    pub(crate) fn new(
        common: Arc<Common<L>>,
        context: ShardContext,
        hash_key_range: HashKeyRange,
        store: ApplicationStore,
        restored: RestoredState<L::State>,
    ) -> Self {
        let RestoredState { state, ancestors, position, passed, is_stored, snapshots, series } = restored;
        let progress = Progress { position, passed };
        let settings = &common.settings;
        let cadence = SnapshotCadence::new(settings.snapshot_interval, settings.snapshot_records.get());
        let inner = Inner {
            state: Arc::new(state),
            stored: is_stored.then(|| progress.clone()),
            applied: progress,
            deferred: Vec::new(),
            cadence,
            snapshots_written: 0,
            snapshot_bytes: 0,
            last_error: None,
        };
        let names = snapshots.into_iter().map(|name| KnownSnapshot { name, is_certain: true }).collect();
        Self {
            common,
            context,
            hash_key_range,
            store,
            series,
            ancestors,
            inner: Mutex::new(inner),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            written: tokio::sync::Mutex::new(WrittenSnapshots { number: 0, names }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<L::State>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the records of a batch that are not in the state yet, all or none, and defers its acknowledgement.
    pub(crate) async fn apply_batch(&self, batch: &RecordBatch) -> Result<(), BoxError> {
        let _turn = self.turn.lock().await;
        // Nothing below awaits, so no cancellation can come between applying and deferring.
        self.apply(batch)?;
        self.defer(batch);
        Ok(())
    }

    fn apply(&self, batch: &RecordBatch) -> Result<(), BoxError> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut changes = StateChanges::new(&inner.state);
        let mut records = 0;
        for record in batch {
            if record.position() <= inner.applied.position {
                continue;
            }
            changes.advance_watermark(record.approximate_arrival);
            let update = AssertUnwindSafe(|| self.common.logic.update(record, &mut changes));
            catch_unwind(update).unwrap_or_else(|panic| Err(panic_error(&*panic)))?;
            records += 1;
        }
        let finished = changes.finish();
        if records > 0 {
            finished.apply_to(Arc::make_mut(&mut inner.state));
            inner.applied.position = batch.last_position();
            if inner.cadence.changed(records, Instant::now()) {
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Defers the acknowledgement of a batch until a snapshot holds it, and drops the records. The shard worker acknowledges a
    /// batch that a snapshot holds already.
    fn defer(&self, batch: &RecordBatch) {
        let mut inner = self.inner();
        let position = batch.last_position();
        if inner.stored.as_ref().is_none_or(|stored| stored.position < position) {
            inner.deferred.push((position, batch.defer().without_records()));
        }
    }

    /// Stores the end of a failed batch in a snapshot, as passed. The failure policy may put the batch's records aside and
    /// advance the position of the shard beyond them; without the snapshot the next owner would find them missing.
    pub(crate) async fn store_passed(&self, batch: &RecordBatch) {
        {
            let mut inner = self.inner();
            let passed = Some(batch.last_position());
            // The newest snapshot decides, because an earlier attempt may have been cancelled before its write.
            if inner.stored.as_ref().is_some_and(|stored| stored.passed >= passed) {
                return;
            }
            inner.applied.passed = passed.max(inner.applied.passed.take());
        }
        let mut delays = self.delays();
        while let Err(error) = self.write().await {
            tracing::warn!(
                application = %self.context.application,
                stream = %self.context.stream,
                shard_id = %self.context.shard_id,
                lease_counter = self.context.fencing_token.counter,
                %error,
                "cannot write a snapshot, records that failed to process wait for it"
            );
            sleep(delays.next().unwrap_or(self.common.settings.snapshot_interval)).await;
        }
    }

    /// Writes the final snapshot: every record of the ended shard is in the state.
    pub(crate) async fn end(&self) -> Result<(), StateError> {
        self.inner().applied = Progress { position: Position::ShardEnd, passed: None };
        self.write().await
    }

    /// Drops all deferred acknowledgements.
    pub(crate) fn drop_deferred(&self) {
        let deferred = std::mem::take(&mut self.inner().deferred);
        drop(deferred);
    }

    fn delays(&self) -> checkpointer::Delays {
        let rng = Rng::with_seed(self.context.fencing_token.counter);
        let longest = self.common.settings.snapshot_interval;
        RetryPolicy::exponential((longest / 50).max(Duration::from_millis(1)), longest).delays(rng)
    }

    /// Writes a snapshot if the state has changed, and then acknowledges the records in it.
    pub(crate) async fn write(&self) -> Result<(), StateError> {
        // A caller that waits here finds its change in the next snapshot.
        let mut written = self.written.lock().await;
        let encoded = self.encode().await;
        let Some((bytes, progress, records)) = encoded.inspect_err(|error| self.record_failure(error))?
        else {
            self.acknowledge();
            return Ok(());
        };
        self.delete_excess_uncertain(&mut written).await.inspect_err(|error| self.record_failure(error))?;
        let size = bytes.len();
        // Each attempt uses a new number, so a write that arrives late never looks newer than a later one.
        written.number += 1;
        let mut name = SnapshotName {
            lease_counter: self.series.lease_counter,
            incarnation: self.series.incarnation,
            number: written.number,
        };
        written.names.push(KnownSnapshot { name, is_certain: false });
        name = self
            .store
            .write(&self.context.shard_id, name, bytes)
            .await
            .inspect_err(|error| self.record_failure(error))?;
        written.number = name.number;
        written.names.pop();
        written.names.push(KnownSnapshot { name, is_certain: true });
        {
            let mut inner = self.inner();
            let since = inner.cadence.changed_records().saturating_sub(records);
            inner.cadence.written(since, Instant::now());
            inner.snapshots_written += 1;
            inner.snapshot_bytes = size;
            inner.last_error = None;
            inner.stored = Some(progress);
        }
        tracing::debug!(
            application = %self.context.application,
            stream = %self.context.stream,
            shard_id = %self.context.shard_id,
            lease_counter = self.context.fencing_token.counter,
            snapshot = %name,
            bytes = size,
            "wrote a snapshot"
        );
        self.acknowledge();
        self.delete_obsolete(&mut written).await;
        Ok(())
    }

    /// Encodes a snapshot. Returns its bytes, its progress and how many records in it are new; `None` if nothing has changed.
    async fn encode(&self) -> Result<Option<(Vec<u8>, Progress, u64)>, StateError> {
        let _turn = self.turn.lock().await;
        let (state, progress, records, is_large) = {
            let mut inner = self.inner();
            if inner.stored.as_ref() == Some(&inner.applied) {
                return Ok(None);
            }
            if let Some(watermark) = inner.state.watermark() {
                let state = Arc::make_mut(&mut inner.state);
                let expire = |_: &String, value: &mut L::State| self.common.logic.expire(value, watermark);
                catch_unwind(AssertUnwindSafe(|| state.entries.retain(expire)))
                    .map_err(|panic| not_encoded(panic_error(&*panic)))?;
            }
            let is_large = inner.state.len() > MAX_KEYS_INLINE || inner.snapshot_bytes > MAX_BYTES_INLINE;
            (inner.state.clone(), inner.applied.clone(), inner.cadence.changed_records(), is_large)
        };
        let (header, max_bytes) = (self.header(&progress), self.common.settings.max_snapshot_bytes);
        let encode = move || {
            catch_unwind(AssertUnwindSafe(|| encode_snapshot(&header, &state, max_bytes)))
                .unwrap_or_else(|panic| Err(not_encoded(panic_error(&*panic))))
        };
        let bytes = if is_large {
            tokio::task::spawn_blocking(encode).await.map_err(|error| not_encoded(error.into()))??
        } else {
            encode()?
        };
        Ok(Some((bytes, progress, records)))
    }

    fn header(&self, progress: &Progress) -> SnapshotHeader {
        let context = &self.context;
        SnapshotHeader {
            application: context.application.to_string(),
            stream: context.stream.to_string(),
            stream_identity: self.common.stream_identity(context).cloned(),
            shard_id: context.shard_id.clone(),
            hash_key_range: self.hash_key_range,
            ancestors: self.ancestors.clone(),
            schema: self.common.logic.schema(),
            position: progress.position.clone(),
            passed: progress.passed.clone(),
            owner: context.fencing_token.owner.to_string(),
            lease_counter: context.fencing_token.counter,
            watermark: None,
            entries: 0,
        }
    }

    fn record_failure(&self, error: &StateError) {
        let wait = self.delays().next().unwrap_or(self.common.settings.snapshot_interval);
        let mut inner = self.inner();
        inner.cadence.failed(Instant::now() + wait);
        inner.last_error = Some(error.to_string());
    }

    /// Acknowledges the records that the newest snapshot holds.
    fn acknowledge(&self) {
        let done = {
            let mut inner = self.inner();
            let Some(stored) = inner.stored.clone() else { return };
            self.common.record_stored(&self.context, &stored.position);
            let (done, waiting) =
                inner.deferred.drain(..).partition::<Vec<_>, _>(|(position, _)| *position <= stored.position);
            inner.deferred = waiting;
            done
        };
        for (_, acknowledgement) in done {
            acknowledgement.acknowledge();
        }
    }

    async fn delete_excess_uncertain(&self, written: &mut WrittenSnapshots) -> Result<(), StateError> {
        let uncertain: Vec<SnapshotName> =
            written.names.iter().filter(|kept| !kept.is_certain).map(|kept| kept.name).collect();
        let too_many = (uncertain.len() + 1).saturating_sub(MAX_UNCERTAIN);
        for name in uncertain.into_iter().take(too_many) {
            self.store.delete(&self.context.shard_id, name).await?;
            written.names.retain(|kept| kept.name != name);
        }
        Ok(())
    }

    async fn delete_obsolete(&self, written: &mut WrittenSnapshots) {
        for name in
            obsolete(&written.names, self.common.settings.keep.get()).into_iter().take(MAX_DELETES_AT_ONCE)
        {
            match self.store.delete(&self.context.shard_id, name).await {
                Ok(()) => written.names.retain(|kept| kept.name != name),
                Err(error) => {
                    tracing::warn!(shard_id = %self.context.shard_id, %error, "cannot delete an obsolete snapshot, leaving it");
                    return;
                }
            }
        }
    }

    /// Writes snapshots when they are due, until the future is dropped.
    pub(crate) async fn write_when_due(self: Arc<Self>) {
        let mut delays = self.delays();
        loop {
            let due = self.inner().cadence.due(Instant::now());
            match due {
                Due::Never => self.changed.notified().await,
                Due::At(at) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Due::Now => match self.write().await {
                    Ok(()) => delays = self.delays(),
                    Err(error) => {
                        let wait = delays.next().unwrap_or(self.common.settings.snapshot_interval);
                        self.inner().cadence.failed(Instant::now() + wait);
                        tracing::warn!(
                            application = %self.context.application,
                            stream = %self.context.stream,
                            shard_id = %self.context.shard_id,
                            lease_counter = self.context.fencing_token.counter,
                            %error,
                            "cannot write a snapshot, retrying; no record is acknowledged meanwhile"
                        );
                    }
                },
            }
        }
    }

    pub(crate) fn status(&self) -> ShardStateStatus {
        let inner = self.inner();
        ShardStateStatus {
            shard_id: self.context.shard_id.clone(),
            lease_counter: self.context.fencing_token.counter,
            keys: inner.state.len(),
            applied: inner.applied.position.clone(),
            stored: inner.stored.as_ref().map(|stored| stored.position.clone()),
            records_in_no_snapshot: inner.cadence.changed_records(),
            snapshots_written: inner.snapshots_written,
            snapshot_bytes: inner.snapshot_bytes,
            last_error: inner.last_error.clone(),
        }
    }

    /// Merges the state into the totals of other shards.
    pub(crate) fn add_to(&self, totals: &mut KeyedState<L::State>) {
        let state = self.inner().state.clone();
        totals.advance_watermark(state.watermark());
        for (key, value) in state.iter() {
            let merge = |key: &str, one, other| self.common.logic.merge(key, one, other);
            totals.absorb(key.to_owned(), value.clone(), merge);
        }
    }
}

fn not_encoded(cause: BoxError) -> StateError {
    StateError::new(StateErrorKind::Invalid, format!("the state could not be encoded: {cause}"))
        .with_source(cause)
}

fn panic_error(panic: &(dyn std::any::Any + Send)) -> BoxError {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "the application's state logic panicked: {}",
        text.as_deref().unwrap_or("a value that is no text")
    )
    .into()
}
