//! Those who hold a lease: they renew it, read, checkpoint, and give it up.

use checkpointer::Watermarks;
use lease_store::{Finding, LeaseHolder, NextWrite, UnsettledWrite, Verdict};
use receiver::{Renewal, renewal};

use super::Happened;
use super::cell::{
    Broken, Call, Cell, FAILOVER_STEPS, FAILOVER_TIME, Hold, NOW, Origin, Part, Unsettled, age_of, ago,
};
use super::row::{Change, Row, Worker, Write, place_of, position, worker_id};
use crate::Witnesses;

impl Cell {
    /// A holder that waits for nothing begins to write.
    pub fn begin(&mut self, worker: Worker, change: Change, witnesses: &Witnesses) -> bool {
        let row = self.row;
        let Some(hold) = &mut self.part(worker).hold else { return false };
        let mut holder = hold.holder(worker);
        if holder.must_look() {
            let finding = holder.look(Some(row.lease()));
            if !self.act_on(worker, finding, &holder, witnesses) {
                return true;
            }
        }
        self.write_on(worker, change, holder)
    }

    /// Sends what the holder has to write next, if it has.
    fn write_on(&mut self, worker: Worker, change: Change, mut holder: LeaseHolder) -> bool {
        let Some(hold) = &mut self.part(worker).hold else { return false };
        match holder.next_write(&change.full(), false, *NOW) {
            Ok(NextWrite::Send(write)) => {
                let write = Write::of(&write, change);
                let place = u8::try_from(hold.unsettled.len()).unwrap_or(u8::MAX);
                hold.unsettled.push(Unsettled { write, asked: 0, is_applied: false });
                hold.call = Some(Call { change, asked: 0 });
                self.send(write, worker, Origin::Hold(Some(place)));
            }
            Ok(NextWrite::InEffect) => self.conclude(worker, change),
            Ok(NextWrite::Fenced) => self.end_hold(worker),
            // Too many writes are open, or nobody asks for the lease any more.
            Ok(NextWrite::Full) | Err(_) => {
                let was_waiting = hold.call.take().is_some();
                return was_waiting;
            }
        }
        true
    }

    /// A call has succeeded.
    fn conclude(&mut self, worker: Worker, change: Change) {
        let Some(hold) = &mut self.part(worker).hold else { return };
        hold.call = None;
        match change {
            Change::Checkpoint(place) => {
                let mut marks = hold.watermarks();
                marks.checkpoint(position(place));
                hold.set_watermarks(&marks);
            }
            Change::Release | Change::HandOver(_) => self.fence(worker),
            _ => {}
        }
    }

    pub(super) fn answer_hold(
        &mut self,
        worker: Worker,
        place: u8,
        is_applied: bool,
        is_answered: bool,
        witnesses: &Witnesses,
    ) {
        let row = self.row;
        let Some(hold) = &mut self.part(worker).hold else { return };
        let is_newest = usize::from(place) + 1 == hold.unsettled.len();
        let Some(call) = hold.call.filter(|_| is_newest && is_answered) else { return };
        let (change, asked) = (call.change, call.asked);
        let mut holder = hold.holder(worker);
        if is_applied {
            holder.note_applied(row.lease());
            hold.adopt(&holder);
            hold.confirmed = asked;
            self.unlink(worker, None);
            self.conclude(worker, change);
        } else {
            // The in-flight writes keep their places: only the newest goes.
            let finding = holder.note_refused(Some(row.lease()));
            hold.unsettled.pop();
            if self.act_on(worker, finding, &holder, witnesses) {
                self.write_on(worker, change, holder);
            }
        }
    }

    /// No answer comes to the write of a holder, and whoever waited goes away, or the row cannot be read.
    pub fn abandon_call(&mut self, worker: Worker) -> bool {
        self.part(worker).hold.as_mut().is_some_and(|hold| hold.call.take().is_some())
    }

    /// No answer comes to the write of a holder, and it reads the row to learn what became of it.
    pub fn settle_call(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let row = self.row;
        let Some(hold) = &mut self.part(worker).hold else { return false };
        let Some(call) = hold.call else { return false };
        let mut holder = hold.holder(worker);
        let was_applied = hold.unsettled.last().is_some_and(|newest| newest.is_applied);
        let (finding, is_done) = holder.look_for_newest(Some(row.lease()));
        witnesses.saw(if was_applied { Happened::UnknownApplied } else { Happened::UnknownNotApplied });
        // Whether it was the hand-over or the take of who asked for it makes no difference: the lease is the other's.
        let is_anothers = row.owner.is_some_and(|owner| owner != worker);
        if is_done && !was_applied && !is_anothers {
            self.fail(Broken::TakenForApplied);
        }
        if !self.act_on(worker, finding, &holder, witnesses) {
            return true;
        }
        if is_done {
            self.conclude(worker, call.change);
            true
        } else {
            self.write_on(worker, call.change, holder)
        }
    }

    /// Takes over what a look at the row has shown; `false` when the lease is lost.
    fn act_on(
        &mut self,
        worker: Worker,
        finding: Finding,
        holder: &LeaseHolder,
        witnesses: &Witnesses,
    ) -> bool {
        let is_anothers = self.row.owner.is_some_and(|owner| owner != worker);
        let Some(hold) = &mut self.part(worker).hold else { return false };
        let applied = hold.unsettled.iter().find(|write| write.is_applied).copied();
        match finding {
            Finding::Applied { asked_at, .. } => {
                hold.confirmed = age_of(asked_at);
                hold.adopt(holder);
                self.unlink(worker, None);
                // Which of several equal writes it was cannot be told, and does not matter; it is younger than it is taken for.
                if applied.is_none_or(|write| write.asked > age_of(asked_at)) && !is_anothers {
                    self.fail(Broken::TakenForApplied);
                }
            }
            Finding::Unchanged => {
                hold.adopt(holder);
                if applied.is_some() {
                    self.fail(Broken::TakenForLost);
                }
            }
            Finding::HandOverBegun => {
                hold.adopt(holder);
                self.unlink(worker, None);
                witnesses.saw(Happened::KclHandOver);
            }
            Finding::Lost => {
                if hold.owns {
                    self.fail(Broken::TakenForLost);
                }
                witnesses.saw(Happened::Lost);
                self.end_hold(worker);
                return false;
            }
        }
        true
    }

