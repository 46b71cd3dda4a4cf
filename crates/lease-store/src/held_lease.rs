//! A lease in the hand of a worker: its writes one after another, and unknown outcomes settled before the next.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::{
    Lease, LeaseChange, LeaseFacts, LeaseStore, LeaseVersion, LeaseWrite, PendingCheckpoint, Position,
    ShardId, StoreError, StoreErrorKind, Verdict, WorkerId, WriteOutcome,
};

/// How many writes of unknown outcome one lease may have before further ones are refused.
const MAX_UNSETTLED_WRITES: usize = 8;

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
    /// The row was found deleted.
    vanished: AtomicBool,
    /// Whoever asks for the lease, as of the newest answer.
    target: watch::Sender<Option<WorkerId>>,
    /// When the newest write known to be applied was asked for. Validity counts from before the request.
    confirmed_at: StdMutex<Instant>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The row as far as this worker knows it.
    lease: Lease,
    /// Writes against `lease` that may have been applied, or may still be.
    unsettled: Vec<UnsettledWrite>,
}

#[derive(Debug, Clone)]
struct UnsettledWrite {
    write: LeaseWrite,
    asked_at: Instant,
}

/// What a fresh look at the row says about the writes of unknown outcome.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// None was applied so far; one may still be.
    Unchanged,
    /// This one was.
    Applied { asked_at: Instant },
    /// None was applied, and none can be any more: a KCL 3.x leader named another owner, for whom this holder is to
    /// finish.
    HandOverBegun,
    /// Somebody else wrote.
    Lost,
}

impl State {
    /// Compares the row with what each unsettled write would have made of it.
    fn find(&self, row: Option<&Lease>) -> Finding {
        let Some(row) = row else { return Finding::Lost };
        let version = self.lease.version();
        if version.matches(row) {
            return Finding::Unchanged;
        }
        if is_being_handed_over(&version, row) {
            return Finding::HandOverBegun;
        }
        let applied =
            self.unsettled.iter().find(|unsettled| match unsettled.write.decide(Some(&self.lease)) {
                Verdict::Applies(Some(result)) => {
                    let version = result.version();
                    let is_result = version.matches(row) || is_being_handed_over(&version, row);
                    is_result && result.checkpoint == row.checkpoint
                }
                Verdict::Applies(None) | Verdict::Refused => false,
            });
        applied.map_or(Finding::Lost, |unsettled| Finding::Applied { asked_at: unsettled.asked_at })
    }
}

