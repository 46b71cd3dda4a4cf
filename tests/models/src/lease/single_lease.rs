//! One lease: its row, what each worker knows of it, and the writes in flight.

use std::sync::LazyLock;

use lease_store::Verdict;
use tokio::time::{Duration, Instant};

use super::row::{Change, OLD, Row, Worker, Write, worker_id};
use crate::witness::Witnesses;

/// The fail-over time, in time steps of the model. A renewal is due after one step.
pub const FAILOVER_STEPS: u8 = 2;

/// One time step.
const STEP: Duration = Duration::from_secs(5);

/// The fail-over time.
pub(super) const FAILOVER_TIME: Duration = Duration::from_secs(5 * FAILOVER_STEPS as u64);

/// Most writes in flight.
const MAX_IN_FLIGHT: usize = 3;

/// An arbitrary instant that all others are relative to.
#[allow(clippy::disallowed_methods, reason = "all instants of the model are relative to it")]
pub(super) static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + STEP * 100);

/// Returns the instant that many steps ago.
pub(super) fn ago(steps: u8) -> Instant {
    *NOW - STEP * u32::from(steps)
}

/// Returns how many steps ago an instant was, up to the fail-over time.
pub(super) fn age_of(instant: Instant) -> u8 {
    age(NOW.saturating_duration_since(instant))
}

pub(super) fn age(duration: Duration) -> u8 {
    let steps = duration.as_secs() / STEP.as_secs();
    u8::try_from(steps).unwrap_or(FAILOVER_STEPS).min(FAILOVER_STEPS)
}

/// A promise that a step has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Violation {
    /// A write was applied although another write had been applied since its decision.
    StaleWriteApplied,
    /// A take displaced a holder before its fail-over time was over.
    LiveHolderDisplaced,
    /// The counter decreased, or stayed the same at a change of owner.
    CounterWentBack,
    /// The checkpoint moved back.
    CheckpointWentBack,
    /// A checkpoint passed a record that was not delivered and acknowledged.
    Skipped,
    /// A holder believed that a write was applied, and it was not.
    MistakenForApplied,
    /// A holder believed that it had lost the lease, or that a write was not applied, and was wrong.
    MistakenForLost,
    /// A holder renewed a lease that had expired for it.
    RenewedAfterExpiry,
    /// A holder wrote after it had released or lost the lease.
    WroteAfterRelease,
    /// The lease was handed over to a worker that had not requested it.
    HandedOverWithoutRequest,
}

/// The kinds of steps that a model must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A worker took a lease from its owner.
    Taken,
    /// A take of unknown outcome turned out to be applied.
    TakeSettled,
    /// A holder handed the lease over to its requester.
    HandedOver,
    /// A write of unknown outcome was applied.
    UnknownApplied,
    /// A write of unknown outcome was not applied.
    UnknownNotApplied,
    /// A holder found out that it had lost the lease.
    Lost,
    /// A holder released a lease that it could not renew in time.
    Expired,
    /// A holder found that a KCL 3.x leader had named another owner.
    KclHandOver,
    /// The shard was read and checkpointed to its last record.
    ReadToEnd,
}

impl From<Happened> for u32 {
    fn from(happened: Happened) -> Self {
        happened as Self
    }
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SingleLease {
    /// The row in the table.
    pub row: Row,
    /// The view of each worker.
    pub views: Vec<WorkerView>,
    /// Writes that the table may still apply.
    pub in_flight: Vec<InFlight>,
    /// The worker that wrote the row last, not counting requests.
    pub writer: Option<Worker>,
    /// The offset up to which records were delivered and acknowledged, by any worker.
    pub done: u8,
    /// The broken promise.
    pub violation: Option<Violation>,
}

/// What one worker knows of the lease, and does with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerView {
    /// Its last observation.
    pub observation: Observation,
    /// The lease, if it holds it.
    pub held: Option<HeldLease>,
    /// How many steps ago it sent a take that has no answer yet.
    pub taking: Option<u8>,
    /// Whether it has requested the lease.
    pub has_requested: bool,
}

/// The last observation of a watched lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Observation {
    /// For how many steps it has observed the current version; `None` when it observed another version or none.
    pub unchanged: Option<u8>,
    /// The owner and the request that it observed, and for how many steps.
    pub request: Option<(Option<Worker>, Worker, u8)>,
}

/// The lease as its holder knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldLease {
    /// The row as the holder knows it.
    pub row: Row,
    /// Its writes of unknown outcome.
    pub unsettled: Vec<Unsettled>,
    /// How many steps ago it sent its newest confirmed write.
    pub confirmed: u8,
    /// The call that it waits for.
    pub call: Option<Call>,
    /// The delivered, acknowledged and checkpointed offsets.
    pub marks: [u8; 3],
    /// The truth, which the holder cannot see: no other worker has written since the take.
    pub is_owner: bool,
}

