//! One lease: its row, what each worker knows and believes, and the writes that are under way.

use std::sync::LazyLock;

use lease_store::Verdict;
use tokio::time::{Duration, Instant};

use super::Happened;
use super::row::{Change, OLD, Row, Worker, Write, worker_id};
use crate::Witnesses;

/// The fail-over time, in steps of the time of the model. From one step on a renewal is due.
pub const FAILOVER_STEPS: u8 = 2;

/// One step of the time.
const STEP: Duration = Duration::from_secs(5);

/// The fail-over time.
pub(super) const FAILOVER_TIME: Duration = Duration::from_secs(5 * FAILOVER_STEPS as u64);

/// How many writes are under way at most.
const MAX_IN_FLIGHT: usize = 3;

/// Some instant, from which all others are told.
#[allow(clippy::disallowed_methods, reason = "the model counts in steps from it, whatever it is")]
pub(super) static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + STEP * 100);

/// The instant that lies so many steps back.
pub(super) fn ago(steps: u8) -> Instant {
    *NOW - STEP * u32::from(steps)
}

/// How many steps an instant lies back, up to the fail-over time.
pub(super) fn age_of(instant: Instant) -> u8 {
    age(NOW.saturating_duration_since(instant))
}

pub(super) fn age(duration: Duration) -> u8 {
    let steps = duration.as_secs() / STEP.as_secs();
    u8::try_from(steps).unwrap_or(FAILOVER_STEPS).min(FAILOVER_STEPS)
}

/// A promise that a step has broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A write of somebody was applied although another one had come in between.
    StaleWriteApplied,
    /// A take pushed out a holder whose fail-over time was not over.
    LiveHolderDisplaced,
    /// The counter of the row became smaller, or stood although the owner changed hands.
    CounterWentBack,
    /// The checkpoint of the row became smaller.
    CheckpointWentBack,
    /// A checkpoint passed what was delivered and acknowledged.
    Skipped,
    /// A holder took a write for applied that was not.
    TakenForApplied,
    /// A holder took the lease for lost that nobody had taken, or a write for open that was applied.
    TakenForLost,
    /// A lease was renewed that had expired for its holder.
    RenewedAfterExpiry,
    /// A holder that had given the lease up, or lost it, wrote again.
    WroteAfterwards,
    /// The lease went over to a worker that did not ask for it.
    HandedOverUnasked,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// What stands in the table.
    pub row: Row,
    /// What each worker has to do with it.
    pub parts: Vec<Part>,
    /// Writes that the table may still apply.
    pub in_flight: Vec<InFlight>,
    /// In whose name the row was written last, words for the owner aside.
    pub writer: Option<Worker>,
    /// Up to where records were delivered and acknowledged, by whomever.
    pub done: u8,
    /// What went wrong.
    pub broken: Option<Broken>,
}

/// What one worker has to do with the lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Part {
    /// What it saw when it looked last.
    pub seen: Seen,
    /// The lease in its hand.
    pub hold: Option<Hold>,
    /// How many steps ago a take was sent whose answer is still to come.
    pub taking: Option<u8>,
    /// It has asked for the lease.
    pub has_asked: bool,
}

/// What a worker remembers of a lease that it watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seen {
    /// For how many steps it has seen the version that stands in the table now; `None`: it saw another one, or none.
    pub unchanged: Option<u8>,
    /// The owner and the request that it saw, and for how many steps.
    pub request: Option<(Option<Worker>, Worker, u8)>,
}

/// The lease in the hand of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// The row as far as the holder knows it.
    pub row: Row,
    /// Its writes of unknown outcome.
    pub unsettled: Vec<Unsettled>,
    /// How many steps ago the newest write was asked for that is known to be applied.
    pub confirmed: u8,
    /// The write that it waits for.
    pub call: Option<Call>,
    /// The places that were delivered, acknowledged and checkpointed.
    pub marks: [u8; 3],
    /// Nobody else has written since the take: the truth, which the holder cannot see.
    pub owns: bool,
}

/// A write of a holder whose outcome it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unsettled {
    /// The write.
    pub write: Write,
    /// How many steps ago it was sent.
    pub asked: u8,
    /// The truth.
    pub is_applied: bool,
}

/// A call of a holder that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// What it is to write.
    pub change: Change,
    /// How many steps ago its newest write was sent.
    pub asked: u8,
}

/// A write under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InFlight {
    /// The write.
    pub write: Write,
    /// Who sent it.
    pub sender: Worker,
    /// On whose behalf.
    pub origin: Origin,
    /// Another write was applied since it was decided on.
    pub is_stale: bool,
}

