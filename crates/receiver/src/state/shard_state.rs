//! The state of one shard in the hand of its processor: what is applied, what is in a snapshot, and what may be
//! acknowledged after the next one.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpointer::RetryPolicy;
use fastrand::Rng;
use lease_store::{BoxError, HashKeyRange, Position};
use shard_worker::{Acknowledgement, RecordBatch, ShardContext};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::cadence::{Due, SnapshotCadence};
use super::keyed::{KeyedState, StateChanges};
use super::processor::Common;
use super::retention::{KeptSnapshot, superfluous};
use super::snapshot::{SnapshotHeader, encode};
use super::store::{ApplicationStore, SnapshotName};
use super::{ShardStateStatus, StateError, StateErrorKind, StateLogic};

/// The most snapshots that are deleted after one is written.
const MAX_DELETES_AT_ONCE: usize = 16;

/// A state with more keys than this, or whose last snapshot was larger, is encoded on a thread of its own: up to there that takes
/// about a millisecond.
const MAX_KEYS_INLINE: usize = 5_000;
pub(super) const MAX_BYTES_INLINE: usize = 128 * 1024;

/// The most snapshots of one processor of which nobody knows whether they are there. Before one more is written, the oldest
/// is deleted: nothing was acknowledged by it.
const MAX_UNCERTAIN: usize = 8;

/// What a shard begins with.
pub(super) struct Beginning<S> {
    pub(super) state: KeyedState<S>,
    pub(super) ancestors: BTreeSet<lease_store::ShardId>,
    pub(super) position: Position,
    pub(super) passed: Option<Position>,
    /// Whether it is what the newest snapshot holds.
    pub(super) is_stored: bool,
    /// The snapshots that are there.
    pub(super) snapshots: Vec<SnapshotName>,
    pub(super) incarnation: u32,
}

pub(super) struct ShardState<L: StateLogic> {
    common: Arc<Common<L>>,
    context: ShardContext,
    hash_key_range: HashKeyRange,
    store: ApplicationStore,
    incarnation: u32,
    ancestors: BTreeSet<lease_store::ShardId>,
    inner: Mutex<Inner<L::State>>,
    /// Batches and snapshots take turns, so that a state that is being encoded need not be copied.
    turn: tokio::sync::Mutex<()>,
    /// The writer has to look again.
    changed: Notify,
    /// One snapshot is written at a time.
    written: tokio::sync::Mutex<Written>,
}

struct Inner<S> {
    state: Arc<KeyedState<S>>,
    /// The cut that the state is.
    cut: Cut,
    /// The cut of the newest snapshot; `None`: there is none.
    stored: Option<Cut>,
    /// What may be acknowledged when a snapshot holds it.
    held: Vec<(Position, Acknowledgement)>,
    cadence: SnapshotCadence,
    snapshots_written: u64,
    snapshot_bytes: usize,
    last_error: Option<String>,
}

/// Up to where records are in a state, and up to where they may have been put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    position: Position,
    passed: Option<Position>,
}

struct Written {
    number: u64,
    names: Vec<KeptSnapshot>,
}

