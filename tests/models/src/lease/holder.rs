//! The steps of the workers that hold a lease: renew, read, checkpoint, release.

use checkpointer::Watermarks;
use lease_store::Verdict;

use super::row::{Change, Row, Worker, Write, offset_of, position, worker_id};
use super::single_lease::{
    Call, FAILOVER_STEPS, FAILOVER_TIME, Happened, HeldLease, NOW, Origin, SingleLease, Unsettled, Violation,
    WorkerView, age_of, ago,
};
use crate::internals::{LeaseState, NextWrite, ReadBack, Renewal, UnsettledWrite, renewal};
use crate::witness::Witnesses;

impl SingleLease {
    /// A holder without a call starts to write.
    pub fn begin(&mut self, worker: Worker, change: Change, witnesses: &Witnesses) -> bool {
        let row = self.row;
        let Some(held) = &mut self.view(worker).held else { return false };
        let mut holder = held.holder(worker);
        if holder.must_read_back() {
            let finding = holder.read_back(Some(row.lease()));
            if !self.act_on(worker, finding, &holder, witnesses) {
                return true;
            }
        }
        self.write_on(worker, change, holder)
    }

    /// Sends the holder's next write, if there is one.
    fn write_on(&mut self, worker: Worker, change: Change, mut holder: LeaseState) -> bool {
        let Some(held) = &mut self.view(worker).held else { return false };
        match holder.next_write(&change.full(), false, *NOW) {
            Ok(NextWrite::Send(write)) => {
                let write = Write::of(&write, change);
                let index = u8::try_from(held.unsettled.len()).unwrap_or(u8::MAX);
                held.unsettled.push(Unsettled { write, sent: 0, is_applied: false });
                held.call = Some(Call { change, sent: 0 });
                self.send(write, worker, Origin::Holder(Some(index)));
            }
            Ok(NextWrite::InEffect) => self.conclude(worker, change),
            Ok(NextWrite::Fenced) => self.end_holding(worker),
            // Too many writes are unsettled, or no worker requests the lease any more.
            Ok(NextWrite::Full) | Err(_) => {
                let was_waiting = held.call.take().is_some();
                return was_waiting;
            }
        }
        true
    }

    /// A call has succeeded.
    fn conclude(&mut self, worker: Worker, change: Change) {
        let Some(held) = &mut self.view(worker).held else { return };
        held.call = None;
        match change {
            Change::Checkpoint(offset) => {
                let mut marks = held.watermarks();
                marks.checkpoint(position(offset));
                held.set_watermarks(&marks);
            }
            Change::Release | Change::HandOver(_) => self.fence(worker),
            _ => {}
        }
    }

    pub(super) fn answer_holder(
        &mut self,
        worker: Worker,
        index: u8,
        is_applied: bool,
        is_answered: bool,
        witnesses: &Witnesses,
    ) {
        let row = self.row;
        let Some(held) = &mut self.view(worker).held else { return };
        let is_newest = usize::from(index) + 1 == held.unsettled.len();
        let Some(call) = held.call.filter(|_| is_newest && is_answered) else { return };
        let (change, sent) = (call.change, call.sent);
        let mut holder = held.holder(worker);
        if is_applied {
            holder.record_applied(row.lease());
            held.adopt(&holder);
            held.confirmed = sent;
            self.unlink(worker, None);
            self.conclude(worker, change);
        } else {
            // The other unsettled writes keep their indexes; only the newest is removed.
            let finding = holder.record_refused(Some(row.lease()));
            held.unsettled.pop();
            if self.act_on(worker, finding, &holder, witnesses) {
                self.write_on(worker, change, holder);
            }
        }
    }

    /// The holder's write gets no answer, and its caller was cancelled or the row cannot be read.
    pub fn abandon_call(&mut self, worker: Worker) -> bool {
        self.view(worker).held.as_mut().is_some_and(|held| held.call.take().is_some())
    }

