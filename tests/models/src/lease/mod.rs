//! The lease protocol: take, renew, checkpoint, hand-over and release, with answers that are lost and writes that arrive late.
//!
//! A state is small: counters are told from that of the table, and ages end at the fail-over time, so runs of any length are
//! among those that are visited. What is bounded is how often something goes wrong. Workers of the same kind are
//! interchangeable, so of states that differ by their names alone one is visited: in a trace, the workers may change names
//! from one state to the next.

mod cell;
mod holding;
mod row;
mod watching;

use stateright::{Model, Property};

pub use cell::{Broken, Call, Cell, FAILOVER_STEPS, Hold, InFlight, Origin, Part, Seen, Unsettled};
pub use row::{Change, Row, Version, Worker, Write};

use crate::Witnesses;

/// The sizes of a model.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LeaseModel {
    /// How many workers of ours there are.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub workers: u8,
    /// How many leases.
    #[arg(long, default_value_t = 1)]
    pub leases: usize,
    /// How many records a shard has.
    #[arg(long, default_value_t = 1)]
    pub records: u8,
    /// How many answers are lost at most.
    #[arg(long, default_value_t = 1)]
    pub lost_answers: u8,
    /// How many processes die at most.
    #[arg(long, default_value_t = 0)]
    pub crashes: u8,
    /// How often a KCL worker takes the lease from its owner, or a KCL 3.x leader begins a hand-over.
    #[arg(long, default_value_t = 0)]
    pub kcl_moves: u8,
    /// Whether workers ask each other for the lease.
    #[arg(long)]
    pub asks: bool,
    /// What has happened.
    #[arg(skip)]
    pub witnesses: Witnesses,
}

/// What a model must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A lease was taken from an owner.
    Taken,
    /// A take of unknown outcome turned out to be applied.
    TakeSettled,
    /// A holder made the worker that asked the owner.
    HandedOver,
    /// A write of unknown outcome was applied.
    UnknownApplied,
    /// A write of unknown outcome was not.
    UnknownNotApplied,
    /// A holder found out that it has lost the lease.
    Lost,
    /// A holder gave up what it could not renew in time.
    GivenUp,
    /// A holder found that a KCL 3.x leader has named another owner.
    KclHandOver,
    /// The shard was read and checkpointed to its last record.
    ReadOn,
}

impl From<Happened> for u32 {
    fn from(happened: Happened) -> Self {
        happened as Self
    }
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseState {
    /// The leases.
    pub cells: Vec<Cell>,
    /// What may still go wrong.
    pub left: Left,
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Left {
    /// Answers that may be lost.
    pub lost_answers: u8,
    /// Processes that may die.
    pub crashes: u8,
    /// What the KCL may do.
    pub kcl_moves: u8,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Time goes by for all.
    Tick,
    /// A process dies, and starts again under the same name, without memory.
    Crash(Worker),
    /// Something happens to one lease.
    At(usize, CellStep),
}

/// A step of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellStep {
    /// A write reaches the table, and its answer the sender.
    Deliver(usize),
    /// A write reaches the table, and its answer is lost.
    DeliverInSilence(usize),
    /// A worker looks at the leases, and takes what the plan says.
    Look(Worker),
    /// A worker asks for the lease.
    Ask(Worker),
    /// A worker no longer does.
    Withdraw(Worker),
    /// A worker stops waiting for the answer to its take, and reads the row.
    SettleTake(Worker),
    /// A holder stops waiting for the answer to its write, and reads the row.
    SettleCall(Worker),
    /// The same, but the row cannot be read, or whoever waited has gone away.
    AbandonCall(Worker),
    /// The keeper of a lease does what is due.
    Keep(Worker),
    /// A record is handed to the application.
    DeliverRecord(Worker),
    /// The application is done with everything up to this place.
    Acknowledge(Worker, u8),
    /// What is acknowledged is written.
    Checkpoint(Worker),
    /// The holder gives the lease up: to whoever asks, or to nobody.
    GiveUp(Worker),
    /// A KCL 2.x worker takes the lease, whoever owns it.
    KclTake,
    /// It renews the lease.
    KclRenew,
    /// It stores how far it has read.
    KclCheckpoint,
    /// A KCL 3.x leader names another owner.
    KclHandOver(Worker),
}

impl LeaseModel {
    /// The number of the KCL worker.
    fn kcl(&self) -> Worker {
        self.workers
    }

