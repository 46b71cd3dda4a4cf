//! Runs a plan: starts the fleet, injects the faults, waits until the fleet settles, and stops every process.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Once;

use fastrand::Rng;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::adoption::adopt_table;
use crate::checks::{Checks, Promise, SETTLE_MILLIS, Violation};
use crate::event::{Event, EventKind};
use crate::fan_out::Service;
use crate::former_fleet::{begin_hand_over, leave_rows};
use crate::kcl::KclWorker;
use crate::kinesis::Kinesis;
use crate::network::{Destination, Link};
use crate::observer::Observer;
use crate::operator::operate;
use crate::plan::{Defect, FaultKind, HandlerFault, OPERATOR_MILLIS, Operation, Plan};
use crate::several_streams::{SECOND_STREAM_SHARDS, SecondStream};
use crate::table::Table;
use crate::trace::Names;
use crate::worker::{Worker, World};

/// How long the fleet must stay stable after it has settled, in milliseconds.
const STABLE_MILLIS: u64 = 60_000;

/// How long records are produced after the faults, in milliseconds.
const PRODUCE_MILLIS: u64 = 60_000;

/// Longest time for all processes to stop.
const END_LIMIT: Duration = Duration::from_secs(200);

/// Interval between checks whether a process has ended.
const POLL_INTERVAL_MILLIS: u64 = 500;

/// How long a fleet may take to start once all services are back, in milliseconds.
const START_MILLIS: u64 = 60_000;

/// How often the operator looks whether workers are refused.
const OPERATOR_INTERVAL_MILLIS: u64 = 30_000;

/// Names of the KCL workers.
const KCL_NAMES: [&str; 8] = ["kcl0", "kcl1", "kcl2", "kcl3", "kcl4", "kcl5", "kcl6", "kcl7"];

/// The result of a simulation.
#[derive(Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// The events, in order.
    pub events: Vec<Event>,
    /// The names in the events.
    pub names: Names,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// Virtual time that all of our workers ran, summed up, in milliseconds.
    pub worker_millis: u64,
    /// How long each lease of a crashed process took to get a new owner, where calls have long tails, in milliseconds.
    pub failovers: Vec<u64>,
}

impl Outcome {
    /// Renders the trace, one line for each event.
    pub fn trace(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            text.push_str(&self.names.line(event));
            text.push('\n');
        }
        if let Some(violation) = &self.violation {
            text.push_str(&format!("VIOLATION {violation}\n"));
        }
        text
    }
}

thread_local! {
    /// The first panic of the simulation on this thread. `None` while no simulation runs here.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Records panics of simulations instead of printing them. All other panics go to the previous hook.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_ours = PANIC.with_borrow_mut(|noted| match noted {
                Some(first) => {
                    first.get_or_insert_with(|| panic.to_string());
                    true
                }
                None => false,
            });
            if !is_ours {
                before(panic);
            }
        }));
    });
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan) -> Outcome {
    catch_panics();
    PANIC.set(Some(None));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(Fleet::run(plan)),
        Err(error) => Outcome {
            plan: plan.clone(),
            events: Vec::new(),
            names: Names::default(),
            violation: Some(Violation { promise: Promise::NoPanic, at: 0, why: error.to_string() }),
            worker_millis: 0,
            failovers: Vec::new(),
        },
    };
    PANIC.set(None);
    outcome
}

#[derive(Debug)]
enum Action {
    Fault(FaultKind),
    Start(String),
    Stop(u32),
    StartAfterEnd(u32, String),
    CreateTable,
    CheckStarted,
    CreateStream(u64),
    FollowAdvice,
}

struct Fleet<'a> {
    plan: &'a Plan,
    world: World,
    workers: Vec<Worker>,
    leaving: Vec<Worker>,
    kcl: Vec<KclWorker>,
    schedule: BTreeMap<u64, VecDeque<Action>>,
    started_at: Instant,
    next_name: u64,
    next_kcl: usize,
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn choose<T>(from: &[T], choice: u64) -> Option<usize> {
    usize::try_from(choice.checked_rem(from.len() as u64)?).ok()
}

impl<'a> Fleet<'a> {
    async fn run(plan: &'a Plan) -> Outcome {
        let second_stream_leases = if plan.has_second_stream { SECOND_STREAM_SHARDS } else { 0 };
        let checks = Checks::new(plan.start, plan.has_long_tails, second_stream_leases);
        let observer = Observer::new(checks.with_former_fleet(plan.former_fleet));
        let table = Table::new(observer.clone(), plan.defect);
        let kinesis = Kinesis::new(observer.clone(), plan.shards);
        let fan_out = Service::new(&kinesis, plan);
        let mut fleet = Self {
            plan,
            world: World {
                observer: observer.clone(),
                table,
                kinesis,
                fan_out,
                second: SecondStream::default(),
            },
            workers: Vec::new(),
            leaving: Vec::new(),
            kcl: Vec::new(),
            schedule: BTreeMap::new(),
            started_at: Instant::now(),
            next_name: 0,
            next_kcl: 0,
        };
        tokio::select! {
            biased;
            () = observer.violated() => {}
            () = fleet.run_plan() => {}
        }
        let history = &mut *observer.history();
        let events = std::mem::take(&mut history.events);
        Outcome {
            plan: plan.clone(),
            worker_millis: worker_millis(&events),
            failovers: history.checks.take_failovers(),
            events,
            names: std::mem::take(&mut history.names),
            violation: history.violation.take(),
        }
    }

