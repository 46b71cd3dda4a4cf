//! The processes of a run, each in its slot: started, killed, asked to end, paused, and started again.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end_tests::interop::deliveries::now_millis;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::interop::workers::{End, Ended, Kind, Worker, Workers};
use end_to_end_tests::local_servers::Endpoints;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::run_log::RunLog;
use crate::schedule::{Event, Step, Successor};
use crate::{APPLICATION, LIMIT};

/// The time between two checks whether a process has ended by itself or has to be resumed.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The slot whose workers poll. All others read by fan-out.
const POLLING_SLOT: usize = 2;

/// A slot in the fleet.
#[derive(Debug)]
struct Slot {
    /// `None` while a worker ends whose successor has the same name.
    worker: Option<Worker>,
    /// The endpoints of the slot's proxies.
    endpoints: Endpoints,
    /// The fan-out consumer of its workers; `None`: they poll.
    consumer: Option<&'static str>,
    resumed_at: Option<Instant>,
}

/// All processes.
pub(crate) struct Fleet {
    workers: Workers,
    slots: Vec<Slot>,
    /// Workers that were asked to end, and the slot in which a successor with the same name will start.
    ending: JoinSet<(Option<usize>, Ended)>,
    run_log: RunLog,
    /// The workers that have ended.
    pub(crate) ended: Vec<Ended>,
    /// The names that several processes had.
    pub(crate) reused_names: BTreeSet<String>,
    /// Unexpected ends of processes, one line each.
    pub(crate) faults: Vec<String>,
}