/// What a write is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The hold of the sender, and which of its unsettled writes it is, as long as it counts as one.
    Hold(Option<u8>),
    /// The take that the sender waits for; whether it was for a lease that nobody had.
    Take {
        /// Unowned, or not renewed for the fail-over time.
        of_free: bool,
    },
    /// Nobody waits for it any more.
    Nobody {
        /// It was a take of a lease that nobody had.
        takes_free: bool,
    },
}

impl Cell {
    /// An unowned lease.
    pub fn new(workers: usize) -> Self {
        Self {
            row: Row::default(),
            parts: vec![Part::default(); workers],
            in_flight: Vec::new(),
            writer: None,
            done: 0,
            broken: None,
        }
    }

    pub(super) fn part(&mut self, worker: Worker) -> &mut Part {
        &mut self.parts[usize::from(worker)]
    }

    pub(super) fn fail(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// Whether there is room for another write.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// Time goes by.
    pub fn age(&mut self) {
        let grow = |age: &mut u8| *age = (*age + 1).min(FAILOVER_STEPS);
        for part in &mut self.parts {
            part.seen.unchanged.iter_mut().for_each(grow);
            part.seen.request.iter_mut().for_each(|(_, _, age)| grow(age));
            part.taking.iter_mut().for_each(grow);
            if let Some(hold) = &mut part.hold {
                grow(&mut hold.confirmed);
                hold.call.iter_mut().for_each(|call| grow(&mut call.asked));
                hold.unsettled.iter_mut().for_each(|write| grow(&mut write.asked));
            }
        }
    }

    /// Puts a row in the place of the one that stands there. All other counters are told from the new one.
    pub(super) fn replace_row(&mut self, (mut row, ahead): (Row, i64)) {
        let old = self.row;
        let moves_owner = row.owner.is_some() && row.owner != old.owner && row.checkpoint_owner.is_none();
        if ahead < 0 || (moves_owner && ahead == 0) {
            self.fail(Broken::CounterWentBack);
        }
        if row.checkpoint < old.checkpoint {
            self.fail(Broken::CheckpointWentBack);
        }
        if row.checkpoint > self.done {
            self.fail(Broken::Skipped);
        }
        row.age = 0;
        let by = u8::try_from(ahead.max(0)).unwrap_or(OLD);
        let age = |age: &mut u8| *age = age.saturating_add(by).min(OLD);
        for part in &mut self.parts {
            if let Some(hold) = &mut part.hold {
                age(&mut hold.row.age);
                hold.unsettled.iter_mut().for_each(|write| age(&mut write.write.expected.age));
            }
            if row.version() != old.version() || by > 0 {
                part.seen.unchanged = None;
            }
        }
        self.in_flight.iter_mut().for_each(|write| age(&mut write.write.expected.age));
        self.row = row;
    }

    /// What the table makes of a write.
    pub(super) fn decide(&self, write: &Write) -> Option<(Row, i64)> {
        match write.full().decide(Some(&self.row.lease())) {
            Verdict::Applies(Some(lease)) => Some(Row::of(&lease)),
            Verdict::Applies(None) | Verdict::Refused => None,
        }
    }

    /// A write reaches the table, and is applied or refused. The answer gets back or not.
    pub fn deliver(&mut self, index: usize, is_answered: bool, witnesses: &Witnesses) {
        let InFlight { write, sender, origin, is_stale } = self.in_flight.remove(index);
        let result = self.decide(&write);
        if let Some(result) = result {
            if is_stale {
                self.fail(Broken::StaleWriteApplied);
            }
            if let Origin::Take { of_free: true } | Origin::Nobody { takes_free: true } = origin {
                self.check_displaced(sender);
            }
            self.mark_stale(sender, origin);
            self.writer = Some(if let Change::HandOver(to) = write.change { to } else { sender });
            if let Change::HandOver(to) = write.change
                && self.row.lease().hand_over_target() != Some(&worker_id(to))
            {
                self.fail(Broken::HandedOverUnasked);
            }
            if let Change::Take(_) = write.change
                && self.row.owner.is_some_and(|owner| owner != sender)
            {
                witnesses.saw(Happened::Taken);
            }
            self.replace_row(result);
            let is_last = matches!(write.change, Change::Release | Change::HandOver(_));
            if let (Origin::Hold(place), Some(hold)) = (origin, &mut self.part(sender).hold) {
                if let Some(unsettled) = place.and_then(|place| hold.unsettled.get_mut(usize::from(place))) {
                    unsettled.is_applied = true;
                }
                hold.owns &= !is_last;
            }
            if matches!(write.change, Change::HandOver(_)) {
                witnesses.saw(Happened::HandedOver);
            }
        }
        match origin {
            Origin::Hold(Some(place)) => {
                self.answer_hold(sender, place, result.is_some(), is_answered, witnesses);
            }
            Origin::Take { .. } => self.answer_take(sender, result.is_some(), is_answered),
            Origin::Hold(None) | Origin::Nobody { .. } => {}
        }
    }

    /// A take of a free lease may push out only a holder whose fail-over time is over.
    fn check_displaced(&mut self, taker: Worker) {
        let holds = self.parts.iter().zip(0..).filter(|(_, worker)| *worker != taker);
        let mut holds = holds.filter_map(|(part, _)| part.hold.as_ref());
        if holds.any(|hold| hold.owns && hold.confirmed < FAILOVER_STEPS) {
            self.fail(Broken::LiveHolderDisplaced);
        }
    }

    /// A write was applied: all that was decided on before it, by others, must not be.
    fn mark_stale(&mut self, sender: Worker, origin: Origin) {
        let is_of_holder = matches!(origin, Origin::Hold(_));
        for (part, worker) in self.parts.iter_mut().zip(0..) {
            if !(is_of_holder && worker == sender)
                && let Some(hold) = &mut part.hold
            {
                hold.owns = false;
            }
        }
        for write in &mut self.in_flight {
            let is_same_hold =
                is_of_holder && write.sender == sender && matches!(write.origin, Origin::Hold(_));
            write.is_stale |= !is_same_hold;
        }
    }

    /// Another library writes, with conditions of its own.
    pub fn write_foreign(&mut self, row: Row, ahead: i64, leaves_hold: bool) {
        if !leaves_hold {
            self.mark_stale(u8::MAX, Origin::Nobody { takes_free: false });
            self.writer = None;
        }
        self.done = self.done.max(row.checkpoint);
        self.replace_row((row, ahead));
    }

    /// Forgets writes that can never be applied and that nobody waits for.
    pub fn tidy(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let (row, parts) = (self.row.lease(), &self.parts);
        self.in_flight.retain(|write| {
            let part = &parts[usize::from(write.sender)];
            let is_awaited = match write.origin {
                Origin::Hold(Some(_)) => part.hold.as_ref().is_some_and(|hold| hold.call.is_some()),
                Origin::Take { .. } => part.taking.is_some(),
                Origin::Hold(None) | Origin::Nobody { .. } => false,
            };
            let can_be_applied =
                write.write.expected.age == 0 || write.write.full().decide(Some(&row)) != Verdict::Refused;
            is_awaited || can_be_applied
        });
        self.in_flight.sort_unstable();
    }

    pub(super) fn send(&mut self, write: Write, sender: Worker, origin: Origin) {
        // Decided on with a row that has changed since then.
        let is_stale = match origin {
            Origin::Hold(_) => self.parts[usize::from(sender)].hold.as_ref().is_some_and(|hold| !hold.owns),
            Origin::Take { .. } | Origin::Nobody { .. } => false,
        };
        self.in_flight.push(InFlight { write, sender, origin, is_stale });
    }

    /// The worker is gone, or has let go: nobody waits for its writes any more.
    pub fn end_hold(&mut self, worker: Worker) {
        self.part(worker).hold = None;
        self.part(worker).seen = Seen::default();
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Hold(_) = write.origin {
                write.origin = Origin::Nobody { takes_free: false };
            }
        }
    }