    async fn run_plan(&mut self) {
        let plan = self.plan;
        let quiet_from = plan.last_fault_end();
        // The KCL drops records of mixed aggregates.
        let joins_kcl = plan.faults.iter().any(|fault| matches!(fault.kind, FaultKind::KclJoin));
        let may_mix = plan.kcl_workers == 0 && !joins_kcl;
        tokio::spawn(produce(
            self.world.kinesis.clone(),
            plan.rng("producer", 0),
            plan.record_interval,
            (plan.aggregates, may_mix),
            self.started_at + millis(quiet_from + PRODUCE_MILLIS),
        ));
        if let Some(back_at) = plan.back_at {
            self.world.kinesis.limit_for(plan.workers);
            self.schedule_at(back_at + START_MILLIS, Action::CheckStarted);
        }
        if let Some(former_fleet) = plan.former_fleet {
            leave_rows(&self.world, former_fleet, &mut plan.rng("former fleet", 0));
        }
        let mut rng = plan.rng("start", 0);
        for _ in 0..plan.workers {
            let name = self.new_name();
            let at = plan.workers_from + rng.u64(..plan.workers_within);
            self.schedule_at(at, Action::Start(name));
        }
        for _ in 0..plan.kcl_workers {
            self.schedule_at(rng.u64(20_000..40_000), Action::Fault(FaultKind::KclJoin));
        }
        for fault in &plan.faults {
            self.schedule_at(fault.at, Action::Fault(fault.kind));
        }
        self.run_schedule_until(quiet_from).await;
        self.world.observer.record(EventKind::FaultsOver);
        self.run_schedule_until(quiet_from + SETTLE_MILLIS).await;
        self.check(Checks::check_settled);
        if plan.defect == Some(Defect::LeasesStolen) {
            self.world.table.steal_lease();
        }
        self.run_schedule_until(quiet_from + SETTLE_MILLIS + STABLE_MILLIS).await;
        self.stop_all().await;
        self.check(Checks::check_final);
        self.check_panics();
    }

    fn check(&self, check: impl FnOnce(&mut Checks, u64) -> Result<(), Violation>) {
        let now = self.world.observer.now();
        let verdict = check(&mut self.world.observer.history().checks, now);
        if let Err(Violation { promise, why, .. }) = verdict {
            self.world.observer.report_violation(promise, why);
        }
    }

    fn check_panics(&self) {
        if let Some(panic) = PANIC.with_borrow(|noted| noted.clone().flatten()) {
            self.world.observer.report_violation(Promise::NoPanic, panic);
        }
    }

    fn new_name(&mut self) -> String {
        self.next_name += 1;
        format!("w{}", self.next_name - 1)
    }

    fn now(&self) -> u64 {
        self.world.observer.now()
    }

    fn schedule_at(&mut self, at: u64, action: Action) {
        self.schedule.entry(at).or_default().push_back(action);
    }

    /// Executes the scheduled actions up to a time.
    async fn run_schedule_until(&mut self, until: u64) {
        while let Some((&at, _)) = self.schedule.range(..until).next() {
            sleep_until(self.started_at + millis(at)).await;
            for action in self.schedule.remove(&at).unwrap_or_default() {
                self.execute(action).await;
            }
            self.check_panics();
        }
        sleep_until(self.started_at + millis(until)).await;
        self.check_panics();
    }