    /// The holder's write gets no answer, and the holder reads the row to find out its outcome.
    pub fn settle_call(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let row = self.row;
        let Some(held) = &mut self.view(worker).held else { return false };
        let Some(call) = held.call else { return false };
        let mut holder = held.holder(worker);
        let was_applied = held.unsettled.last().is_some_and(|newest| newest.is_applied);
        let (finding, is_done) = holder.read_back_newest(Some(row.lease()));
        witnesses.record(if was_applied { Happened::UnknownApplied } else { Happened::UnknownNotApplied });
        // A hand-over and a take by the requester have the same result: another worker owns the lease.
        let is_anothers = row.owner.is_some_and(|owner| owner != worker);
        if is_done && !was_applied && !is_anothers {
            self.fail(Violation::MistakenForApplied);
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

    /// Applies the result of reading the row; `false` when the lease is lost.
    fn act_on(
        &mut self,
        worker: Worker,
        finding: ReadBack,
        holder: &LeaseState,
        witnesses: &Witnesses,
    ) -> bool {
        let is_anothers = self.row.owner.is_some_and(|owner| owner != worker);
        let Some(held) = &mut self.view(worker).held else { return false };
        let applied = held.unsettled.iter().find(|write| write.is_applied).copied();
        match finding {
            ReadBack::Applied { asked_at, .. } => {
                held.confirmed = age_of(asked_at);
                held.adopt(holder);
                self.unlink(worker, None);
                // Equal writes cannot be told apart. The holder may assume an older one, which only shortens its
                // lease.
                if applied.is_none_or(|write| write.sent > age_of(asked_at)) && !is_anothers {
                    self.fail(Violation::MistakenForApplied);
                }
            }
            ReadBack::Unchanged => {
                held.adopt(holder);
                if applied.is_some() {
                    self.fail(Violation::MistakenForLost);
                }
            }
            ReadBack::HandOverBegun => {
                held.adopt(holder);
                self.unlink(worker, None);
                witnesses.record(Happened::KclHandOver);
            }
            ReadBack::Lost => {
                if held.is_owner {
                    self.fail(Violation::MistakenForLost);
                }
                witnesses.record(Happened::Lost);
                self.end_holding(worker);
                return false;
            }
        }
        true
    }

    /// Marks the writes of a holder that no longer count as unsettled.
    fn unlink(&mut self, worker: Worker, index: Option<u8>) {
        for write in self.in_flight.iter_mut().filter(|write| write.sender == worker) {
            if let Origin::Holder(known) = &mut write.origin {
                *known = index;
            }
        }
    }

    /// Runs the renewal task of the lease; `false` when it has nothing to do.
    pub fn renew(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let has_capacity = self.has_capacity();
        let Some(held) = &self.view(worker).held else { return false };
        let confirmed = held.confirmed;
        match renewal(ago(confirmed), FAILOVER_TIME, *NOW) {
            Renewal::NotBefore(_) => false,
            Renewal::Expired => {
                witnesses.record(Happened::Expired);
                self.fence(worker);
                true
            }
            Renewal::Due { .. } => {
                if held.call.is_some() || !has_capacity {
                    return false;
                }
                let is_asked = held.holder(worker).hand_over_target().is_some();
                if confirmed >= FAILOVER_STEPS {
                    self.fail(Violation::RenewedAfterExpiry);
                }
                self.begin(worker, if is_asked { Change::Offer } else { Change::Renew }, witnesses)
            }
        }
    }

    /// Delivers a record to the application.
    pub fn deliver(&mut self, worker: Worker) -> bool {
        let Some(held) = &mut self.view(worker).held else { return false };
        let mut marks = held.watermarks();
        marks.deliver(position(held.marks[0] + 1));
        held.set_watermarks(&marks);
        true
    }

    /// The application acknowledges all records up to an offset.
    pub fn acknowledge(&mut self, worker: Worker, offset: u8) -> bool {
        let Some(held) = &mut self.view(worker).held else { return false };
        let (mut marks, before) = (held.watermarks(), held.marks);
        if marks.acknowledge(position(offset)).is_err() {
            return false;
        }
        held.set_watermarks(&marks);
        let has_changed = held.marks != before;
        if offset <= before[0] {
            self.done = self.done.max(offset);
        }
        has_changed
    }

    /// Writes the acknowledged offset as a checkpoint.
    pub fn checkpoint(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let Some(held) = &self.view(worker).held else { return false };
        let Some(offset) = held.watermarks().unwritten().map(offset_of) else { return false };
        self.begin(worker, Change::Checkpoint(offset), witnesses)
    }

    /// Hands the lease over to its requester, or releases it.
    pub fn release(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let Some(held) = &self.view(worker).held else { return false };
        let holder = held.holder(worker);
        let target =
            holder.hand_over_target().and_then(|target| (0..).find(|worker| worker_id(*worker) == *target));
        self.begin(worker, target.map_or(Change::Release, Change::HandOver), witnesses)
    }

    /// The holder no longer trusts the lease, or has released it. It must send no further write.
    fn fence(&mut self, worker: Worker) {
        let Some(held) = &self.view(worker).held else { return };
        let changes = [Change::Renew, Change::Checkpoint(held.row.checkpoint + 1), Change::Release];
        let writes = changes.map(|change| held.holder(worker).next_write(&change.full(), true, *NOW));
        if writes.iter().any(|write| matches!(write, Ok(NextWrite::Send(_)))) {
            self.fail(Violation::WroteAfterRelease);
        }
        self.end_holding(worker);
    }

    /// Returns how many workers hold the lease and could write to it now.
    pub fn writers(&self) -> usize {
        let holders = self.views.iter().filter(|view| view.held.is_some()).count();
        if holders < 2 {
            return holders;
        }
        let row = self.row.lease();
        let can_write = |(view, worker): &(&WorkerView, Worker)| {
            view.held.as_ref().is_some_and(|held| {
                let next = held.holder(*worker).next_write(&Change::Renew.full(), false, *NOW);
                matches!(next, Ok(NextWrite::Send(write)) if write.decide(Some(&row)) != Verdict::Refused)
            })
        };
        self.views.iter().zip(0..).filter(can_write).count()
    }
}

impl HeldLease {
    pub(super) fn holder(&self, worker: Worker) -> LeaseState {
        let unsettled = self.unsettled.iter();
        let unsettled =
            unsettled.map(|write| UnsettledWrite { write: write.write.full(), asked_at: ago(write.sent) });
        LeaseState::with_unsettled(worker_id(worker), self.row.lease(), unsettled.collect())
    }

    /// Takes over the holder's row, and drops the writes that it has settled.
    fn adopt(&mut self, holder: &LeaseState) {
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
            [offset_of(marks.delivered()), offset_of(marks.acknowledged()), offset_of(marks.checkpointed())];
    }
}