/// A write whose outcome its holder does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unsettled {
    /// The write.
    pub write: Write,
    /// How many steps ago it was sent.
    pub sent: u8,
    /// The truth: whether it was applied.
    pub is_applied: bool,
}

/// A call of a holder in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// The change to write.
    pub change: Change,
    /// How many steps ago its newest write was sent.
    pub sent: u8,
}

/// A write in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InFlight {
    /// The write.
    pub write: Write,
    /// The sender.
    pub sender: Worker,
    /// The call that it belongs to.
    pub origin: Origin,
    /// Whether another write was applied since its decision.
    pub is_stale: bool,
}

/// The call that a write belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A call of the holder, with the index among its unsettled writes while it counts as one.
    Holder(Option<u8>),
    /// A take that the sender waits for.
    Take {
        /// Whether the lease was free: unowned, or not renewed for the fail-over time.
        is_free: bool,
    },
    /// No worker waits for it any more.
    Abandoned {
        /// Whether it was a take of a free lease.
        takes_free: bool,
    },
}

impl SingleLease {
    /// Creates an unowned lease.
    pub fn new(workers: usize) -> Self {
        Self {
            row: Row::default(),
            views: vec![WorkerView::default(); workers],
            in_flight: Vec::new(),
            writer: None,
            done: 0,
            violation: None,
        }
    }

    pub(super) fn view(&mut self, worker: Worker) -> &mut WorkerView {
        &mut self.views[usize::from(worker)]
    }