impl Fleet {
    /// Starts a worker in each slot, which has its own proxies to the servers.
    pub(crate) fn start(mut workers: Workers, slots: Vec<Endpoints>, run_log: &RunLog) -> Self {
        let mut start = |(index, endpoints)| {
            let consumer = (index != POLLING_SLOT).then_some(APPLICATION);
            let worker = Some(workers.through(&endpoints).by_fan_out(consumer).start(Kind::Rust));
            Slot { worker, endpoints, consumer, resumed_at: None }
        };
        let slots = slots.into_iter().enumerate().map(&mut start).collect();
        run_log.log("the fleet starts");
        Self {
            workers,
            slots,
            ending: JoinSet::new(),
            run_log: run_log.clone(),
            ended: Vec::new(),
            reused_names: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    /// Waits until a time, and does work that becomes due.
    pub(crate) async fn wait_until(&mut self, until: Instant) {
        loop {
            self.do_due_work().await;
            let now = Instant::now();
            if now >= until {
                return;
            }
            sleep(CHECK_INTERVAL.min(until - now)).await;
        }
    }

    /// Does work that becomes due, until it is cancelled.
    pub(crate) async fn keep_running(&mut self) {
        loop {
            self.do_due_work().await;
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Resumes workers whose pause is over, starts the successors of workers that have ended, and restarts workers whose
    /// start failed.
    async fn do_due_work(&mut self) {
        for slot in &mut self.slots {
            if let (Some(worker), Some(at)) = (&slot.worker, slot.resumed_at)
                && Instant::now() >= at
            {
                worker.resume().await;
                self.run_log.log(&format!("{} is resumed", worker.name));
                slot.resumed_at = None;
            }
        }
        while let Some(ended) = self.ending.try_join_next() {
            self.record_ended(ended.unwrap());
        }
        for slot in &mut self.slots {
            let Some(status) = slot.worker.as_mut().and_then(Worker::ended_by_itself) else { continue };
            let Some(worker) = slot.worker.take() else { continue };
            // A supervisor would do the same: a worker ends by itself only when it cannot reach the servers for long at its
            // start.
            if worker.has_started() {
                self.faults.push(format!("{} ended by itself: {status:?}", worker.name));
            }
            self.run_log.log(&format!("{} could not start and is started again", worker.name));
            self.run_log.count("failed starts");
            let ended = Ended { name: worker.name, how: End::Undrained, at_millis: now_millis() };
            self.reused_names.insert(ended.name.clone());
            slot.resumed_at = None;
            let workers = self.workers.through(&slot.endpoints).by_fan_out(slot.consumer);
            slot.worker = Some(workers.start_again(&ended));
        }
    }

    fn record_ended(&mut self, (successor, ended): (Option<usize>, Ended)) {
        let how = if ended.how == End::Stopped { "in order" } else { "with deliveries not checkpointed" };
        self.run_log.log(&format!("{} has ended {how}", ended.name));
        self.run_log.count(if ended.how == End::Stopped {
            "stops in order"
        } else {
            "stops with deliveries not checkpointed"
        });
        if let Some(slot) = successor {
            self.slots[slot].worker = Some(self.succeed(slot, Successor::SameName, &ended));
            self.run_log.log(&format!("{} starts again", ended.name));
        }
        self.ended.push(ended);
    }

    /// Carries out a step on the first running process from its slot on.
    pub(crate) async fn carry_out(&mut self, step: &Step) {
        let count = self.slots.len();
        let is_able = |slot: &Slot| slot.worker.is_some() && slot.resumed_at.is_none();
        let from_there = (0..count).map(|offset| (step.slot + offset) % count);
        let Some(index) = from_there.into_iter().find(|index| is_able(&self.slots[*index])) else {
            self.run_log.log(&format!("no process is there for {:?}", step.event));
            return;
        };
        match step.event {
            Event::Kill(successor) => {
                let Some(worker) = self.slots[index].worker.take() else { return };
                let killed = worker.kill_if_running().await;
                let next = self.succeed(index, successor, &killed);
                self.run_log.log(&format!("{} is killed, {} starts", killed.name, next.name));
                self.run_log.count("kills");
                self.slots[index].worker = Some(next);
                self.ended.push(killed);
            }
            Event::Stop(successor) => {
                let Some(worker) = self.slots[index].worker.take() else { return };
                self.run_log.log(&format!("{} is asked to end", worker.name));
                if successor == Successor::NewName {
                    let next = self.workers_of(index).start(Kind::Rust);
                    self.run_log.log(&format!("{} starts", next.name));
                    self.slots[index].worker = Some(next);
                }
                let slot = (successor == Successor::SameName).then_some(index);
                self.ask_to_end(worker, slot).await;
            }
            Event::Pause(time) => {
                let slot = &mut self.slots[index];
                let Some(worker) = &mut slot.worker else { return };
                if worker.ended_by_itself().is_some() {
                    return;
                }
                worker.pause().await;
                slot.resumed_at = Some(Instant::now() + time);
                self.run_log.log(&format!("{} is paused for {:.1} s", worker.name, time.as_secs_f64()));
                self.run_log.count("pauses");
            }
            // The test itself reshards.
            Event::Reshard => {}
        }
    }

    fn succeed(&mut self, slot: usize, successor: Successor, ended: &Ended) -> Worker {
        match successor {
            Successor::SameName => {
                self.reused_names.insert(ended.name.clone());
                self.workers_of(slot).start_again(ended)
            }
            Successor::NewName => self.workers_of(slot).start(Kind::Rust),
        }
    }

    /// Starts workers with the endpoints and the retrieval of a slot.
    fn workers_of(&mut self, slot: usize) -> &mut Workers {
        let slot = &self.slots[slot];
        self.workers.through(&slot.endpoints).by_fan_out(slot.consumer)
    }

    async fn ask_to_end(&mut self, worker: Worker, slot: Option<usize>) {
        // Before its first log line a process does not handle the signal.
        wait_for(&format!("{} has started", worker.name), LIMIT, async || {
            if worker.log_text().is_empty() { Err("its log is empty".to_owned()) } else { Ok(()) }
        })
        .await;
        self.ending.spawn(async move { (slot, worker.stop_as_far_as_possible(LIMIT).await) });
    }

    /// Resumes all workers and waits for those that are ending.
    pub(crate) async fn wait_for_ending(&mut self) {
        for slot in &mut self.slots {
            if slot.resumed_at.is_some() {
                slot.resumed_at = Some(Instant::now());
            }
        }
        self.do_due_work().await;
        while let Some(ended) = self.ending.join_next().await {
            self.record_ended(ended.unwrap());
        }
    }

    /// Asks one worker after another to end. Without faults each must end in order.
    pub(crate) async fn stop_all(&mut self) {
        for index in 0..self.slots.len() {
            if let Some(worker) = self.slots[index].worker.take() {
                self.stop_in_order(worker).await;
            }
        }
    }

    /// Asks a worker to end, which must end in order.
    pub(crate) async fn stop_in_order(&mut self, worker: Worker) {
        let name = worker.name.clone();
        self.ask_to_end(worker, None).await;
        self.wait_for_ending().await;
        let how = self.ended.iter().rfind(|ended| ended.name == name).map(|ended| ended.how);
        if how != Some(End::Stopped) {
            self.faults.push(format!("{name} did not end in order in clear period_changes"));
        }
    }

    /// Starts one more worker, with the proxies of the first slot.
    pub(crate) fn start_another(&mut self) -> Worker {
        self.workers_of(0).start(Kind::Rust)
    }
}
