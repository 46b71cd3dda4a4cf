//! A lease in the hand of a worker: its writes one after another, and unknown outcomes settled before the next.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, watch};
use tokio::time::{Duration, Instant};

use crate::holder::{MAX_UNSETTLED_WRITES, update};
use crate::{
    Finding, Lease, LeaseChange, LeaseFacts, LeaseHolder, LeaseStore, NextWrite, PendingCheckpoint, Position,
    ShardId, StoreError, StoreErrorKind, WorkerId, WriteOutcome,
};

/// How often one call takes a lease: once more when the first answer was lost and the row says that it is the worker's.
const MAX_TAKES: usize = 2;

/// How often one call writes again after it found an earlier write of its own applied late.
const MAX_LATE_ARRIVALS: usize = MAX_UNSETTLED_WRITES;

/// Proof of ownership for the application's own sinks: of two holders of a shard, the later one has the larger counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencingToken {
    /// The worker that took the lease.
    pub owner: WorkerId,
    /// The lease counter right after it was taken.
    pub counter: u64,
}

/// A lease that this worker took.
///
/// All writes go through here, one at a time, each conditional on the version that the one before left. After a write
/// whose outcome is unknown (or whose caller went away in the middle of it) the row is read again, strongly
/// consistent, before the next one. As soon as another worker stands in the row every call answers `Fenced`, for good.
///
/// The answer to each write is the whole row, so a request of another worker for the lease is learnt without reading:
/// [`hand_over_target`](Self::hand_over_target).
///
/// Every method is safe to cancel.
#[derive(Debug)]
pub struct HeldLease {
    store: Arc<dyn LeaseStore>,
    taken: Lease,
    token: FencingToken,
    fenced: AtomicBool,
    /// The row was found deleted, so long after the newest confirmed write.
    vanished_after: StdMutex<Option<Duration>>,
    /// The end of the shard was to be stored.
    ended: AtomicBool,
    /// Whoever asks for the lease, as of the newest answer.
    target: watch::Sender<Option<WorkerId>>,
    /// When the newest write known to be applied was asked for. Validity counts from before the request.
    confirmed_at: StdMutex<Instant>,
    holder: Mutex<LeaseHolder>,
}

impl HeldLease {
    /// Takes a lease for a worker, if it still stands as it was seen.
    ///
    /// # Errors
    /// `Conflict` when somebody else wrote first; `Unavailable` when the outcome is unknown and could not be settled
    /// (the row may then name this worker; taking it again is safe); the store's failures otherwise.
    pub async fn take(
        store: Arc<dyn LeaseStore>,
        seen: &Lease,
        worker_id: &WorkerId,
    ) -> Result<Self, StoreError> {
        Self::take_noting(store, seen, worker_id, LeaseFacts::default()).await
    }

