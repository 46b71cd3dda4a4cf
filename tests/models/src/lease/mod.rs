//! The lease protocol: take, renew, checkpoint, hand over and release, with lost answers and delayed writes.
//!
//! States are small. Counters are relative to the counter in the table, and ages end at the fail-over time, so the
//! visited states include runs of any length. Only the number of faults is bounded.
//!
//! Workers of the same kind are interchangeable, and the model visits one of several states that differ only by
//! worker names. In a printed trace the workers may therefore swap names between two states.

mod holder;
mod row;
mod single_lease;
mod watcher;

use stateright::{Model, Property};

pub use row::{Change, Row, Version, Worker, Write};
pub use single_lease::{
    Call, FAILOVER_STEPS, Happened, HeldLease, InFlight, Observation, Origin, SingleLease, Unsettled,
    Violation, WorkerView,
};

use crate::witness::Witnesses;

/// The sizes of a model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LeaseModel {
    /// Number of our workers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub workers: u8,
    /// Number of leases
    #[arg(long, default_value_t = 1)]
    pub leases: usize,
    /// Number of records in a shard
    #[arg(long, default_value_t = 1)]
    pub records: u8,
    /// Most answers that are lost
    #[arg(long, default_value_t = 1)]
    pub lost_answers: u8,
    /// Most processes that crash
    #[arg(long, default_value_t = 0)]
    pub crashes: u8,
    /// How often a KCL worker steals the lease, or a KCL 3.x leader starts a hand-over
    #[arg(long, default_value_t = 0)]
    pub kcl_moves: u8,
    /// Let workers request the lease from each other
    #[arg(long)]
    pub asks: bool,
    /// The kinds of steps that happened.
    #[arg(skip)]
    pub witnesses: Witnesses,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelState {
    /// The leases.
    pub leases: Vec<SingleLease>,
    /// The faults that may still happen.
    pub budget: FaultBudget,
}

/// The faults that may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultBudget {
    /// Answers that may be lost.
    pub lost_answers: u8,
    /// Processes that may crash.
    pub crashes: u8,
    /// Takes and hand-overs of the KCL.
    pub kcl_moves: u8,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Time advances for all workers.
    Tick,
    /// A process crashes and restarts under the same name, without memory.
    Crash(Worker),
    /// A step of one lease.
    OnLease(usize, LeaseStep),
}

/// A step of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStep {
    /// A write reaches the table, and its answer reaches the sender.
    Arrive(usize),
    /// A write reaches the table, and its answer is lost.
    ArriveWithoutAnswer(usize),
    /// A worker scans the leases, and takes those that the plan names.
    Scan(Worker),
    /// A worker requests the lease.
    Request(Worker),
    /// A worker withdraws its request.
    Withdraw(Worker),
    /// A worker stops waiting for the answer to its take, and reads the row.
    SettleTake(Worker),
    /// A holder stops waiting for the answer to its write, and reads the row.
    SettleCall(Worker),
    /// The same, but the row cannot be read, or the caller was cancelled.
    AbandonCall(Worker),
    /// The renewal task of the lease runs.
    Renew(Worker),
    /// A record is delivered to the application.
    DeliverRecord(Worker),
    /// The application acknowledges all records up to this offset.
    Acknowledge(Worker, u8),
    /// The acknowledged offset is written.
    Checkpoint(Worker),
    /// The holder hands the lease over to its requester, or releases it.
    Release(Worker),
    /// A KCL 2.x worker takes the lease from any owner.
    KclTake,
    /// The KCL worker renews the lease.
    KclRenew,
    /// The KCL worker writes a checkpoint.
    KclCheckpoint,
    /// A KCL 3.x leader names another owner.
    KclHandOver(Worker),
}

impl LeaseModel {
    /// Returns the number of the KCL worker.
    fn kcl(&self) -> Worker {
        self.workers
    }