    fn steps_of(&self, index: usize, cell: &Cell, left: Left, steps: &mut Vec<Step>) {
        let mut add = |step| steps.push(Step::At(index, step));
        let has_room = cell.has_room();
        for place in 0..cell.in_flight.len() {
            add(CellStep::Deliver(place));
            if left.lost_answers > 0 {
                add(CellStep::DeliverInSilence(place));
            }
        }
        for (worker, part) in (0..self.workers).zip(&cell.parts) {
            match (&part.hold, part.taking) {
                (None, Some(_)) if left.lost_answers > 0 || cell.is_waiting_in_vain(worker) => {
                    add(CellStep::SettleTake(worker));
                }
                (None, None) if has_room => {
                    add(CellStep::Look(worker));
                    let is_others = cell.row.owner.is_some_and(|owner| owner != worker);
                    let may_ask = self.asks && is_others && part.seen.unchanged.is_some();
                    if may_ask && !part.has_asked && cell.row.checkpoint_owner.is_none() {
                        add(CellStep::Ask(worker));
                    }
                    if part.has_asked && cell.row.requested_by == Some(worker) {
                        add(CellStep::Withdraw(worker));
                    }
                }
                (Some(hold), _) => {
                    let may_lose = left.lost_answers > 0 || cell.is_waiting_in_vain(worker);
                    self.steps_of_holder(worker, hold, has_room, may_lose, &mut add);
                }
                (None, _) => {}
            }
        }
        if self.kcl_takes_part() {
            if left.kcl_moves > 0 {
                if cell.row.owner != Some(self.kcl()) {
                    add(CellStep::KclTake);
                }
                if cell.row.checkpoint_owner.is_none() && cell.row.owner.is_some() {
                    (0..=self.kcl()).for_each(|to| add(CellStep::KclHandOver(to)));
                }
            }
            if cell.row.owner == Some(self.kcl()) && cell.row.checkpoint_owner.is_none() {
                add(CellStep::KclRenew);
                add(CellStep::KclCheckpoint);
            }
        }
    }

    fn steps_of_holder(
        &self,
        worker: Worker,
        hold: &Hold,
        has_room: bool,
        may_lose_answer: bool,
        add: &mut impl FnMut(CellStep),
    ) {
        add(CellStep::Keep(worker));
        if hold.marks[0] < self.records {
            add(CellStep::DeliverRecord(worker));
        }
        (1..=self.records).for_each(|place| add(CellStep::Acknowledge(worker, place)));
        if hold.call.is_some() && may_lose_answer {
            add(CellStep::AbandonCall(worker));
        }
        if hold.call.is_some() && may_lose_answer && has_room {
            add(CellStep::SettleCall(worker));
        }
        if hold.call.is_none() && has_room {
            add(CellStep::Checkpoint(worker));
            add(CellStep::GiveUp(worker));
        }
    }

    fn kcl_takes_part(&self) -> bool {
        self.kcl_moves > 0
    }

    /// Does a step; `false` when it changes nothing.
    fn step(&self, cell: &mut Cell, left: &mut Left, step: CellStep) -> bool {
        let seen = &self.witnesses;
        match step {
            CellStep::Deliver(place) => cell.deliver(place, true, seen),
            CellStep::DeliverInSilence(place) => {
                left.lost_answers -= 1;
                cell.deliver(place, false, seen);
            }
            CellStep::Look(worker) => {
                cell.look(worker);
            }
            CellStep::Ask(worker) => {
                return cell.leave_word(worker, Change::Request(worker, cell.row.requested_by));
            }
            CellStep::Withdraw(worker) => return cell.leave_word(worker, Change::Withdraw(worker)),
            CellStep::SettleTake(worker) => {
                left.lost_answers -= u8::from(!cell.is_waiting_in_vain(worker));
                return cell.settle_take(worker, seen);
            }
            CellStep::SettleCall(worker) => {
                left.lost_answers -= u8::from(!cell.is_waiting_in_vain(worker));
                return cell.settle_call(worker, seen);
            }
            CellStep::AbandonCall(worker) => {
                left.lost_answers -= u8::from(!cell.is_waiting_in_vain(worker));
                return cell.abandon_call(worker);
            }
            CellStep::Keep(worker) => return cell.keep(worker, seen),
            CellStep::DeliverRecord(worker) => return cell.deliver_record(worker),
            CellStep::Acknowledge(worker, place) => return cell.acknowledge(worker, place),
            CellStep::Checkpoint(worker) => return cell.checkpoint(worker, seen),
            CellStep::GiveUp(worker) => return cell.give_up(worker, seen),
            CellStep::KclTake => {
                left.kcl_moves -= 1;
                let row = Row { owner: Some(self.kcl()), checkpoint_owner: None, ..cell.row };
                cell.write_foreign(row, 1, false);
            }
            CellStep::KclRenew => cell.write_foreign(cell.row, 1, false),
            CellStep::KclCheckpoint => {
                if cell.row.checkpoint >= self.records {
                    return false;
                }
                let row = Row { checkpoint: cell.row.checkpoint + 1, ..cell.row };
                cell.write_foreign(row, 1, false);
            }
            CellStep::KclHandOver(to) => {
                if cell.row.owner == Some(to) {
                    return false;
                }
                left.kcl_moves -= 1;
                let row = Row { owner: Some(to), checkpoint_owner: cell.row.owner, ..cell.row };
                cell.write_foreign(row, 0, true);
            }
        }
        true
    }

