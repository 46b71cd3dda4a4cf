//! A lease that a worker holds: one write at a time, and an unknown outcome is settled before the next write.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, watch};
use tokio::time::{Duration, Instant};

use crate::error::{StoreError, StoreErrorKind};
use crate::lag_report::LagReport;
use crate::lag_reporter::LagReporter;
use crate::lease::{Lease, LeaseFacts, PendingCheckpoint};
use crate::lease_state::{EditedPosition, LeaseState, MAX_UNSETTLED_WRITES, NextWrite, ReadBack, update};
use crate::operator::{OwnerAction, OwnerRequest, Pause};
use crate::position::Position;
use crate::shard_id::ShardId;
use crate::store::{LeaseStore, WriteOutcome};
use crate::worker_id::WorkerId;
use crate::write::LeaseChange;

/// The most takes in one call. The second one follows when the first answer was lost and the row names this worker.
const MAX_TAKES: usize = 2;

/// The most repeats of a write in one call. A write is repeated when an earlier one of this holder was applied late.
const MAX_LATE_ARRIVALS: usize = MAX_UNSETTLED_WRITES;

/// Proof of ownership for the application's own sinks: of two holders of a shard, the later one has the larger counter.
/// Where the takes have a [`counter_floor`](LeaseFacts::counter_floor) that grows with time, this also holds when the table
/// was deleted or restored in between.
///
/// ```
/// use lease_store::{FencingToken, WorkerId};
///
/// // A sink stores the largest counter for each shard, and refuses writes with a smaller one.
/// let former = FencingToken::new(WorkerId::new("worker-a")?, 41);
/// let present = FencingToken::new(WorkerId::new("worker-b")?, 57);
/// let (mut stored, mut refused) = (0, Vec::new());
/// for token in [&present, &former] {
///     if token.counter >= stored { stored = token.counter } else { refused.push(token) }
/// }
/// assert_eq!(refused, [&former]);
/// # Ok::<(), lease_store::StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FencingToken {
    /// The worker that took the lease.
    pub owner: WorkerId,
    /// The lease counter right after it was taken.
    pub counter: u64,
}

impl FencingToken {
    /// The token of this owner with this counter, for tests of an application.
    pub fn new(owner: WorkerId, counter: u64) -> Self {
        Self { owner, counter }
    }
}

/// What an operator left in the row of a held lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OperatorNotes {
    /// The request to this holder.
    pub request: Option<OwnerRequest>,
    /// The pause of the shard, whether or not it is over.
    pub pause: Option<Pause>,
}

impl OperatorNotes {
    /// The notes of a row for its present owner.
    pub fn of(row: &Lease) -> Self {
        Self { request: row.owner_request(), pause: row.pause() }
    }
}

/// A lease that this worker took.
///
/// All writes go through this type, one at a time. Each is conditional on the version that the previous write left. If
/// the outcome of a write is unknown, or its caller was cancelled, the row is read again (strongly consistent) before
/// the next write. Once the row has another owner, every call fails with `Fenced`, permanently.
///
/// The answer to each write is the whole row, so a request of another worker for the lease is noticed without extra
/// reads; see [`hand_over_target`](Self::hand_over_target).
///
/// Every method is cancel-safe.
#[derive(Debug)]
pub struct HeldLease {
    store: Arc<dyn LeaseStore>,
    taken: Lease,
    token: FencingToken,
    fenced: AtomicBool,
    /// The time from the newest confirmed write until the row was found deleted; `None` while the row exists.
    vanished_after: StdMutex<Option<Duration>>,
    /// The row of another process under the same worker id, which took the lease from this one.
    namesake: StdMutex<Option<Lease>>,
    /// The owner in the row when this holder noticed that its lease was lost.
    lost_to: StdMutex<Option<WorkerId>>,
    /// Whether a write of `SHARD_END` was attempted.
    ended: AtomicBool,
    /// The worker that requests the lease, as of the newest answer.
    target: watch::Sender<Option<WorkerId>>,
    /// What an operator left in the row, as of the newest answer.
    notes: watch::Sender<OperatorNotes>,
    /// The time right before the newest confirmed write was sent. The validity of the lease counts from here.
    confirmed_at: StdMutex<Instant>,
    /// The newest edit of the position by another writer; a copy of the one in the state.
    edited: StdMutex<Option<EditedPosition>>,
    /// Measures the lag for each renewal and checkpoint.
    reporter: LagReporter,
    state: Mutex<LeaseState>,
}