    async fn execute(&mut self, action: Action) {
        match action {
            Action::Start(name) => self.start(&name),
            Action::Stop(process) => {
                let index = self.workers.iter().position(|worker| worker.process == process);
                // The new worker may have left meanwhile; an operator keeps the last one.
                if let Some(index) = index.filter(|_| self.workers.len() > 1) {
                    self.stop(index);
                }
            }
            Action::StartAfterEnd(process, name) => {
                let has_ended = |worker: &&Worker| worker.process == process && !worker.has_ended();
                if self.leaving.iter().any(|worker| has_ended(&worker)) {
                    self.schedule_at(self.now() + POLL_INTERVAL_MILLIS, Action::StartAfterEnd(process, name));
                } else {
                    self.start(&name);
                }
            }
            Action::CheckStarted => {
                let waiting = self.workers.iter().filter(|worker| !worker.has_started()).count();
                if waiting > 0 {
                    let why = format!("{waiting} of {} workers have not started", self.workers.len());
                    self.world.observer.report_violation(Promise::StartsInTime, why);
                }
            }
            Action::CreateTable => self.world.table.create(),
            Action::CreateStream(shards) => self.world.kinesis.create(shards),
            Action::FollowAdvice => {
                // The errors of the workers say: delete the table of the old stream.
                let life = self.world.kinesis.life();
                if life.is_some_and(|life| self.world.table.has_rows_of_others(life)) {
                    self.world.table.delete_rows_as_outsider(0, u64::MAX);
                }
            }
            Action::Fault(kind) => self.inject(kind).await,
        }
    }

    fn start(&mut self, name: &str) {
        self.workers.push(Worker::start(&self.world, self.plan, name));
    }

    fn stop(&mut self, index: usize) {
        let worker = self.workers.remove(index);
        worker.stop(&self.world.observer);
        self.leaving.push(worker);
    }

    /// Selects any process of the fleet. KCL workers take part only where they can fail.
    fn select_process(&self, choice: u64) -> Option<(u32, Link)> {
        let ours = self.workers.iter().map(|worker| (worker.process, &worker.link));
        let others = self.kcl.iter().map(|worker| (worker.process, &worker.link));
        let others = others.filter(|_| self.plan.kcl_can_fail);
        let all: Vec<_> = ours.chain(others).collect();
        choose(&all, choice).map(|index| (all[index].0, all[index].1.clone()))
    }

    fn record_disturbance(&self, process: Option<u32>, for_millis: u64, description: impl Into<String>) {
        self.world.observer.record(EventKind::Disturbed {
            process,
            for_millis,
            description: description.into(),
        });
    }

    async fn inject(&mut self, kind: FaultKind) {
        let observer = self.world.observer.clone();
        match kind {
            FaultKind::Crash { worker, back_after, same_name } => {
                let Some(index) = choose(&self.workers, worker) else { return };
                let worker = self.workers.remove(index);
                let name = if same_name { worker.name.clone() } else { self.new_name() };
                worker.crash(&observer).await;
                self.schedule_at(self.now() + back_after + 1, Action::Start(name));
            }
            FaultKind::Pause { worker, for_millis } => {
                let Some((process, link)) = self.select_process(worker) else { return };
                self.record_disturbance(Some(process), for_millis, "paused");
                link.pause(millis(for_millis));
            }
            FaultKind::Partition { worker, for_millis, table, stream, is_one_way } => {
                let Some((process, link)) = self.select_process(worker) else { return };
                let description = format!("partition (table {table}, stream {stream}, one way {is_one_way})");
                if table {
                    self.record_disturbance(Some(process), for_millis, description);
                    link.partition(Destination::Table, millis(for_millis), is_one_way);
                } else {
                    let name = observer.history().names.name_of_worker(process);
                    observer.record_note(format!("{name}: {description} for {for_millis} ms"));
                }
                if stream {
                    link.partition(Destination::Stream, millis(for_millis), is_one_way);
                }
            }
            FaultKind::TableFaults { for_millis, rates } => {
                self.record_disturbance(None, for_millis, format!("{rates:?}"));
                self.world.table.fault_rates.set(rates, millis(for_millis));
            }
            FaultKind::StreamFaults { for_millis, rates } => {
                observer.record_note(format!("stream: {rates:?} for {for_millis} ms"));
                self.world.kinesis.fault_rates.set(rates, millis(for_millis));
            }
            FaultKind::Reshard { shard, is_merge: true, hidden_for } => {
                self.world.kinesis.merge(shard, millis(hidden_for));
            }
            FaultKind::Reshard { shard, is_merge: false, hidden_for } => {
                self.world.kinesis.split(shard, millis(hidden_for));
            }
            FaultKind::Trim { older_than } => self.world.kinesis.trim(millis(older_than)),
            FaultKind::DeleteRow { row } => self.world.table.delete_rows_as_outsider(row, 1),
            FaultKind::DeleteRows { first, count } => self.world.table.delete_rows_as_outsider(first, count),
            FaultKind::EditRow { row, edit, raises_counter } => {
                let newest = self.world.kinesis.newest();
                self.world.table.edit_row_as_outsider(row, edit, raises_counter, newest);
            }
            FaultKind::Operate { operation: Operation::Adopt, .. } => {
                let rng = self.plan.rng("operator", self.now());
                tokio::spawn(adopt_table(self.world.clone(), self.plan.defect, rng));
            }
            FaultKind::Operate { row, operation } => {
                let rng = self.plan.rng("operator", self.now());
                tokio::spawn(operate(self.world.clone(), row, operation, rng));
            }
            FaultKind::RewindAll => self.world.table.rewind_as_outsider(),
            FaultKind::RemoveTable { for_millis } => {
                self.world.table.remove_as_outsider();
                self.schedule_at(self.now() + for_millis + 1, Action::CreateTable);
            }
            FaultKind::RecreateStream { gone_for, shards, operator_after } => {
                if self.world.kinesis.life().is_none() {
                    return;
                }
                self.world.kinesis.remove();
                self.schedule_at(self.now() + gone_for + 1, Action::CreateStream(shards));
                let acts_at = self.now() + gone_for + operator_after;
                for visit in 0..OPERATOR_MILLIS / OPERATOR_INTERVAL_MILLIS {
                    self.schedule_at(acts_at + visit * OPERATOR_INTERVAL_MILLIS, Action::FollowAdvice);
                }
            }
            FaultKind::Handler { worker, for_millis, handler_fault } => {
                let Some(index) = choose(&self.workers, worker) else { return };
                let worker = &self.workers[index];
                match handler_fault {
                    HandlerFault::Slow(_) | HandlerFault::Hangs => {
                        self.record_disturbance(
                            Some(worker.process),
                            for_millis,
                            format!("handler: {handler_fault:?}"),
                        );
                    }
                    HandlerFault::Errors | HandlerFault::Panics => {
                        observer.record_note(format!("{}: {handler_fault:?}", worker.name));
                    }
                }
                worker.application.set_handler_fault(handler_fault, millis(for_millis));
            }
            FaultKind::Join => {
                let name = self.new_name();
                self.start(&name);
            }
            FaultKind::Clone { worker } => {
                let Some(index) = choose(&self.workers, worker) else { return };
                let name = self.workers[index].name.clone();
                self.start(&name);
            }
            FaultKind::Leave { worker } => {
                if self.workers.len() > 1
                    && let Some(index) = choose(&self.workers, worker)
                {
                    self.stop(index);
                }
            }
            FaultKind::Replace { worker, after, same_name } => self.replace(worker, after, same_name),
            FaultKind::Deregister => {
                observer.record_note("outsider deregisters the consumer");
                self.world.fan_out.deregister();
            }
            FaultKind::KclJoin => {
                let name = KCL_NAMES[self.next_kcl % KCL_NAMES.len()];
                self.next_kcl += 1;
                self.kcl.extend(KclWorker::start(&self.world, self.plan, name));
            }
            FaultKind::KclHandOver { row } => {
                if !self.kcl.is_empty() {
                    begin_hand_over(&self.world, row);
                }
            }
            FaultKind::KclLeave { worker } => {
                let Some(index) = choose(&self.kcl, worker) else { return };
                self.kcl.remove(index).crash(&self.world).await;
            }
        }
    }