    pub(super) fn fail(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// Whether another write can be sent.
    pub fn has_capacity(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// Advances the time by one step.
    pub fn age(&mut self) {
        let grow = |age: &mut u8| *age = (*age + 1).min(FAILOVER_STEPS);
        for view in &mut self.views {
            view.observation.unchanged.iter_mut().for_each(grow);
            view.observation.request.iter_mut().for_each(|(_, _, age)| grow(age));
            view.taking.iter_mut().for_each(grow);
            if let Some(held) = &mut view.held {
                grow(&mut held.confirmed);
                held.call.iter_mut().for_each(|call| grow(&mut call.sent));
                held.unsettled.iter_mut().for_each(|write| grow(&mut write.sent));
            }
        }
    }

    /// Replaces the row in the table. All other counters become relative to the new one.
    pub(super) fn replace_row(&mut self, (mut row, ahead): (Row, i64)) {
        let old = self.row;
        let moves_owner = row.owner.is_some() && row.owner != old.owner && row.checkpoint_owner.is_none();
        if ahead < 0 || (moves_owner && ahead == 0) {
            self.fail(Violation::CounterWentBack);
        }
        if row.checkpoint < old.checkpoint {
            self.fail(Violation::CheckpointWentBack);
        }
        if row.checkpoint > self.done {
            self.fail(Violation::Skipped);
        }
        row.age = 0;
        let by = u8::try_from(ahead.max(0)).unwrap_or(OLD);
        let age = |age: &mut u8| *age = age.saturating_add(by).min(OLD);
        for view in &mut self.views {
            if let Some(held) = &mut view.held {
                age(&mut held.row.age);
                held.unsettled.iter_mut().for_each(|write| age(&mut write.write.expected.age));
            }
            if row.version() != old.version() || by > 0 {
                view.observation.unchanged = None;
            }
        }
        self.in_flight.iter_mut().for_each(|write| age(&mut write.write.expected.age));
        self.row = row;
    }

    /// Returns the row after a write; `None` when the table refuses it.
    pub(super) fn decide(&self, write: &Write) -> Option<(Row, i64)> {
        match write.full().decide(Some(&self.row.lease())) {
            Verdict::Applies(Some(lease)) => Some(Row::of(&lease)),
            Verdict::Applies(None) | Verdict::Refused => None,
        }
    }

    /// A write reaches the table and is applied or refused. Its answer arrives or is lost.
    pub fn arrive(&mut self, index: usize, is_answered: bool, witnesses: &Witnesses) {
        let InFlight { write, sender, origin, is_stale } = self.in_flight.remove(index);
        let result = self.decide(&write);
        if let Some(result) = result {
            if is_stale {
                self.fail(Violation::StaleWriteApplied);
            }
            if let Origin::Take { is_free: true } | Origin::Abandoned { takes_free: true } = origin {
                self.check_displaced(sender);
            }
            self.mark_stale(sender, origin);
            self.writer = Some(if let Change::HandOver(to) = write.change { to } else { sender });
            if let Change::HandOver(to) = write.change
                && self.row.lease().hand_over_target() != Some(&worker_id(to))
            {
                self.fail(Violation::HandedOverWithoutRequest);
            }
            if let Change::Take(_) = write.change
                && self.row.owner.is_some_and(|owner| owner != sender)
            {
                witnesses.record(Happened::Taken);
            }
            self.replace_row(result);
            let is_last = matches!(write.change, Change::Release | Change::HandOver(_));
            if let (Origin::Holder(index), Some(held)) = (origin, &mut self.view(sender).held) {
                if let Some(unsettled) = index.and_then(|index| held.unsettled.get_mut(usize::from(index))) {
                    unsettled.is_applied = true;
                }
                held.is_owner &= !is_last;
            }
            if matches!(write.change, Change::HandOver(_)) {
                witnesses.record(Happened::HandedOver);
            }
        }
        match origin {
            Origin::Holder(Some(index)) => {
                self.answer_holder(sender, index, result.is_some(), is_answered, witnesses);
            }
            Origin::Take { .. } => self.answer_take(sender, result.is_some(), is_answered),
            Origin::Holder(None) | Origin::Abandoned { .. } => {}
        }
    }

    /// A take of a free lease may displace only a holder whose fail-over time is over.
    fn check_displaced(&mut self, taker: Worker) {
        let holds = self.views.iter().zip(0..).filter(|(_, worker)| *worker != taker);
        let mut holds = holds.filter_map(|(view, _)| view.held.as_ref());
        if holds.any(|held| held.is_owner && held.confirmed < FAILOVER_STEPS) {
            self.fail(Violation::LiveHolderDisplaced);
        }
    }

    /// After an applied write, earlier decisions of other workers must not be applied.
    fn mark_stale(&mut self, sender: Worker, origin: Origin) {
        let is_of_holder = matches!(origin, Origin::Holder(_));
        for (view, worker) in self.views.iter_mut().zip(0..) {
            if !(is_of_holder && worker == sender)
                && let Some(held) = &mut view.held
            {
                held.is_owner = false;
            }
        }
        for write in &mut self.in_flight {
            let is_same_hold =
                is_of_holder && write.sender == sender && matches!(write.origin, Origin::Holder(_));
            write.is_stale |= !is_same_hold;
        }
    }

    /// Another library writes, with its own conditions.
    pub fn write_foreign(&mut self, row: Row, ahead: i64, leaves_hold: bool) {
        if !leaves_hold {
            self.mark_stale(u8::MAX, Origin::Abandoned { takes_free: false });
            self.writer = None;
        }
        self.done = self.done.max(row.checkpoint);
        self.replace_row((row, ahead));
    }

    /// Drops writes that can never be applied and that no worker waits for.
    pub fn tidy(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let (row, views) = (self.row.lease(), &self.views);
        self.in_flight.retain(|write| {
            let view = &views[usize::from(write.sender)];
            let is_awaited = match write.origin {
                Origin::Holder(Some(_)) => view.held.as_ref().is_some_and(|held| held.call.is_some()),
                Origin::Take { .. } => view.taking.is_some(),
                Origin::Holder(None) | Origin::Abandoned { .. } => false,
            };
            let can_be_applied =
                write.write.expected.age == 0 || write.write.full().decide(Some(&row)) != Verdict::Refused;
            is_awaited || can_be_applied
        });
        self.in_flight.sort_unstable();
    }

    pub(super) fn send(&mut self, write: Write, sender: Worker, origin: Origin) {
        // The decision used a row that has changed since then.
        let is_stale = match origin {
            Origin::Holder(_) => {
                self.views[usize::from(sender)].held.as_ref().is_some_and(|held| !held.is_owner)
            }
            Origin::Take { .. } | Origin::Abandoned { .. } => false,
        };
        self.in_flight.push(InFlight { write, sender, origin, is_stale });
    }

    /// Ends the holding of a worker. No worker waits for its writes any more.
    pub fn end_holding(&mut self, worker: Worker) {
        self.view(worker).held = None;
        self.view(worker).observation = Observation::default();
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Holder(_) = write.origin {
                write.origin = Origin::Abandoned { takes_free: false };
            }
        }
    }

    /// The process of a worker crashes, and one of the same name starts.
    pub fn crash(&mut self, worker: Worker) {
        self.end_holding(worker);
        *self.view(worker) = WorkerView::default();
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Take { is_free } = write.origin {
                write.origin = Origin::Abandoned { takes_free: is_free };
            }
        }
    }

    pub(super) fn renamed(&self, names: &[Worker]) -> Self {
        let mut lease = self.clone();
        lease.row.rename(names);
        lease.writer.iter_mut().for_each(|writer| *writer = names[usize::from(*writer)]);
        for (view, name) in self.views.iter().zip(names) {
            lease.views[usize::from(*name)] = view.clone();
        }
        for view in &mut lease.views {
            if let Some((owner, by, _)) = &mut view.observation.request {
                owner.iter_mut().for_each(|owner| *owner = names[usize::from(*owner)]);
                *by = names[usize::from(*by)];
            }
            if let Some(held) = &mut view.held {
                held.row.rename(names);
                held.unsettled.iter_mut().for_each(|write| write.write.rename(names));
                if let Some(Call { change: Change::HandOver(to), .. }) = &mut held.call {
                    *to = names[usize::from(*to)];
                }
            }
        }
        for write in &mut lease.in_flight {
            write.write.rename(names);
            write.sender = names[usize::from(write.sender)];
        }
        lease.in_flight.sort_unstable();
        lease
    }
}