    /// The writes of a holder that no longer count as unsettled.
    fn unlink(&mut self, worker: Worker, place: Option<u8>) {
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Hold(known) = &mut write.origin {
                *known = place;
            }
        }
    }

    /// What the keeper of the lease does now; `false`: nothing.
    pub fn keep(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let has_room = self.has_room();
        let Some(hold) = &self.part(worker).hold else { return false };
        let confirmed = hold.confirmed;
        match renewal(ago(confirmed), FAILOVER_TIME, *NOW) {
            Renewal::NotBefore(_) => false,
            Renewal::Expired => {
                witnesses.saw(Happened::GivenUp);
                self.fence(worker);
                true
            }
            Renewal::Due { .. } => {
                if hold.call.is_some() || !has_room {
                    return false;
                }
                let is_asked = hold.holder(worker).hand_over_target().is_some();
                if confirmed >= FAILOVER_STEPS {
                    self.fail(Broken::RenewedAfterExpiry);
                }
                self.begin(worker, if is_asked { Change::Offer } else { Change::Renew }, witnesses)
            }
        }
    }

    /// A record is handed to the application.
    pub fn deliver_record(&mut self, worker: Worker) -> bool {
        let Some(hold) = &mut self.part(worker).hold else { return false };
        let mut marks = hold.watermarks();
        marks.deliver(position(hold.marks[0] + 1));
        hold.set_watermarks(&marks);
        true
    }

    /// The application says that it is done with everything up to a place.
    pub fn acknowledge(&mut self, worker: Worker, place: u8) -> bool {
        let Some(hold) = &mut self.part(worker).hold else { return false };
        let (mut marks, before) = (hold.watermarks(), hold.marks);
        if marks.acknowledge(position(place)).is_err() {
            return false;
        }
        hold.set_watermarks(&marks);
        let has_changed = hold.marks != before;
        if place <= before[0] {
            self.done = self.done.max(place);
        }
        has_changed
    }

    /// What is acknowledged and not written yet is written.
    pub fn checkpoint(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let Some(hold) = &self.part(worker).hold else { return false };
        let Some(place) = hold.watermarks().unwritten().map(place_of) else { return false };
        self.begin(worker, Change::Checkpoint(place), witnesses)
    }

    /// The last write: the lease goes to whoever asks for it, or is free.
    pub fn give_up(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let Some(hold) = &self.part(worker).hold else { return false };
        let holder = hold.holder(worker);
        let target =
            holder.hand_over_target().and_then(|target| (0..).find(|worker| worker_id(*worker) == *target));
        self.begin(worker, target.map_or(Change::Release, Change::HandOver), witnesses)
    }

    /// The holder trusts no longer that the lease is its own, or has given it up. Whatever is still about to be written is not.
    fn fence(&mut self, worker: Worker) {
        let Some(hold) = &self.part(worker).hold else { return };
        let changes = [Change::Renew, Change::Checkpoint(hold.row.checkpoint + 1), Change::Release];
        let writes = changes.map(|change| hold.holder(worker).next_write(&change.full(), true, *NOW));
        if writes.iter().any(|write| matches!(write, Ok(NextWrite::Send(_)))) {
            self.fail(Broken::WroteAfterwards);
        }
        self.end_hold(worker);
    }

    /// How many workers hold the lease and could write to it now.
    pub fn writers(&self) -> usize {
        let holders = self.parts.iter().filter(|part| part.hold.is_some()).count();
        if holders < 2 {
            return holders;
        }
        let row = self.row.lease();
        let can_write = |(part, worker): &(&Part, Worker)| {
            part.hold.as_ref().is_some_and(|hold| {
                let next = hold.holder(*worker).next_write(&Change::Renew.full(), false, *NOW);
                matches!(next, Ok(NextWrite::Send(write)) if write.decide(Some(&row)) != Verdict::Refused)
            })
        };
        self.parts.iter().zip(0..).filter(can_write).count()
    }
}

impl Hold {
    pub(super) fn holder(&self, worker: Worker) -> LeaseHolder {
        let unsettled = self.unsettled.iter();
        let unsettled =
            unsettled.map(|write| UnsettledWrite { write: write.write.full(), asked_at: ago(write.asked) });
        LeaseHolder::with_unsettled(worker_id(worker), self.row.lease(), unsettled.collect())
    }

    /// Takes over what the holder knows; what it forgets is forgotten here too.
    fn adopt(&mut self, holder: &LeaseHolder) {
        self.row = Row::of(holder.lease()).0;
        if holder.unsettled().is_empty() {
            self.unsettled.clear();
        }
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        let mut marks = Watermarks::starting_at(position(self.marks[2]));
        marks.deliver(position(self.marks[0]));
        let _ = marks.acknowledge(position(self.marks[1]));
        marks
    }

    pub(super) fn set_watermarks(&mut self, marks: &Watermarks) {
        self.marks =
            [place_of(marks.delivered()), place_of(marks.acknowledged()), place_of(marks.checkpointed())];
    }
}