/// Whether a KCL 3.x leader gave the lease of this holder to another worker and left everything else to the holder: the
/// counter stands, and the holder stands in the row as the one still processing (`initiateGracefulLeaseHandoff`).
fn is_being_handed_over(held: &LeaseVersion, row: &Lease) -> bool {
    held.checkpoint_owner.is_none()
        && held.counter == row.counter
        && held.owner.is_some()
        && held.owner == row.checkpoint_owner
        && row.owner.is_some()
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
        let asked_at = Instant::now();
        let write = update(seen, LeaseChange::Take { owner: worker_id.clone(), facts });
        let row = match store.write(&write).await? {
            WriteOutcome::Applied { lease } => lease,
            WriteOutcome::Lost { .. } => None,
            WriteOutcome::Unknown(error) => {
                let row = store.get(&seen.shard_id).await.map_err(|_| unsettled(&seen.shard_id, error))?;
                let state =
                    State { lease: seen.clone(), unsettled: vec![UnsettledWrite { write, asked_at }] };
                match state.find(row.as_ref()) {
                    Finding::Applied { .. } => row,
                    Finding::Lost | Finding::HandOverBegun => None,
                    Finding::Unchanged => {
                        return Err(StoreError::new(
                            StoreErrorKind::Unavailable,
                            format!(
                                "taking the lease of {} was not confirmed; it may be taken again",
                                seen.shard_id
                            ),
                        ));
                    }
                }
            }
        };
        let taken = row.ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Conflict,
                format!("the lease of {} changed before {worker_id} could take it", seen.shard_id),
            )
        })?;
        Ok(Self {
            store,
            token: FencingToken { owner: worker_id.clone(), counter: taken.counter },
            fenced: AtomicBool::new(false),
            vanished: AtomicBool::new(false),
            target: watch::channel(taken.hand_over_target().cloned()).0,
            confirmed_at: StdMutex::new(asked_at),
            state: Mutex::new(State { lease: taken.clone(), unsettled: Vec::new() }),
            taken,
        })
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

    /// Whether the row was found deleted. The holder is fenced then, though no other worker owns the lease.
    pub fn has_vanished(&self) -> bool {
        self.vanished.load(Ordering::Acquire)
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
        self.state.lock().await.lease.clone()
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
    /// As [`hand_over`](Self::hand_over).
    pub async fn release(&self) -> Result<(), StoreError> {
        self.write_last(LeaseChange::Release).await
    }

    async fn write_last(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let written = self.write_in_turn(&mut state, change).await;
        let is_still_held =
            |error: &StoreError| error.is_retryable() || error.kind() == StoreErrorKind::Conflict;
        if !written.as_ref().is_err_and(is_still_held) {
            // Before the next write has its turn: it would renew a lease that is another's, or nobody's.
            self.fence();
        }
        written
    }

    async fn write(&self, change: LeaseChange) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        self.write_in_turn(&mut state, change).await
    }

    async fn write_in_turn(&self, state: &mut State, change: LeaseChange) -> Result<(), StoreError> {
        if !state.unsettled.is_empty() {
            let row = self.store.get(self.shard_id()).await?;
            self.settle(state, row)?;
        }
        for _ in 0..=MAX_LATE_ARRIVALS {
            if self.is_fenced() {
                return Err(self.fenced_error(None));
            }
            if is_in_effect(&state.lease, &change)? {
                return Ok(());
            }
            if !self.is_held_in(&state.lease) {
                // An earlier last write, whose outcome was unknown, turned out to be applied: the row is another's.
                self.fence();
                return Err(self.fenced_error(Some(state.lease.clone())));
            }
            if state.unsettled.len() >= MAX_UNSETTLED_WRITES {
                break;
            }
            let asked_at = Instant::now();
            let write = update(&state.lease, change.clone());
            // Noted before the call: if the caller goes away in the middle of it, the next call settles it.
            let noted = state.unsettled.len();
            state.unsettled.push(UnsettledWrite { write: write.clone(), asked_at });
            match self.store.write(&write).await {
                Ok(WriteOutcome::Applied { lease: Some(lease) }) => {
                    self.adopt(state, lease);
                    self.confirm(asked_at);
                    return Ok(());
                }
                Ok(WriteOutcome::Applied { lease: None }) => return Err(self.lose(None)),
                Ok(WriteOutcome::Lost { lease }) => {
                    state.unsettled.truncate(noted);
                    // An earlier write of ours may have arrived late; then the lease is ours and this one goes again.
                    self.settle(state, lease)?;
                }
                Ok(WriteOutcome::Unknown(error)) => {
                    let row = self.store.get(self.shard_id()).await;
                    let row = row.map_err(|_| unsettled(self.shard_id(), error))?;
                    if self.settle(state, row)? == Some(asked_at) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    state.unsettled.truncate(noted);
                    return Err(error);
                }
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            format!("the writes to the lease of {} stay unconfirmed; try again", self.shard_id()),
        ))
    }

    /// Whether a row is this holder's: it is the owner, or the one still processing in a hand-over of KCL 3.x.
    fn is_held_in(&self, lease: &Lease) -> bool {
        let me = Some(&self.token.owner);
        lease.owner.as_ref() == me || lease.checkpoint_owner.as_ref() == me
    }

    /// Takes a fresh look at the row into account: when the write that turned out to be applied was asked for, if one
    /// was.
    fn settle(&self, state: &mut State, row: Option<Lease>) -> Result<Option<Instant>, StoreError> {
        match state.find(row.as_ref()) {
            Finding::Unchanged => {
                if let Some(row) = row {
                    // The version is the same, but a request may have come or gone.
                    self.learn(&row);
                    state.lease = row;
                }
                Ok(None)
            }
            Finding::Applied { asked_at } => {
                if let Some(row) = row {
                    self.adopt(state, row);
                }
                self.confirm(asked_at);
                Ok(Some(asked_at))
            }
            Finding::HandOverBegun => {
                if let Some(row) = row {
                    self.adopt(state, row);
                }
                Ok(None)
            }
            Finding::Lost => Err(self.lose(row)),
        }
    }

    /// Takes a row over that is this holder's.
    fn adopt(&self, state: &mut State, row: Lease) {
        self.learn(&row);
        state.lease = row;
        state.unsettled.clear();
    }

    /// Takes note of who asks for the lease.
    fn learn(&self, row: &Lease) {
        let target = row.hand_over_target().filter(|target| **target != self.token.owner).cloned();
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
        self.vanished.fetch_or(row.is_none(), Ordering::AcqRel);
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

/// Whether the row already says what the change would make it say, so that nothing needs to be written.
fn is_in_effect(lease: &Lease, change: &LeaseChange) -> Result<bool, StoreError> {
    match change {
        LeaseChange::Checkpoint { position, children } => {
            check_forward(lease, position)?;
            Ok(position == &lease.checkpoint && children.is_subset(&lease.children))
        }
        LeaseChange::Prepare(pending) => {
            check_forward(lease, &pending.position)?;
            Ok(lease.pending_checkpoint.as_ref() == Some(pending))
        }
        LeaseChange::Release => Ok(lease.owner.is_none()),
        LeaseChange::HandOver { to } if lease.is_owned_by(to) && lease.checkpoint_owner.is_none() => Ok(true),
        LeaseChange::HandOver { to } if lease.hand_over_target() != Some(to) => Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!("{to} no longer asks for the lease of {}; release it, or keep it", lease.shard_id),
        )),
        LeaseChange::HandOver { .. } => Ok(false),
        LeaseChange::Renew
        | LeaseChange::Offer
        | LeaseChange::Take { .. }
        | LeaseChange::Request { .. }
        | LeaseChange::Withdraw { .. } => Ok(false),
    }
}

fn check_forward(lease: &Lease, position: &Position) -> Result<(), StoreError> {
    if position < &lease.checkpoint {
        return Err(StoreError::invalid(format!(
            "checkpoint {position} of {} lies behind the stored {}; checkpoints only move forward",
            lease.shard_id, lease.checkpoint
        )));
    }
    Ok(())
}

fn update(seen: &Lease, change: LeaseChange) -> LeaseWrite {
    LeaseWrite::Update { shard_id: seen.shard_id.clone(), expected: seen.version(), change }
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