impl HeldLease {
    /// Takes a lease for a worker, if the row is still as it was seen.
    ///
    /// # Errors
    /// `Conflict` when another worker wrote first; `Unavailable` when the outcome is unknown and could not be settled;
    /// the store's own failures otherwise. After `Unavailable` the row may name this worker; taking it again is safe.
    pub async fn take(
        store: Arc<dyn LeaseStore>,
        seen: &Lease,
        worker_id: &WorkerId,
    ) -> Result<Self, StoreError> {
        Self::take_with_facts(store, seen, worker_id, LeaseFacts::default()).await
    }

    /// Takes a lease like [`take`](Self::take). The same write adds the facts that the row lacks.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn take_with_facts(
        store: Arc<dyn LeaseStore>,
        seen: &Lease,
        worker_id: &WorkerId,
        facts: LeaseFacts,
    ) -> Result<Self, StoreError> {
        let shard_id = &seen.shard_id;
        let conflict = || {
            let why = format!("the lease of {shard_id} changed before {worker_id} could take it");
            StoreError::new(StoreErrorKind::Conflict, why)
        };
        let mut seen = seen.clone();
        for _ in 0..MAX_TAKES {
            let asked_at = Instant::now();
            let change = LeaseChange::Take { owner: worker_id.clone(), facts: facts.clone() };
            let error = match store.write(&update(&seen, change)).await? {
                WriteOutcome::Applied { lease: Some(taken) } => {
                    return Ok(Self::holding(store, taken, worker_id, asked_at));
                }
                WriteOutcome::Applied { lease: None } | WriteOutcome::Lost { .. } => return Err(conflict()),
                WriteOutcome::Unknown(error) => error,
            };
            match store.get(shard_id).await.map_err(|_| unsettled(shard_id, error))? {
                // The row names this process because this take or an earlier one was applied. Only an answered take
                // shows since when the lease is valid, so take it once more.
                Some(row) if row.is_owned_by(worker_id) && row.owner_process == facts.owner_process => {
                    seen = row;
                }
                Some(row) if seen.version().matches(&row) => break,
                _ => return Err(conflict()),
            }
        }
        let why = format!("taking the lease of {shard_id} was not confirmed; take it again");
        Err(StoreError::new(StoreErrorKind::Unavailable, why))
    }

    fn holding(store: Arc<dyn LeaseStore>, taken: Lease, worker_id: &WorkerId, asked_at: Instant) -> Self {
        Self {
            store,
            token: FencingToken { owner: worker_id.clone(), counter: taken.counter },
            fenced: AtomicBool::new(false),
            vanished_after: StdMutex::new(None),
            namesake: StdMutex::new(None),
            lost_to: StdMutex::new(None),
            ended: AtomicBool::new(false),
            target: watch::channel(taken.hand_over_target().cloned()).0,
            notes: watch::channel(OperatorNotes::of(&taken)).0,
            confirmed_at: StdMutex::new(asked_at),
            edited: StdMutex::new(None),
            reporter: LagReporter::default(),
            state: Mutex::new(LeaseState::new(worker_id.clone(), taken.clone())),
            taken,
        }
    }

    /// The shard.
    pub fn shard_id(&self) -> &ShardId {
        &self.taken.shard_id
    }

    /// The row right after the take. Reading starts at its checkpoint.
    pub fn taken(&self) -> &Lease {
        &self.taken
    }

    /// The token for the application's own sinks.
    pub fn fencing_token(&self) -> &FencingToken {
        &self.token
    }

    /// The time right before the newest confirmed write was sent.
    ///
    /// The lease is valid for the fail-over time from then on. An observer counts from the moment the write was applied,
    /// which is later, so the holder never considers the lease valid longer than an observer does.
    pub fn confirmed_at(&self) -> Instant {
        *self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all further writes of this holder, because it may no longer own the lease.
    pub fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    /// Whether this holder has lost, released or handed over the lease.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// The time from the newest confirmed write until the row was found deleted; `None` if it was not found deleted. A
    /// deleted row fences the holder, although no other worker owns the lease.
    pub fn vanished_after(&self) -> Option<Duration> {
        *self.vanished_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of another live process under the same worker id: it took the lease while this process held it. Such a
    /// process fences this one like any other owner.
    pub fn lost_to_namesake(&self) -> Option<Lease> {
        self.namesake.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The other worker that the row named when this holder found its lease lost. `None` if it never saw one, for example
    /// because the lease expired while the store could not be reached.
    pub fn lost_to(&self) -> Option<WorkerId> {
        self.lost_to.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this holder attempted to checkpoint `SHARD_END`, whatever the outcome.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether another worker requests the lease, as far as this holder knows.
    pub fn is_requested(&self) -> bool {
        self.target.borrow().is_some()
    }

    /// The worker that requests the lease, as far as this holder knows.
    pub fn newest_hand_over_target(&self) -> Option<WorkerId> {
        self.target.borrow().clone()
    }

    /// The newest position that another writer stored in the row while this holder held the lease. It has no effect on
    /// this holder, whose next checkpoint replaces it.
    pub fn edited_position(&self) -> Option<EditedPosition> {
        self.edited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares a listed row with what this holder knows, to notice an edit of the position. While a write is under way it
    /// does nothing: the answer to that write shows the row too.
    pub fn compare_listed(&self, row: &Lease) {
        if let Ok(mut state) = self.state.try_lock() {
            state.compare_listed(row);
            self.publish_edit(&state);
        }
    }

    fn publish_edit(&self, state: &LeaseState) {
        if let Some(edited) = state.edited_position() {
            *self.edited.lock().unwrap_or_else(PoisonError::into_inner) = Some(edited.clone());
        }
    }

    /// The row, as far as this holder knows it.
    pub async fn last_known(&self) -> Lease {
        self.state.lock().await.lease().clone()
    }

    /// Waits until another worker requests the lease, or a KCL 3.x leader assigns it to one, and returns that worker.
    /// The holder learns of it from the answers to its own writes.
    pub async fn hand_over_target(&self) -> WorkerId {
        let mut target = self.target.subscribe();
        let found = target.wait_for(Option::is_some).await.ok().and_then(|target| target.clone());
        match found {
            Some(target) => target,
            // Cannot happen: the sender lives as long as `self`, and the awaited value is present.
            None => std::future::pending().await,
        }
    }

    /// What an operator left in the row, as the answers to the writes of this holder show it.
    pub fn operator_notes(&self) -> watch::Receiver<OperatorNotes> {
        self.notes.subscribe()
    }

    /// Carries out the request of an operator to reset the position, and makes the lease free. It is the last write of this
    /// holder.
    ///
    /// # Errors
    /// `Conflict` when the request was withdrawn or replaced, and `Invalid` when it is no reset; this holder then keeps the
    /// lease. Otherwise as [`hand_over`](Self::hand_over).
    pub async fn reset(&self, request: &OwnerRequest) -> Result<(), StoreError> {
        let OwnerAction::Reset { position, initial_time_millis } = &request.action else {
            return Err(StoreError::invalid(format!("{request:?} is no request to reset the position")));
        };
        self.write_last(LeaseChange::Reset {
            position: position.clone(),
            initial_time_millis: *initial_time_millis,
            children: BTreeSet::new(),
            reset_id: request.id,
            owner_request: Some(request.to_string()),
        })
        .await
    }

    /// Reports the lag in the row from now on, with each renewal and checkpoint that is written anyway: there is no write for
    /// a report alone. `measure` is called right before such a write; `None` leaves that one without a report. Only the first
    /// call of this method has an effect.
    pub fn report_lag(&self, measure: impl Fn() -> Option<LagReport> + Send + Sync + 'static) {
        self.reporter.set(measure);
    }

    /// Renews the lease by incrementing its counter.
    ///
    /// # Errors
    /// `Fenced` when this holder lost the lease; `Throttled` and `Unavailable` may be retried.
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.write(LeaseChange::Renew).await
    }

    /// Stores a checkpoint, and the child shards if they are known. It is also a renewal. A position that is already
    /// stored is not written again.
    ///
    /// # Errors
    /// `Invalid` when the position is behind the stored one; `Fenced` when this holder lost the lease; `Throttled` and
    /// `Unavailable` may be retried.
    pub async fn checkpoint(&self, position: &Position, children: &[ShardId]) -> Result<(), StoreError> {
        self.ended.fetch_or(*position == Position::ShardEnd, Ordering::AcqRel);
        let children: BTreeSet<ShardId> = children.iter().cloned().collect();
        self.write(LeaseChange::Checkpoint { position: position.clone(), children }).await
    }

    /// Announces a checkpoint, with bytes of the application, like the KCL's `prepareCheckpoint`. A worker that takes
    /// the lease before the next checkpoint finds both in the row. It is also a renewal.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn prepare_checkpoint(
        &self,
        position: &Position,
        state: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let pending = PendingCheckpoint { position: position.clone(), state };
        self.write(LeaseChange::PrepareCheckpoint(pending)).await
    }

    /// Offers the lease to other workers. It is also a renewal.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub async fn offer(&self) -> Result<(), StoreError> {
        self.write(LeaseChange::Offer).await
    }

    /// Makes the worker that requests the lease its owner. It is the last write of this holder.
    ///
    /// # Errors
    /// `Conflict` when that worker no longer requests the lease, which this holder then keeps; `Fenced` when this holder
    /// lost the lease; `Throttled` and `Unavailable` may be retried. Without a retry, other workers can take the lease
    /// once its fail-over time has passed.
    pub async fn hand_over(&self, new_owner: &WorkerId) -> Result<(), StoreError> {
        self.write_last(LeaseChange::HandOver { to: new_owner.clone() }).await
    }

    /// Releases the lease, so that another worker can take it at once. It is the last write of this holder.
    ///
    /// # Errors
    /// `Conflict` when a KCL 3.x leader assigned the lease to another worker: call [`hand_over`](Self::hand_over)
    /// instead. Otherwise as [`hand_over`](Self::hand_over).
    pub async fn release(&self) -> Result<(), StoreError> {
        self.write_last(LeaseChange::Release).await
    }

    async fn write_last(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let written = self.write_in_turn(&mut state, change).await;
        let is_still_held = |error: &StoreError| {
            error.is_retryable() || matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Invalid)
        };
        if !written.as_ref().is_err_and(is_still_held) {
            // Fence before the lock is released: the next write would renew a lease that this worker gave up.
            self.fence();
        }
        written
    }

    async fn write(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let change = self.reporter.with_report(change);
        self.write_in_turn(&mut state, change).await
    }

    async fn write_in_turn(&self, state: &mut LeaseState, change: LeaseChange) -> Result<(), StoreError> {
        if state.must_read_back() {
            let row = self.store.get(self.shard_id()).await?;
            let found = state.read_back(row.clone());
            self.act_on(found, state, row)?;
        }
        for _ in 0..=MAX_LATE_ARRIVALS {
            let asked_at = Instant::now();
            let is_fenced = self.is_fenced();
            let write = match state.next_write(&change, is_fenced, asked_at)? {
                NextWrite::InEffect => return Ok(()),
                NextWrite::Full => break,
                NextWrite::Fenced => {
                    self.fence();
                    return Err(self.fenced_error((!is_fenced).then(|| state.lease().clone())));
                }
                NextWrite::Send(write) => write,
            };
            match self.store.write(&write).await {
                Ok(WriteOutcome::Applied { lease: Some(lease) }) => {
                    state.record_applied(lease);
                    self.publish_target(state);
                    self.confirm(asked_at);
                    return Ok(());
                }
                Ok(WriteOutcome::Applied { lease: None }) => return Err(self.lose(None)),
                Ok(WriteOutcome::Lost { lease }) => {
                    // If an earlier write of this holder was applied late, it still owns the lease: send the write again.
                    let found = state.record_refused(lease.clone());
                    self.act_on(found, state, lease)?;
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    let row = self.store.get(self.shard_id()).await;
                    let row = row.map_err(|_| unsettled(self.shard_id(), error))?;
                    let (found, is_done) = state.read_back_newest(row.clone());
                    self.act_on(found, state, row)?;
                    if is_done {
                        return Ok(());
                    }
                }
                Err(error) => {
                    state.record_failed();
                    return Err(error);
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            format!("the writes to the lease of {} remain unconfirmed; try again", self.shard_id()),
        ))
    }

    /// Acts on the result of reading the row back.
    fn act_on(&self, found: ReadBack, state: &LeaseState, row: Option<Lease>) -> Result<(), StoreError> {
        match found {
            ReadBack::Unchanged | ReadBack::HandOverBegun => self.publish_target(state),
            ReadBack::Applied { asked_at, .. } => {
                self.publish_target(state);
                self.confirm(asked_at);
            }
            ReadBack::Lost => return Err(self.lose(row)),
        }
        Ok(())
    }

    /// Publishes the worker that requests the lease, and an edit of the position.
    fn publish_target(&self, state: &LeaseState) {
        self.publish_edit(state);
        let notes = OperatorNotes::of(state.lease());
        self.notes.send_if_modified(|known| {
            let is_new = *known != notes;
            if is_new {
                known.clone_from(&notes);
            }
            is_new
        });
        let target = state.hand_over_target().cloned();
        self.target.send_if_modified(|known| {
            let is_new = *known != target;
            *known = target;
            is_new
        });
    }

    fn confirm(&self, asked_at: Instant) {
        *self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner) = asked_at;
    }

    fn lose(&self, row: Option<Lease>) -> StoreError {
        self.fence();
        if let Some(row) = row.as_ref().filter(|row| row.is_owned_by(&self.token.owner)) {
            let mut namesake = self.namesake.lock().unwrap_or_else(PoisonError::into_inner);
            namesake.get_or_insert_with(|| row.clone());
        }
        if row.is_none() {
            let mut vanished_after = self.vanished_after.lock().unwrap_or_else(PoisonError::into_inner);
            vanished_after.get_or_insert_with(|| self.confirmed_at().elapsed());
        }
        self.fenced_error(row)
    }

    fn fenced_error(&self, row: Option<Lease>) -> StoreError {
        let now = match row.and_then(|row| row.owner) {
            Some(owner) => {
                let now = format!("; it belongs to {owner} now");
                if owner != self.token.owner {
                    *self.lost_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
                }
                now
            }
            None => String::new(),
        };
        StoreError::new(
            StoreErrorKind::Fenced,
            format!(
                "{} (lease counter {}) no longer holds the lease of {}{now}",
                self.token.owner,
                self.token.counter,
                self.shard_id()
            ),
        )
    }
}

fn unsettled(shard_id: &ShardId, error: StoreError) -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        format!(
            "the outcome of a write to the lease of {shard_id} is unknown; the next write settles it first"
        ),
    )
    .caused_by(error)
}