    fn replace(&mut self, worker: u64, after: u64, same_name: bool) {
        let Some(index) = choose(&self.workers, worker) else { return };
        let process = self.workers[index].process;
        if same_name {
            let name = self.workers[index].name.clone();
            self.stop(index);
            self.schedule_at(self.now() + POLL_INTERVAL_MILLIS, Action::StartAfterEnd(process, name));
        } else {
            let name = self.new_name();
            self.start(&name);
            self.schedule_at(self.now() + after + 1, Action::Stop(process));
        }
    }

    /// Asks every process to stop, and waits.
    async fn stop_all(&mut self) {
        for kcl in std::mem::take(&mut self.kcl) {
            kcl.crash(&self.world).await;
        }
        while !self.workers.is_empty() {
            self.stop(0);
        }
        let deadline = Instant::now() + END_LIMIT;
        while !self.leaving.iter().all(Worker::has_ended) && Instant::now() < deadline {
            sleep(millis(POLL_INTERVAL_MILLIS)).await;
        }
    }
}

async fn produce(
    kinesis: Kinesis,
    mut rng: Rng,
    interval: u64,
    (aggregates, may_mix): (u64, bool),
    until: Instant,
) {
    while Instant::now() < until {
        sleep(millis(rng.u64(1..interval * 2 + 2))).await;
        let is_aggregate = rng.u64(..100) < aggregates;
        kinesis.produce(&mut rng, is_aggregate, may_mix);
    }
}

fn worker_millis(events: &[Event]) -> u64 {
    let mut started = BTreeMap::new();
    let end = events.last().map_or(0, |event| event.at);
    let mut total = 0;
    for event in events {
        match &event.kind {
            EventKind::ProcessStarted { process, is_kcl: false, .. } => {
                started.insert(*process, event.at);
            }
            EventKind::ProcessEnded { process, .. } | EventKind::ProcessCrashed { process } => {
                total += started.remove(process).map_or(0, |at| event.at - at);
            }
            _ => {}
        }
    }
    total + started.values().map(|at| end - at).sum::<u64>()
}
