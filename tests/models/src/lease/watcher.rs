//! The steps of the workers that watch a lease: scan, take, request.

use std::collections::HashSet;

use fastrand::Rng;

use super::row::{Change, Row, Worker, Write, shard_id, worker_id};
use super::single_lease::{
    FAILOVER_STEPS, FAILOVER_TIME, Happened, HeldLease, InFlight, NOW, Observation, Origin, SingleLease,
    WorkerView, age, ago,
};
use crate::internals::{AssignmentLimits, Holdings, LeaseObservations, plan_assignment};
use crate::witness::Witnesses;

impl SingleLease {
    /// A worker scans the lease, and takes it if its plan contains it.
    pub fn scan(&mut self, worker: Worker) -> bool {
        let (row, me) = (self.row, worker_id(worker));
        let lease = row.lease();
        let leases = std::slice::from_ref(&lease);
        let observations = self.observations(worker);
        let observed = observations.of(leases, *NOW);
        let is_asked_by_me = row.requested_by == Some(worker) && row.owner != Some(worker);
        let view = self.view(worker);
        view.has_requested &= is_asked_by_me;
        view.observation = Observation {
            unchanged: Some(age(observed[0].unchanged_for)),
            request: row.requested_by.map(|by| (row.owner, by, age(observed[0].requested_for))),
        };
        let requested: HashSet<_> = view.has_requested.then(shard_id).into_iter().collect();
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
        // The owner did not answer the request of this worker.
        let is_overdue = is_asked_by_me && is_live && observed[0].requested_for >= FAILOVER_TIME;
        view.has_requested = false;
        view.taking = Some(0);
        let write = Write { expected: row.version(), change: Change::Take(worker) };
        self.send(write, worker, Origin::Take { is_free: !is_overdue });
        true
    }

    /// Returns the worker's observations, including this scan.
    fn observations(&self, worker: Worker) -> LeaseObservations {
        let seen = self.views[usize::from(worker)].observation;
        let mut observations = LeaseObservations::new();
        let mut observe = |row: Row, steps: u8| observations.observe(&[row.lease()], ago(steps));
        let (owner, by, requested) =
            seen.request.map_or((self.row.owner, None, 0), |(owner, by, age)| (owner, Some(by), age));
        let older = Row { age: 1, owner, requested_by: by, ..self.row };
        match seen.unchanged {
            // The request came after the current version.
            Some(unchanged) if requested < unchanged || by.is_none() => {
                observe(Row { requested_by: None, ..self.row }, unchanged);
                observe(Row { requested_by: by, ..self.row }, requested);
            }
            Some(unchanged) => {
                observe(older, requested);
                observe(Row { requested_by: by, ..self.row }, unchanged);
            }
            // It observed another version or none, which has the same effect.
            None => {
                observe(Row { age: 2, requested_by: None, ..older }, FAILOVER_STEPS);
                observe(older, requested);
            }
        }
        observe(self.row, 0);
        observations
    }

    /// Whether no write that the worker waits for is in flight, so that only the answer can be missing.
    pub fn is_answer_lost(&self, worker: Worker) -> bool {
        let is_awaited = |write: &InFlight| match write.origin {
            Origin::Holder(index) => index.is_some() && self.is_newest(worker, index),
            Origin::Take { .. } => true,
            Origin::Abandoned { .. } => false,
        };
        !self.in_flight.iter().any(|write| write.sender == worker && is_awaited(write))
    }

    pub(super) fn is_newest(&self, worker: Worker, index: Option<u8>) -> bool {
        let held = self.views[usize::from(worker)].held.as_ref();
        held.zip(index).is_some_and(|(held, index)| usize::from(index) + 1 == held.unsettled.len())
    }

    pub(super) fn answer_take(&mut self, worker: Worker, is_applied: bool, is_answered: bool) {
        let row = self.row;
        let view = self.view(worker);
        let Some(sent) = view.taking else { return };
        match (is_answered, is_applied) {
            (false, _) => {}
            (true, true) => {
                view.start(row, sent);
            }
            (true, false) => view.taking = None,
        }
    }

    /// A take gets no answer, and the worker reads the row. If it owns the lease it takes it again, because only an
    /// answer confirms since when.
    pub fn settle_take(&mut self, worker: Worker, witnesses: &Witnesses) -> bool {
        let row = self.row;
        if self.view(worker).taking.take().is_none() {
            return false;
        }
        for write in &mut self.in_flight {
            if let (true, Origin::Take { is_free }) = (write.sender == worker, write.origin) {
                write.origin = Origin::Abandoned { takes_free: is_free };
            }
        }
        if row.owner == Some(worker) && self.has_capacity() {
            witnesses.record(Happened::TakeSettled);
            self.view(worker).taking = Some(0);
            let write = Write { expected: row.version(), change: Change::Take(worker) };
            self.send(write, worker, Origin::Take { is_free: true });
        }
        true
    }

    /// A worker requests the lease from its owner, or withdraws its request. A delayed request equals one that is
    /// sent later.
    pub fn write_request(&mut self, worker: Worker, change: Change) -> bool {
        let Some(result) = self.decide(&Write { expected: self.row.version(), change }) else { return false };
        self.view(worker).has_requested = matches!(change, Change::Request(..));
        self.replace_row(result);
        true
    }
}

impl WorkerView {
    /// Starts to hold the lease after a take.
    pub(super) fn start(&mut self, row: Row, sent: u8) {
        self.taking = None;
        self.observation = Observation::default();
        self.held = Some(HeldLease {
            row,
            unsettled: Vec::new(),
            confirmed: sent,
            call: None,
            marks: [row.checkpoint; 3],
            is_owner: true,
        });
    }
}
