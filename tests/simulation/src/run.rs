//! Runs a plan: starts the fleet, lets happen what is to happen, waits until it is quiet, and asks everybody to end.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Once;

use fastrand::Rng;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::checks::{Checks, Promise, SETTLE_MILLIS, Violation};
use crate::event::{Event, What};
use crate::fan_out::Service;
use crate::kcl::KclWorker;
use crate::kinesis::Kinesis;
use crate::network::{Link, Service as Destination};
use crate::observer::Observer;
use crate::plan::{FaultKind, Mood, Plan, Planted};
use crate::table::Table;
use crate::trace::Names;
use crate::worker::{Worker, World};

/// How long the fleet is left alone after it has settled, in milliseconds.
const REST_MILLIS: u64 = 60_000;

/// How long records are produced after the faults, in milliseconds.
const PRODUCE_MILLIS: u64 = 60_000;

/// How long the end of everybody may take.
const END_LIMIT: Duration = Duration::from_secs(200);

/// How often it is looked whether a process has ended.
const LOOK_INTERVAL_MILLIS: u64 = 500;

/// The names of the workers of the KCL's kind.
const KCL_NAMES: [&str; 8] = ["kcl0", "kcl1", "kcl2", "kcl3", "kcl4", "kcl5", "kcl6", "kcl7"];

/// What a simulation gave.
#[derive(Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// What happened.
    pub events: Vec<Event>,
    /// The names in it.
    pub names: Names,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// How long our workers ran, all together, in virtual milliseconds.
    pub worker_millis: u64,
}

impl Outcome {
    /// The trace, one line for each event.
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
    /// The first panic of the simulation on this thread; `None`: none is running here.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Notes panics of simulations instead of printing them; all others go where they went before.
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
    StartWhenOver(u32, String),
}