    /// Of all states that differ by the names of workers, the least.
    fn representative(&self, state: LeaseState) -> LeaseState {
        let kcl = self.kcl();
        let orders: &[&[Worker]] = match self.workers {
            2 => &[&[1, 0]],
            3 => &[&[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
            _ => &[],
        };
        let renamed = orders.iter().map(|order| {
            let names: Vec<Worker> = order.iter().copied().chain([kcl]).collect();
            LeaseState {
                cells: state.cells.iter().map(|cell| cell.renamed(&names)).collect(),
                left: state.left,
            }
        });
        renamed.min().map_or(state.clone(), |least| least.min(state))
    }
}

impl Model for LeaseModel {
    type State = LeaseState;
    type Action = Step;

    fn init_states(&self) -> Vec<LeaseState> {
        let workers = usize::from(self.workers) + 1;
        let left = Left { lost_answers: self.lost_answers, crashes: self.crashes, kcl_moves: self.kcl_moves };
        vec![LeaseState { cells: vec![Cell::new(workers); self.leases], left }]
    }

    fn actions(&self, state: &LeaseState, steps: &mut Vec<Step>) {
        if state.cells.iter().any(|cell| cell.broken.is_some()) {
            return;
        }
        steps.push(Step::Tick);
        if state.left.crashes > 0 {
            steps.extend((0..self.workers).map(Step::Crash));
        }
        for (index, cell) in state.cells.iter().enumerate() {
            self.steps_of(index, cell, state.left, steps);
        }
    }

    fn next_state(&self, last: &LeaseState, step: Step) -> Option<LeaseState> {
        let mut state = last.clone();
        let is_step = match step {
            Step::Tick => {
                state.cells.iter_mut().for_each(Cell::age);
                state != *last
            }
            Step::Crash(worker) => {
                let has_something = |cell: &Cell| cell.parts[usize::from(worker)] != Part::default();
                state.left.crashes -= 1;
                state.cells.iter_mut().for_each(|cell| cell.crash(worker));
                last.cells.iter().any(has_something)
            }
            Step::At(index, step) => self.step(&mut state.cells[index], &mut state.left, step),
        };
        if !is_step {
            return None;
        }
        state.cells.iter_mut().for_each(Cell::tidy);
        if state.cells.iter().all(|cell| cell.row.checkpoint == self.records) {
            self.witnesses.saw(Happened::ReadOn);
        }
        Some(self.representative(state))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! never {
            ($($name:literal: $broken:ident),* $(,)?) => {
                vec![$(Property::always($name, |_, state: &LeaseState| {
                    state.cells.iter().all(|cell| cell.broken != Some(Broken::$broken))
                })),*]
            };
        }
        let mut properties: Vec<Property<Self>> = never! {
            "what was decided before another's write is not applied after it": StaleWriteApplied,
            "who takes a lease that nobody has displaces no holder whose time is not over": LiveHolderDisplaced,
            "counters never go back": CounterWentBack,
            "checkpoints never go back": CheckpointWentBack,
            "no checkpoint passes what is not delivered and acknowledged": Skipped,
            "no write is taken for applied that was not": TakenForApplied,
            "no lease is taken for lost that is held": TakenForLost,
            "what has expired is not renewed": RenewedAfterExpiry,
            "who is fenced writes no more": WroteAfterwards,
            "a lease goes over only to a worker that asks for it": HandedOverUnasked,
        };
        properties.push(Property::always("at most one holder can write", |_, state: &LeaseState| {
            state.cells.iter().all(|cell| cell.writers() <= 1)
        }));
        properties
    }
}