    /// Takes a lease like [`take`](Self::take), and notes in the row, with the same write, what it lacks.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub async fn take_noting(
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
                // This take may have made it so, or an earlier one that arrived late. Since when the lease is valid only
                // an answer can tell.
                Some(row) if row.is_owned_by(worker_id) => seen = row,
                Some(row) if seen.version().matches(&row) => break,
                _ => return Err(conflict()),
            }
        }
        let why = format!("taking the lease of {shard_id} was not confirmed; it may be taken again");
        Err(StoreError::new(StoreErrorKind::Unavailable, why))
    }

    fn holding(store: Arc<dyn LeaseStore>, taken: Lease, worker_id: &WorkerId, asked_at: Instant) -> Self {
        Self {
            store,
            token: FencingToken { owner: worker_id.clone(), counter: taken.counter },
            fenced: AtomicBool::new(false),
            vanished_after: StdMutex::new(None),
            ended: AtomicBool::new(false),
            target: watch::channel(taken.hand_over_target().cloned()).0,
            confirmed_at: StdMutex::new(asked_at),
            holder: Mutex::new(LeaseHolder::new(worker_id.clone(), taken.clone())),
            taken,
        }
    }

    /// The shard.
    pub fn shard_id(&self) -> &ShardId {
        &self.taken.shard_id
    }

    /// The row as it was right after it was taken; its checkpoint is where reading starts.
    pub fn taken(&self) -> &Lease {
        &self.taken
    }

    /// The token that this holder passes to the application's own sinks.
    pub fn fencing_token(&self) -> &FencingToken {
        &self.token
    }

    /// When the newest write that is known to be applied was asked for. The lease is valid for the fail-over time from
    /// then on, counted from before the request, so the holder never believes in it longer than an observer does.
    pub fn confirmed_at(&self) -> Instant {
        *self.confirmed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all further writes of this holder: it no longer trusts that the lease is its own.
    pub fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    /// Whether this holder has lost the lease or gave it up.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// How long after the newest write that is known to be applied the row was found deleted, if it was. The holder is fenced
    /// then, though no other worker owns the lease.
    pub fn vanished_after(&self) -> Option<Duration> {
        *self.vanished_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this holder was to store that the shard is read to its end, whatever came of it.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether another worker asks for the lease, as far as this holder knows.
    pub fn is_asked_for(&self) -> bool {
        self.target.borrow().is_some()
    }

    /// Who asks for the lease, as far as this holder knows.
    pub fn newest_hand_over_target(&self) -> Option<WorkerId> {
        self.target.borrow().clone()
    }

    /// The row as far as this holder knows it.
    pub async fn last_known(&self) -> Lease {
        self.holder.lock().await.lease().clone()
    }

    /// Waits until another worker asks for the lease (or KCL 3.x has given it to another), and says which. It is learnt
    /// from the answers to this holder's own writes.
    pub async fn hand_over_target(&self) -> WorkerId {
        let mut target = self.target.subscribe();
        let found = target.wait_for(Option::is_some).await.ok().and_then(|target| target.clone());
        match found {
            Some(target) => target,
            // The sender lives as long as `self`, and what was waited for is there.
            None => std::future::pending().await,
        }
    }

    /// Renews the lease: its counter grows.
    ///
    /// # Errors
    /// `Fenced` when the lease belongs to another worker; `Throttled` and `Unavailable` may be tried again.
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.write(LeaseChange::Renew).await
    }

    /// Stores how far the shard is read, and the shards that follow when they are known. It is also a renewal.
    /// A position that is stored already is not written again.
    ///
    /// # Errors
    /// `Invalid` when the position lies behind the stored one; `Fenced` when the lease belongs to another worker;
    /// `Throttled` and `Unavailable` may be tried again.
    pub async fn checkpoint(&self, position: &Position, children: &[ShardId]) -> Result<(), StoreError> {
        self.ended.fetch_or(*position == Position::ShardEnd, Ordering::AcqRel);
        let children: BTreeSet<ShardId> = children.iter().cloned().collect();
        self.write(LeaseChange::Checkpoint { position: position.clone(), children }).await
    }

    /// Notes that a position is about to be stored, with bytes of the application, as the KCL's `prepareCheckpoint`
    /// does. Whoever takes the lease before the next checkpoint finds it in the row. It is also a renewal.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn prepare_checkpoint(
        &self,
        position: &Position,
        state: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        self.write(LeaseChange::Prepare(PendingCheckpoint { position: position.clone(), state })).await
    }

    /// Tells other workers that this one is ready to part with the lease. It is also a renewal.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub async fn offer(&self) -> Result<(), StoreError> {
        self.write(LeaseChange::Offer).await
    }

    /// Makes the worker that asks for the lease its owner. When that is done this holder writes no more.
    ///
    /// # Errors
    /// `Conflict` when that worker no longer asks for it, and the lease is still this holder's; `Fenced` when the lease already belongs to another worker; `Throttled` and `Unavailable` may be tried again, and
    /// if they are not, the lease is free when its fail-over time has passed.
    pub async fn hand_over(&self, new_owner: &WorkerId) -> Result<(), StoreError> {
        self.write_last(LeaseChange::HandOver { to: new_owner.clone() }).await
    }

    /// Gives the lease up, so that another worker may have it at once. When that is done this holder writes no more.
    ///
    /// # Errors
    /// `Conflict` when KCL 3.x has given the lease to another worker, to whom it is to be handed over; otherwise as
    /// [`hand_over`](Self::hand_over).
    pub async fn release(&self) -> Result<(), StoreError> {
        self.write_last(LeaseChange::Release).await
    }

    async fn write_last(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut holder = self.holder.lock().await;
        let written = self.write_in_turn(&mut holder, change).await;
        let is_still_held =
            |error: &StoreError| error.is_retryable() || error.kind() == StoreErrorKind::Conflict;
        if !written.as_ref().is_err_and(is_still_held) {
            // Before the next write has its turn: it would renew a lease that is another's, or nobody's.
            self.fence();
        }
        written
    }

    async fn write(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut holder = self.holder.lock().await;
        self.write_in_turn(&mut holder, change).await
    }

    async fn write_in_turn(&self, holder: &mut LeaseHolder, change: LeaseChange) -> Result<(), StoreError> {
        if holder.must_look() {
            let row = self.store.get(self.shard_id()).await?;
            let finding = holder.look(row.clone());
            self.act_on(finding, holder, row)?;
        }
        for _ in 0..=MAX_LATE_ARRIVALS {
            let asked_at = Instant::now();
            let is_fenced = self.is_fenced();
            let write = match holder.next_write(&change, is_fenced, asked_at)? {
                NextWrite::InEffect => return Ok(()),
                NextWrite::Full => break,
                NextWrite::Fenced => {
                    self.fence();
                    return Err(self.fenced_error((!is_fenced).then(|| holder.lease().clone())));
                }
                NextWrite::Send(write) => write,
            };
            match self.store.write(&write).await {
                Ok(WriteOutcome::Applied { lease: Some(lease) }) => {
                    holder.note_applied(lease);
                    self.learn(holder);
                    self.confirm(asked_at);
                    return Ok(());
                }
                Ok(WriteOutcome::Applied { lease: None }) => return Err(self.lose(None)),
                Ok(WriteOutcome::Lost { lease }) => {
                    // An earlier write of ours may have arrived late; then the lease is ours and this one goes again.
                    let finding = holder.note_refused(lease.clone());
                    self.act_on(finding, holder, lease)?;
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    let row = self.store.get(self.shard_id()).await;
                    let row = row.map_err(|_| unsettled(self.shard_id(), error))?;
                    let (finding, is_done) = holder.look_for_newest(row.clone());
                    self.act_on(finding, holder, row)?;
                    if is_done {
                        return Ok(());
                    }
                }
                Err(error) => {
                    holder.note_failed();
                    return Err(error);
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            format!("the writes to the lease of {} stay unconfirmed; try again", self.shard_id()),
        ))
    }

    /// Takes note of what a look at the row has shown.
    fn act_on(&self, finding: Finding, holder: &LeaseHolder, row: Option<Lease>) -> Result<(), StoreError> {
        match finding {
            Finding::Unchanged | Finding::HandOverBegun => self.learn(holder),
            Finding::Applied { asked_at, .. } => {
                self.learn(holder);
                self.confirm(asked_at);
            }
            Finding::Lost => return Err(self.lose(row)),
        }
        Ok(())
    }

    /// Takes note of who asks for the lease.
    fn learn(&self, holder: &LeaseHolder) {
        let target = holder.hand_over_target().cloned();
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
        if row.is_none() {
            let mut vanished_after = self.vanished_after.lock().unwrap_or_else(PoisonError::into_inner);
            vanished_after.get_or_insert_with(|| self.confirmed_at().elapsed());
        }
        self.fenced_error(row)
    }

    fn fenced_error(&self, row: Option<Lease>) -> StoreError {
        let now = match row.and_then(|row| row.owner) {
            Some(owner) => format!("; it belongs to {owner} now"),
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
            "a write to the lease of {shard_id} has no known outcome yet; it is settled before the next one"
        ),
    )
    .with_source(error)
}