    fn list_steps(&self, index: usize, lease: &SingleLease, budget: FaultBudget, steps: &mut Vec<Step>) {
        let mut add = |step| steps.push(Step::OnLease(index, step));
        let has_capacity = lease.has_capacity();
        for write in 0..lease.in_flight.len() {
            add(LeaseStep::Arrive(write));
            if budget.lost_answers > 0 {
                add(LeaseStep::ArriveWithoutAnswer(write));
            }
        }
        for (worker, view) in (0..self.workers).zip(&lease.views) {
            match (&view.held, view.taking) {
                (None, Some(_)) if budget.lost_answers > 0 || lease.is_answer_lost(worker) => {
                    add(LeaseStep::SettleTake(worker));
                }
                (None, None) if has_capacity => {
                    add(LeaseStep::Scan(worker));
                    let is_others = lease.row.owner.is_some_and(|owner| owner != worker);
                    let may_ask = self.asks && is_others && view.observation.unchanged.is_some();
                    if may_ask && !view.has_requested && lease.row.checkpoint_owner.is_none() {
                        add(LeaseStep::Request(worker));
                    }
                    if view.has_requested && lease.row.requested_by == Some(worker) {
                        add(LeaseStep::Withdraw(worker));
                    }
                }
                (Some(held), _) => {
                    let may_lose = budget.lost_answers > 0 || lease.is_answer_lost(worker);
                    self.list_holder_steps(worker, held, has_capacity, may_lose, &mut add);
                }
                (None, _) => {}
            }
        }
        if self.has_kcl() {
            if budget.kcl_moves > 0 {
                if lease.row.owner != Some(self.kcl()) {
                    add(LeaseStep::KclTake);
                }
                if lease.row.checkpoint_owner.is_none() && lease.row.owner.is_some() {
                    (0..=self.kcl()).for_each(|to| add(LeaseStep::KclHandOver(to)));
                }
            }
            if lease.row.owner == Some(self.kcl()) && lease.row.checkpoint_owner.is_none() {
                add(LeaseStep::KclRenew);
                add(LeaseStep::KclCheckpoint);
            }
        }
    }

    fn list_holder_steps(
        &self,
        worker: Worker,
        held: &HeldLease,
        has_capacity: bool,
        may_lose_answer: bool,
        add: &mut impl FnMut(LeaseStep),
    ) {
        add(LeaseStep::Renew(worker));
        if held.marks[0] < self.records {
            add(LeaseStep::DeliverRecord(worker));
        }
        (1..=self.records).for_each(|offset| add(LeaseStep::Acknowledge(worker, offset)));
        if held.call.is_some() && may_lose_answer {
            add(LeaseStep::AbandonCall(worker));
        }
        if held.call.is_some() && may_lose_answer && has_capacity {
            add(LeaseStep::SettleCall(worker));
        }
        if held.call.is_none() && has_capacity {
            add(LeaseStep::Checkpoint(worker));
            add(LeaseStep::Release(worker));
        }
    }

    fn has_kcl(&self) -> bool {
        self.kcl_moves > 0
    }

    /// Executes a step; `false` when it changes nothing.
    fn step(&self, lease: &mut SingleLease, budget: &mut FaultBudget, step: LeaseStep) -> bool {
        let seen = &self.witnesses;
        match step {
            LeaseStep::Arrive(write) => lease.arrive(write, true, seen),
            LeaseStep::ArriveWithoutAnswer(write) => {
                budget.lost_answers -= 1;
                lease.arrive(write, false, seen);
            }
            LeaseStep::Scan(worker) => {
                lease.scan(worker);
            }
            LeaseStep::Request(worker) => {
                return lease.write_request(worker, Change::Request(worker, lease.row.requested_by));
            }
            LeaseStep::Withdraw(worker) => return lease.write_request(worker, Change::Withdraw(worker)),
            LeaseStep::SettleTake(worker) => {
                budget.lost_answers -= u8::from(!lease.is_answer_lost(worker));
                return lease.settle_take(worker, seen);
            }
            LeaseStep::SettleCall(worker) => {
                budget.lost_answers -= u8::from(!lease.is_answer_lost(worker));
                return lease.settle_call(worker, seen);
            }
            LeaseStep::AbandonCall(worker) => {
                budget.lost_answers -= u8::from(!lease.is_answer_lost(worker));
                return lease.abandon_call(worker);
            }
            LeaseStep::Renew(worker) => return lease.renew(worker, seen),
            LeaseStep::DeliverRecord(worker) => return lease.deliver(worker),
            LeaseStep::Acknowledge(worker, offset) => return lease.acknowledge(worker, offset),
            LeaseStep::Checkpoint(worker) => return lease.checkpoint(worker, seen),
            LeaseStep::Release(worker) => return lease.release(worker, seen),
            LeaseStep::KclTake => {
                budget.kcl_moves -= 1;
                let row = Row { owner: Some(self.kcl()), checkpoint_owner: None, ..lease.row };
                lease.write_foreign(row, 1, false);
            }
            LeaseStep::KclRenew => lease.write_foreign(lease.row, 1, false),
            LeaseStep::KclCheckpoint => {
                if lease.row.checkpoint >= self.records {
                    return false;
                }
                let row = Row { checkpoint: lease.row.checkpoint + 1, ..lease.row };
                lease.write_foreign(row, 1, false);
            }
            LeaseStep::KclHandOver(to) => {
                if lease.row.owner == Some(to) {
                    return false;
                }
                budget.kcl_moves -= 1;
                let row = Row { owner: Some(to), checkpoint_owner: lease.row.owner, ..lease.row };
                lease.write_foreign(row, 0, true);
            }
        }
        true
    }