impl<L: StateLogic> ShardState<L> {
    pub(super) fn new(
        common: Arc<Common<L>>,
        context: ShardContext,
        hash_key_range: HashKeyRange,
        store: ApplicationStore,
        beginning: Beginning<L::State>,
    ) -> Self {
        let Beginning { state, ancestors, position, passed, is_stored, snapshots, incarnation } = beginning;
        let cut = Cut { position, passed };
        let settings = &common.settings;
        let cadence = SnapshotCadence::new(settings.snapshot_interval, settings.snapshot_records.get());
        let inner = Inner {
            state: Arc::new(state),
            stored: is_stored.then(|| cut.clone()),
            cut,
            held: Vec::new(),
            cadence,
            snapshots_written: 0,
            snapshot_bytes: 0,
            last_error: None,
        };
        let names = snapshots.into_iter().map(|name| KeptSnapshot { name, is_certain: true }).collect();
        Self {
            common,
            context,
            hash_key_range,
            store,
            incarnation,
            ancestors,
            inner: Mutex::new(inner),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            written: tokio::sync::Mutex::new(Written { number: 0, names }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<L::State>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the records of a batch into the state that are not in it yet, all or none, and keeps its acknowledgement.
    pub(super) async fn take_in(&self, batch: &RecordBatch) -> Result<(), BoxError> {
        let _turn = self.turn.lock().await;
        // From here on nothing waits, so that no batch is applied and not held back.
        self.apply(batch)?;
        self.hold(batch);
        Ok(())
    }

    fn apply(&self, batch: &RecordBatch) -> Result<(), BoxError> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut changes = StateChanges::new(&inner.state);
        let mut records = 0;
        for record in batch {
            if record.position() <= inner.cut.position {
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
            inner.cut.position = batch.last_position();
            if inner.cadence.changed(records, Instant::now()) {
                self.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Keeps the acknowledgement of a batch until a snapshot holds it; the records are let go of. A batch that a snapshot
    /// holds already is acknowledged by its processor.
    fn hold(&self, batch: &RecordBatch) {
        let mut inner = self.inner();
        let position = batch.last_position();
        if inner.stored.as_ref().is_none_or(|stored| stored.position < position) {
            inner.held.push((position, batch.defer().without_records()));
        }
    }

    /// The batch could not be processed. Its records may be put aside, and then the position of the shard passes them: that
    /// has to stand in a snapshot before, or the next owner would find them missing.
    pub(super) async fn pass(&self, batch: &RecordBatch) {
        {
            let mut inner = self.inner();
            let passed = Some(batch.last_position());
            // Asked of the newest snapshot: an attempt before this one may have been cut short.
            if inner.stored.as_ref().is_some_and(|stored| stored.passed >= passed) {
                return;
            }
            inner.cut.passed = passed.max(inner.cut.passed.take());
        }
        let mut delays = self.delays();
        while let Err(error) = self.write().await {
            tracing::warn!(
                application = %self.context.application,
                stream = %self.context.stream,
                shard_id = %self.context.shard_id,
                lease_counter = self.context.fencing_token.counter,
                %error,
                "records that cannot be processed wait until a snapshot can be written"
            );
            sleep(delays.next().unwrap_or(self.common.settings.snapshot_interval)).await;
        }
    }

    /// The shard has ended, and all of it is in the state.
    pub(super) async fn end(&self) -> Result<(), StateError> {
        self.inner().cut = Cut { position: Position::ShardEnd, passed: None };
        self.write().await
    }

    /// Lets go of all that waits to be acknowledged.
    pub(super) fn let_go(&self) {
        let held = std::mem::take(&mut self.inner().held);
        drop(held);
    }

    fn delays(&self) -> checkpointer::Delays {
        let rng = Rng::with_seed(self.context.fencing_token.counter);
        let longest = self.common.settings.snapshot_interval;
        RetryPolicy::exponential((longest / 50).max(std::time::Duration::from_millis(1)), longest).delays(rng)
    }

    /// Writes a snapshot if something is in none, and acknowledges what it holds, in this order.
    pub(super) async fn write(&self) -> Result<(), StateError> {
        // Whoever waits here finds its change in the snapshot that is written next.
        let mut written = self.written.lock().await;
        let encoded = self.encode().await;
        let Some((bytes, cut, records)) = encoded.inspect_err(|error| self.note_failure(error))? else {
            self.acknowledge();
            return Ok(());
        };
        self.bound_uncertain(&mut written).await.inspect_err(|error| self.note_failure(error))?;
        let size = bytes.len();
        // A number is used once, whatever becomes of it: what arrives late never looks newer than what came after it.
        written.number += 1;
        let mut name = SnapshotName {
            lease_counter: self.context.fencing_token.counter,
            incarnation: self.incarnation,
            number: written.number,
        };
        written.names.push(KeptSnapshot { name, is_certain: false });
        name = self
            .store
            .write(&self.context.shard_id, name, bytes)
            .await
            .inspect_err(|error| self.note_failure(error))?;
        written.number = name.number;
        written.names.pop();
        written.names.push(KeptSnapshot { name, is_certain: true });
        {
            let mut inner = self.inner();
            let since = inner.cadence.changed_records().saturating_sub(records);
            inner.cadence.written(since, Instant::now());
            inner.snapshots_written += 1;
            inner.snapshot_bytes = size;
            inner.last_error = None;
            inner.stored = Some(cut);
        }
        tracing::debug!(
            application = %self.context.application,
            stream = %self.context.stream,
            shard_id = %self.context.shard_id,
            lease_counter = self.context.fencing_token.counter,
            snapshot = %name,
            bytes = size,
            "a snapshot is written"
        );
        self.acknowledge();
        self.delete_superfluous(&mut written).await;
        Ok(())
    }

    /// The bytes of a snapshot, what it holds, and how many records are in it that were in none before; `None`: nothing has
    /// changed.
    async fn encode(&self) -> Result<Option<(Vec<u8>, Cut, u64)>, StateError> {
        let _turn = self.turn.lock().await;
        let (state, cut, records, is_large) = {
            let mut inner = self.inner();
            if inner.stored.as_ref() == Some(&inner.cut) {
                return Ok(None);
            }
            if let Some(watermark) = inner.state.watermark() {
                let state = Arc::make_mut(&mut inner.state);
                let expire = |_: &String, value: &mut L::State| self.common.logic.expire(value, watermark);
                catch_unwind(AssertUnwindSafe(|| state.entries.retain(expire)))
                    .map_err(|panic| not_encoded(panic_error(&*panic)))?;
            }
            let is_large = inner.state.len() > MAX_KEYS_INLINE || inner.snapshot_bytes > MAX_BYTES_INLINE;
            (inner.state.clone(), inner.cut.clone(), inner.cadence.changed_records(), is_large)
        };
        let (header, max_bytes) = (self.header(&cut), self.common.settings.max_snapshot_bytes);
        let encode = move || {
            catch_unwind(AssertUnwindSafe(|| encode(&header, &state, max_bytes)))
                .unwrap_or_else(|panic| Err(not_encoded(panic_error(&*panic))))
        };
        let bytes = if is_large {
            tokio::task::spawn_blocking(encode).await.map_err(|error| not_encoded(error.into()))??
        } else {
            encode()?
        };
        Ok(Some((bytes, cut, records)))
    }

    fn header(&self, cut: &Cut) -> SnapshotHeader {
        let context = &self.context;
        SnapshotHeader {
            application: context.application.to_string(),
            stream: context.stream.to_string(),
            stream_identity: self.common.settings.stream_identity.clone(),
            shard_id: context.shard_id.clone(),
            hash_key_range: self.hash_key_range,
            ancestors: self.ancestors.clone(),
            schema: self.common.logic.schema(),
            position: cut.position.clone(),
            passed: cut.passed.clone(),
            owner: context.fencing_token.owner.to_string(),
            lease_counter: context.fencing_token.counter,
            watermark: None,
            entries: 0,
        }
    }

    fn note_failure(&self, error: &StateError) {
        let wait = self.delays().next().unwrap_or(self.common.settings.snapshot_interval);
        let mut inner = self.inner();
        inner.cadence.failed(Instant::now() + wait);
        inner.last_error = Some(error.to_string());
    }

    /// Acknowledges what the newest snapshot holds.
    fn acknowledge(&self) {
        let done = {
            let mut inner = self.inner();
            let Some(stored) = inner.stored.clone() else { return };
            self.common.note_stored(&self.context, &stored.position);
            let (done, kept) =
                inner.held.drain(..).partition::<Vec<_>, _>(|(position, _)| *position <= stored.position);
            inner.held = kept;
            done
        };
        for (_, acknowledgement) in done {
            acknowledgement.acknowledge();
        }
    }

    async fn bound_uncertain(&self, written: &mut Written) -> Result<(), StateError> {
        let uncertain: Vec<SnapshotName> =
            written.names.iter().filter(|kept| !kept.is_certain).map(|kept| kept.name).collect();
        let too_many = (uncertain.len() + 1).saturating_sub(MAX_UNCERTAIN);
        for name in uncertain.into_iter().take(too_many) {
            self.store.delete(&self.context.shard_id, name).await?;
            written.names.retain(|kept| kept.name != name);
        }
        Ok(())
    }

    async fn delete_superfluous(&self, written: &mut Written) {
        for name in
            superfluous(&written.names, self.common.settings.keep.get()).into_iter().take(MAX_DELETES_AT_ONCE)
        {
            match self.store.delete(&self.context.shard_id, name).await {
                Ok(()) => written.names.retain(|kept| kept.name != name),
                Err(error) => {
                    tracing::warn!(shard_id = %self.context.shard_id, %error, "an old snapshot stays for now");
                    return;
                }
            }
        }
    }

    /// Writes snapshots when they are due, until it is dropped.
    pub(super) async fn write_when_due(self: Arc<Self>) {
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
                            "no snapshot could be written; nothing is acknowledged meanwhile"
                        );
                    }
                },
            }
        }
    }

    pub(super) fn status(&self) -> ShardStateStatus {
        let inner = self.inner();
        ShardStateStatus {
            shard_id: self.context.shard_id.clone(),
            lease_counter: self.context.fencing_token.counter,
            keys: inner.state.len(),
            applied: inner.cut.position.clone(),
            stored: inner.stored.as_ref().map(|stored| stored.position.clone()),
            records_in_no_snapshot: inner.cadence.changed_records(),
            snapshots_written: inner.snapshots_written,
            snapshot_bytes: inner.snapshot_bytes,
            last_error: inner.last_error.clone(),
        }
    }

    /// Adds its state to that of other shards.
    pub(super) fn add_to(&self, totals: &mut KeyedState<L::State>) {
        let state = self.inner().state.clone();
        totals.advance_watermark(state.watermark());
        for (key, value) in state.iter() {
            let merge = |key: &str, one, other| self.common.logic.merge(key, one, other);
            totals.absorb(key.to_owned(), value.clone(), merge);
        }
    }
}

fn not_encoded(cause: BoxError) -> StateError {
    StateError::new(StateErrorKind::Invalid, format!("the state could not be written down: {cause}"))
        .with_source(cause)
}

fn panic_error(panic: &(dyn std::any::Any + Send)) -> BoxError {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the application's code panicked: {}", text.as_deref().unwrap_or("a value that is no text"))
        .into()
}
