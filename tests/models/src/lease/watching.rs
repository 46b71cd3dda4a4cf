//! Those who watch a lease: they look, take it, and ask for it.

use std::collections::HashSet;

use fastrand::Rng;
use receiver::{AssignmentLimits, Holdings, LeaseObservations, plan_assignment};

use super::Happened;
use super::cell::{Cell, FAILOVER_STEPS, FAILOVER_TIME, Hold, InFlight, NOW, Origin, Part, Seen, age, ago};
use super::row::{Change, Row, Worker, Write, shard_id, worker_id};
use crate::Witnesses;

impl Cell {
    /// A worker looks at the lease, and takes it if the plan says so.
    pub fn look(&mut self, worker: Worker) -> bool {
        let (row, me) = (self.row, worker_id(worker));
        let lease = row.lease();
        let leases = std::slice::from_ref(&lease);
        let observations = self.observations(worker);
        let observed = observations.of(leases, *NOW);
        let is_asked_by_me = row.requested_by == Some(worker) && row.owner != Some(worker);
        let part = self.part(worker);
        part.has_asked &= is_asked_by_me;
        part.seen = Seen {
            unchanged: Some(age(observed[0].unchanged_for)),
            request: row.requested_by.map(|by| (row.owner, by, age(observed[0].requested_for))),
        };
        let requested: HashSet<_> = part.has_asked.then(shard_id).into_iter().collect();
        let holdings = Holdings { worker_id: &me, held: &HashSet::new(), requested: &requested };
        let limits = AssignmentLimits {
            failover_time: FAILOVER_TIME,
            hand_over_time: FAILOVER_TIME,
            drain_time: FAILOVER_TIME,
            max_leases: 10,
            max_moves: 10,
            max_takes: 10,
        };
        let plan = plan_assignment(&observed, &holdings, limits, &mut Rng::with_seed(0));
        if plan.take.is_empty() {
            return false;
        }
        let is_live = observed[0].unchanged_for < FAILOVER_TIME;
        // Its owner did not answer to the request of this worker.
        let is_overdue = is_asked_by_me && is_live && observed[0].requested_for >= FAILOVER_TIME;
        part.has_asked = false;
        part.taking = Some(0);
        let write = Write { expected: row.version(), change: Change::Take(worker) };
        self.send(write, worker, Origin::Take { of_free: !is_overdue });
        true
    }

    /// What the worker has observed, this look included.
    fn observations(&self, worker: Worker) -> LeaseObservations {
        let seen = self.parts[usize::from(worker)].seen;
        let mut observations = LeaseObservations::new();
        let mut look = |row: Row, steps: u8| observations.observe(&[row.lease()], ago(steps));
        let (owner, by, requested) =
            seen.request.map_or((self.row.owner, None, 0), |(owner, by, age)| (owner, Some(by), age));
        let older = Row { age: 1, owner, requested_by: by, ..self.row };
        match seen.unchanged {
            // The request came after the version that stands there still.
            Some(unchanged) if requested < unchanged || by.is_none() => {
                look(Row { requested_by: None, ..self.row }, unchanged);
                look(Row { requested_by: by, ..self.row }, requested);
            }
            Some(unchanged) => {
                look(older, requested);
                look(Row { requested_by: by, ..self.row }, unchanged);
            }
            // It saw another version, or nothing yet, which comes to the same.
            None => {
                look(Row { age: 2, requested_by: None, ..older }, FAILOVER_STEPS);
                look(older, requested);
            }
        }
        look(self.row, 0);
        observations
    }

    /// Whether a write that the worker waits for has reached the table, so that only the answer is missing.
    pub fn is_waiting_in_vain(&self, worker: Worker) -> bool {
        let is_awaited = |write: &InFlight| match write.origin {
            Origin::Hold(place) => place.is_some() && self.is_newest(worker, place),
            Origin::Take { .. } => true,
            Origin::Nobody { .. } => false,
        };
        !self.in_flight.iter().any(|write| write.sender == worker && is_awaited(write))
    }

    pub(super) fn is_newest(&self, worker: Worker, place: Option<u8>) -> bool {
        let hold = self.parts[usize::from(worker)].hold.as_ref();
        hold.zip(place).is_some_and(|(hold, place)| usize::from(place) + 1 == hold.unsettled.len())
    }

    pub(super) fn answer_take(&mut self, worker: Worker, is_applied: bool, is_answered: bool) {
        let row = self.row;
        let part = self.part(worker);
        let Some(asked) = part.taking else { return };
        match (is_answered, is_applied) {
            (false, _) => {}
            (true, true) => {
                part.start(row, asked);
            }
            (true, false) => part.taking = None,
        }
    }

    /// No answer comes to a take, and the worker reads the row. If it is the worker's it is taken again, since only an answer
    /// tells since when it is.
    pub fn settle_take(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let row = self.row;
        if self.part(worker).taking.take().is_none() {
            return false;
        }
        for write in &mut self.in_flight {
            if let (true, Origin::Take { of_free }) = (write.sender == worker, write.origin) {
                write.origin = Origin::Nobody { takes_free: of_free };
            }
        }
        if row.owner == Some(worker) && self.has_room() {
            witnesses.saw(Happened::TakeSettled);
            self.part(worker).taking = Some(0);
            let write = Write { expected: row.version(), change: Change::Take(worker) };
            self.send(write, worker, Origin::Take { of_free: true });
        }
        true
    }

    /// A worker asks the owner for the lease, or takes that back. A word that arrives later is one that is sent later.
    pub fn leave_word(&mut self, worker: Worker, change: Change) -> bool {
        let Some(result) = self.decide(&Write { expected: self.row.version(), change }) else { return false };
        self.part(worker).has_asked = matches!(change, Change::Request(..));
        self.replace_row(result);
        true
    }
}

impl Part {
    /// The lease is taken.
    pub(super) fn start(&mut self, row: Row, asked: u8) {
        self.taking = None;
        self.seen = Seen::default();
        self.hold = Some(Hold {
            row,
            unsettled: Vec::new(),
            confirmed: asked,
            call: None,
            marks: [row.checkpoint; 3],
            owns: true,
        });
    }
}