    /// Returns the least of all states that differ only by worker names.
    fn representative(&self, state: ModelState) -> ModelState {
        let kcl = self.kcl();
        let orders: &[&[Worker]] = match self.workers {
            2 => &[&[1, 0]],
            3 => &[&[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
            _ => &[],
        };
        let renamed = orders.iter().map(|order| {
            let names: Vec<Worker> = order.iter().copied().chain([kcl]).collect();
            ModelState {
                leases: state.leases.iter().map(|lease| lease.renamed(&names)).collect(),
                budget: state.budget,
            }
        });
        renamed.min().map_or(state.clone(), |least| least.min(state))
    }
}

impl Model for LeaseModel {
    type State = ModelState;
    type Action = Step;

    fn init_states(&self) -> Vec<ModelState> {
        let workers = usize::from(self.workers) + 1;
        let budget =
            FaultBudget { lost_answers: self.lost_answers, crashes: self.crashes, kcl_moves: self.kcl_moves };
        vec![ModelState { leases: vec![SingleLease::new(workers); self.leases], budget }]
    }

    fn actions(&self, state: &ModelState, steps: &mut Vec<Step>) {
        if state.leases.iter().any(|lease| lease.violation.is_some()) {
            return;
        }
        steps.push(Step::Tick);
        if state.budget.crashes > 0 {
            steps.extend((0..self.workers).map(Step::Crash));
        }
        for (index, lease) in state.leases.iter().enumerate() {
            self.list_steps(index, lease, state.budget, steps);
        }
    }

    fn next_state(&self, last: &ModelState, step: Step) -> Option<ModelState> {
        let mut state = last.clone();
        let is_step = match step {
            Step::Tick => {
                state.leases.iter_mut().for_each(SingleLease::age);
                state != *last
            }
            Step::Crash(worker) => {
                let has_something =
                    |lease: &SingleLease| lease.views[usize::from(worker)] != WorkerView::default();
                state.budget.crashes -= 1;
                state.leases.iter_mut().for_each(|lease| lease.crash(worker));
                last.leases.iter().any(has_something)
            }
            Step::OnLease(index, step) => self.step(&mut state.leases[index], &mut state.budget, step),
        };
        if !is_step {
            return None;
        }
        state.leases.iter_mut().for_each(SingleLease::tidy);
        if state.leases.iter().all(|lease| lease.row.checkpoint == self.records) {
            self.witnesses.record(Happened::ReadToEnd);
        }
        Some(self.representative(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal: $violation:ident),* $(,)?) => {
                vec![$(Property::always($name, |_, state: &ModelState| {
                    state.leases.iter().all(|lease| lease.violation != Some(Violation::$violation))
                })),*]
            };
        }
        let mut properties: Vec<Property<Self>> = never! {
            "a write decided before another worker's write is not applied after it": StaleWriteApplied,
            "a take of a free lease displaces no holder before its fail-over time": LiveHolderDisplaced,
            "counters never go back": CounterWentBack,
            "checkpoints never go back": CheckpointWentBack,
            "no checkpoint passes a record that is not delivered and acknowledged": Skipped,
            "no holder mistakes a write for applied": MistakenForApplied,
            "no holder mistakes its lease for lost": MistakenForLost,
            "an expired lease is not renewed": RenewedAfterExpiry,
            "a fenced holder sends no further write": WroteAfterRelease,
            "a lease is handed over only to a worker that requested it": HandedOverWithoutRequest,
        };
        properties.push(Property::always("at most one holder can write", |_, state: &ModelState| {
            state.leases.iter().all(|lease| lease.writers() <= 1)
        }));
        properties
    }
}