    /// The process of a worker dies, and one of the same name starts.
    pub fn crash(&mut self, worker: Worker) {
        self.end_hold(worker);
        *self.part(worker) = Part::default();
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Take { of_free } = write.origin {
                write.origin = Origin::Nobody { takes_free: of_free };
            }
        }
    }

    pub(super) fn renamed(&self, names: &[Worker]) -> Self {
        let mut cell = self.clone();
        cell.row.rename(names);
        cell.writer.iter_mut().for_each(|writer| *writer = names[usize::from(*writer)]);
        for (part, name) in self.parts.iter().zip(names) {
            cell.parts[usize::from(*name)] = part.clone();
        }
        for part in &mut cell.parts {
            if let Some((owner, by, _)) = &mut part.seen.request {
                owner.iter_mut().for_each(|owner| *owner = names[usize::from(*owner)]);
                *by = names[usize::from(*by)];
            }
            if let Some(hold) = &mut part.hold {
                hold.row.rename(names);
                hold.unsettled.iter_mut().for_each(|write| write.write.rename(names));
                if let Some(Call { change: Change::HandOver(to), .. }) = &mut hold.call {
                    *to = names[usize::from(*to)];
                }
            }
        }
        for write in &mut cell.in_flight {
            write.write.rename(names);
            write.sender = names[usize::from(write.sender)];
        }
        cell.in_flight.sort_unstable();
        cell
    }
}