struct Fleet<'a> {
    plan: &'a Plan,
    world: World,
    workers: Vec<Worker>,
    leaving: Vec<Worker>,
    kcl: Vec<KclWorker>,
    agenda: BTreeMap<u64, VecDeque<Action>>,
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
        let observer = Observer::new(Checks::new(plan.start));
        let table = Table::new(observer.clone(), plan.planted);
        let kinesis = Kinesis::new(observer.clone(), plan.shards);
        let fan_out = Service::new(&kinesis, plan);
        let mut fleet = Self {
            plan,
            world: World { observer: observer.clone(), table, kinesis, fan_out },
            workers: Vec::new(),
            leaving: Vec::new(),
            kcl: Vec::new(),
            agenda: BTreeMap::new(),
            started_at: Instant::now(),
            next_name: 0,
            next_kcl: 0,
        };
        tokio::select! {
            biased;
            () = observer.violated() => {}
            () = fleet.live() => {}
        }
        let record = &mut *observer.record();
        let events = std::mem::take(&mut record.events);
        Outcome {
            plan: plan.clone(),
            worker_millis: worker_millis(&events),
            events,
            names: std::mem::take(&mut record.names),
            violation: record.violation.take(),
        }
    }

    async fn live(&mut self) {
        let plan = self.plan;
        let quiet_at = plan.calm_at();
        tokio::spawn(produce(
            self.world.kinesis.clone(),
            plan.rng("producer", 0),
            plan.record_interval,
            plan.aggregates,
            self.started_at + millis(quiet_at + PRODUCE_MILLIS),
        ));
        let mut rng = plan.rng("start", 0);
        for _ in 0..plan.workers {
            let name = self.new_name();
            let at = plan.workers_from + rng.u64(..plan.workers_within);
            self.at(at, Action::Start(name));
        }
        for _ in 0..plan.kcl_workers {
            self.at(rng.u64(20_000..40_000), Action::Fault(FaultKind::KclJoin));
        }
        for fault in &plan.faults {
            self.at(fault.at, Action::Fault(fault.kind));
        }
        self.work_until(quiet_at).await;
        self.world.observer.note(What::Quiet);
        self.work_until(quiet_at + SETTLE_MILLIS).await;
        self.check(Checks::settled);
        if plan.planted == Some(Planted::Restless) {
            self.world.table.give_away();
        }
        self.work_until(quiet_at + SETTLE_MILLIS + REST_MILLIS).await;
        self.end().await;
        self.check(Checks::over);
        self.check_panics();
    }

    fn check(&self, check: impl FnOnce(&mut Checks, u64) -> Result<(), Violation>) {
        let now = self.world.observer.now();
        let verdict = check(&mut self.world.observer.record().checks, now);
        if let Err(Violation { promise, why, .. }) = verdict {
            self.world.observer.violate(promise, why);
        }
    }

    fn check_panics(&self) {
        if let Some(panic) = PANIC.with_borrow(|noted| noted.clone().flatten()) {
            self.world.observer.violate(Promise::NoPanic, panic);
        }
    }

    fn new_name(&mut self) -> String {
        self.next_name += 1;
        format!("w{}", self.next_name - 1)
    }

    fn now(&self) -> u64 {
        self.world.observer.now()
    }

    fn at(&mut self, at: u64, action: Action) {
        self.agenda.entry(at).or_default().push_back(action);
    }

    /// Does what is to be done until a time.
    async fn work_until(&mut self, until: u64) {
        while let Some((&at, _)) = self.agenda.range(..until).next() {
            sleep_until(self.started_at + millis(at)).await;
            for action in self.agenda.remove(&at).unwrap_or_default() {
                self.act(action).await;
            }
            self.check_panics();
        }
        sleep_until(self.started_at + millis(until)).await;
        self.check_panics();
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start(name) => self.start(&name),
            Action::Stop(process) => {
                let index = self.workers.iter().position(|worker| worker.process == process);
                if let Some(index) = index {
                    self.stop(index);
                }
            }
            Action::StartWhenOver(process, name) => {
                let is_over = |worker: &&Worker| worker.process == process && !worker.is_over();
                if self.leaving.iter().any(|worker| is_over(&worker)) {
                    self.at(self.now() + LOOK_INTERVAL_MILLIS, Action::StartWhenOver(process, name));
                } else {
                    self.start(&name);
                }
            }
            Action::Fault(kind) => self.fault(kind).await,
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

    /// Any process of the fleet; one of the KCL's kind only where these can fail.
    fn any(&self, choice: u64) -> Option<(u32, Link)> {
        let ours = self.workers.iter().map(|worker| (worker.process, &worker.link));
        let others = self.kcl.iter().map(|worker| (worker.process, &worker.link));
        let others = others.filter(|_| self.plan.kcl_can_fail);
        let all: Vec<_> = ours.chain(others).collect();
        choose(&all, choice).map(|index| (all[index].0, all[index].1.clone()))
    }

    fn disturb(&self, process: Option<u32>, for_millis: u64, what: impl Into<String>) {
        self.world.observer.note(What::Disturbed { process, for_millis, what: what.into() });
    }

    async fn fault(&mut self, kind: FaultKind) {
        let observer = self.world.observer.clone();
        match kind {
            FaultKind::Crash { worker, back_after, same_name } => {
                let Some(index) = choose(&self.workers, worker) else { return };
                let worker = self.workers.remove(index);
                let name = if same_name { worker.name.clone() } else { self.new_name() };
                worker.crash(&observer).await;
                self.at(self.now() + back_after + 1, Action::Start(name));
            }
            FaultKind::Pause { worker, for_millis } => {
                let Some((process, link)) = self.any(worker) else { return };
                self.disturb(Some(process), for_millis, "paused");
                link.pause(millis(for_millis));
            }
            FaultKind::Partition { worker, for_millis, table, stream, is_one_way } => {
                let Some((process, link)) = self.any(worker) else { return };
                let what = format!("cut off (table {table}, stream {stream}, one way {is_one_way})");
                if table {
                    self.disturb(Some(process), for_millis, what);
                    link.cut(Destination::Table, millis(for_millis), is_one_way);
                } else {
                    let name = observer.record().names.name_of_worker(process);
                    observer.say(format!("{name}: {what} for {for_millis} ms"));
                }
                if stream {
                    link.cut(Destination::Stream, millis(for_millis), is_one_way);
                }
            }
            FaultKind::TableStorm { for_millis, weather } => {
                self.disturb(None, for_millis, format!("{weather:?}"));
                self.world.table.sky.set(weather, millis(for_millis));
            }
            FaultKind::StreamStorm { for_millis, weather } => {
                observer.say(format!("the stream: {weather:?} for {for_millis} ms"));
                self.world.kinesis.sky.set(weather, millis(for_millis));
            }
            FaultKind::Reshard { shard, is_merge: true, hidden_for } => {
                self.world.kinesis.merge(shard, millis(hidden_for));
            }
            FaultKind::Reshard { shard, is_merge: false, hidden_for } => {
                self.world.kinesis.split(shard, millis(hidden_for));
            }
            FaultKind::Trim { older_than } => self.world.kinesis.trim(millis(older_than)),
            FaultKind::DeleteRow { row } => self.world.table.delete_behind_our_back(row),
            FaultKind::Handler { worker, for_millis, mood } => {
                let Some(index) = choose(&self.workers, worker) else { return };
                let worker = &self.workers[index];
                match mood {
                    Mood::Slow(_) | Mood::Hangs => {
                        self.disturb(Some(worker.process), for_millis, format!("the application: {mood:?}"));
                    }
                    Mood::Errors | Mood::Panics => observer.say(format!("{}: {mood:?}", worker.name)),
                }
                worker.application.set_mood(mood, millis(for_millis));
            }
            FaultKind::Join => {
                let name = self.new_name();
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
                observer.say("somebody deregisters the consumer");
                self.world.fan_out.deregister();
            }
            FaultKind::KclJoin => {
                let name = KCL_NAMES[self.next_kcl % KCL_NAMES.len()];
                self.next_kcl += 1;
                self.kcl.extend(KclWorker::start(&self.world, self.plan, name));
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
            self.at(self.now() + LOOK_INTERVAL_MILLIS, Action::StartWhenOver(process, name));
        } else {
            let name = self.new_name();
            self.start(&name);
            self.at(self.now() + after + 1, Action::Stop(process));
        }
    }

    /// Asks everybody to end, and waits.
    async fn end(&mut self) {
        for kcl in std::mem::take(&mut self.kcl) {
            kcl.crash(&self.world).await;
        }
        while !self.workers.is_empty() {
            self.stop(0);
        }
        let deadline = Instant::now() + END_LIMIT;
        while !self.leaving.iter().all(Worker::is_over) && Instant::now() < deadline {
            sleep(millis(LOOK_INTERVAL_MILLIS)).await;
        }
    }
}

async fn produce(kinesis: Kinesis, mut rng: Rng, interval: u64, aggregates: u64, until: Instant) {
    while Instant::now() < until {
        sleep(millis(rng.u64(1..interval * 2 + 2))).await;
        let is_aggregate = rng.u64(..100) < aggregates;
        kinesis.produce(&mut rng, is_aggregate);
    }
}

fn worker_millis(events: &[Event]) -> u64 {
    let mut started = BTreeMap::new();
    let end = events.last().map_or(0, |event| event.at);
    let mut total = 0;
    for event in events {
        match &event.what {
            What::Started { process, is_kcl: false, .. } => {
                started.insert(*process, event.at);
            }
            What::Ended { process, .. } | What::Crashed { process } => {
                total += started.remove(process).map_or(0, |at| event.at - at);
            }
            _ => {}
        }
    }
    total + started.values().map(|at| end - at).sum::<u64>()
}
