//! The processes of a run, each in its place: started, killed, asked to end, paused, and started again.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end_tests::interop::deliveries::now_millis;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::interop::workers::{End, Ended, Kind, Worker, Workers};
use end_to_end_tests::local_servers::Endpoints;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::LIMIT;
use crate::chronicle::Chronicle;
use crate::schedule::{Event, Step, Successor};

/// How often it is looked whether a process has ended by itself or is to be resumed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A place in the fleet.
#[derive(Debug)]
struct Place {
    /// `None` while one ends whose name the next one has.
    worker: Option<Worker>,
    /// Where whoever has it reaches the servers.
    endpoints: Endpoints,
    resumed_at: Option<Instant>,
}

/// All processes.
pub(crate) struct Fleet {
    workers: Workers,
    places: Vec<Place>,
    /// Those that are asked to end, and where a successor is to start.
    ending: JoinSet<(Option<usize>, Ended)>,
    chronicle: Chronicle,
    /// Those that have ended.
    pub(crate) ended: Vec<Ended>,
    /// The names that several processes had, one after another.
    pub(crate) used_again: BTreeSet<String>,
    /// How processes ended that should not have.
    pub(crate) faults: Vec<String>,
}

impl Fleet {
    /// Starts one in each place, which has its own way to the servers.
    pub(crate) fn start(mut workers: Workers, places: Vec<Endpoints>, chronicle: &Chronicle) -> Self {
        let mut start = |endpoints| {
            let worker = Some(workers.through(&endpoints).start(Kind::Rust));
            Place { worker, endpoints, resumed_at: None }
        };
        let places = places.into_iter().map(&mut start).collect();
        chronicle.say("the fleet starts");
        Self {
            workers,
            places,
            ending: JoinSet::new(),
            chronicle: chronicle.clone(),
            ended: Vec::new(),
            used_again: BTreeSet::new(),
            faults: Vec::new(),
        }
    }

    /// Waits until a time, and in the meantime does what is due.
    pub(crate) async fn wait_until(&mut self, until: Instant) {
        loop {
            self.look().await;
            let now = Instant::now();
            if now >= until {
                return;
            }
            sleep(LOOK_INTERVAL.min(until - now)).await;
        }
    }

    /// Does what is due, without an end.
    pub(crate) async fn wait_for_ever(&mut self) {
        loop {
            self.look().await;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Resumes whoever was paused for long enough, lets the next one follow whoever has ended, and starts those again that
    /// gave up their start.
    async fn look(&mut self) {
        for place in &mut self.places {
            if let (Some(worker), Some(at)) = (&place.worker, place.resumed_at)
                && Instant::now() >= at
            {
                worker.resume().await;
                self.chronicle.say(&format!("{} is resumed", worker.name));
                place.resumed_at = None;
            }
        }
        while let Some(ended) = self.ending.try_join_next() {
            self.note_ended(ended.unwrap());
        }
        for place in &mut self.places {
            let Some(status) = place.worker.as_mut().and_then(Worker::ended_by_itself) else { continue };
            let Some(worker) = place.worker.take() else { continue };
            // As whoever runs it would: it ends when the servers cannot be reached for long while it starts, and only then.
            if worker.has_started() {
                self.faults.push(format!("{} ended by itself: {status:?}", worker.name));
            }
            self.chronicle.say(&format!("{} gave up its start and starts again", worker.name));
            self.chronicle.count("starts given up");
            let ended = Ended { name: worker.name, how: End::Undrained, at_millis: now_millis() };
            self.used_again.insert(ended.name.clone());
            place.resumed_at = None;
            place.worker = Some(self.workers.through(&place.endpoints).start_again(&ended));
        }
    }

    fn note_ended(&mut self, (successor, ended): (Option<usize>, Ended)) {
        let how = if ended.how == End::Stopped { "in order" } else { "with something left undone" };
        self.chronicle.say(&format!("{} has ended {how}", ended.name));
        self.chronicle.count(if ended.how == End::Stopped {
            "stops in order"
        } else {
            "stops with something undone"
        });
        if let Some(place) = successor {
            self.places[place].worker = Some(self.succeed(place, Successor::SameName, &ended));
            self.chronicle.say(&format!("{} starts again", ended.name));
        }
        self.ended.push(ended);
    }

    /// Carries a step out, on the first process from its place on that is there and not paused.
    pub(crate) async fn carry_out(&mut self, step: &Step) {
        let count = self.places.len();
        let is_able = |place: &Place| place.worker.is_some() && place.resumed_at.is_none();
        let from_there = (0..count).map(|offset| (step.place + offset) % count);
        let Some(index) = from_there.into_iter().find(|index| is_able(&self.places[*index])) else {
            self.chronicle.say(&format!("nobody is there to {:?}", step.event));
            return;
        };
        match step.event {
            Event::Kill(successor) => {
                let Some(worker) = self.places[index].worker.take() else { return };
                let killed = worker.kill_if_running().await;
                let next = self.succeed(index, successor, &killed);
                self.chronicle.say(&format!("{} is killed, {} starts", killed.name, next.name));
                self.chronicle.count("kills");
                self.places[index].worker = Some(next);
                self.ended.push(killed);
            }
            Event::Stop(successor) => {
                let Some(worker) = self.places[index].worker.take() else { return };
                self.chronicle.say(&format!("{} is asked to end", worker.name));
                if successor == Successor::OwnName {
                    let next = self.workers.through(&self.places[index].endpoints).start(Kind::Rust);
                    self.chronicle.say(&format!("{} starts", next.name));
                    self.places[index].worker = Some(next);
                }
                let place = (successor == Successor::SameName).then_some(index);
                self.ask_to_end(worker, place).await;
            }
            Event::Pause(time) => {
                let place = &mut self.places[index];
                let Some(worker) = &mut place.worker else { return };
                if worker.ended_by_itself().is_some() {
                    return;
                }
                worker.pause().await;
                place.resumed_at = Some(Instant::now() + time);
                self.chronicle.say(&format!("{} is paused for {:.1} s", worker.name, time.as_secs_f64()));
                self.chronicle.count("pauses");
            }
            // Not a matter of the fleet.
            Event::Reshard => {}
        }
    }

    fn succeed(&mut self, place: usize, successor: Successor, ended: &Ended) -> Worker {
        self.workers.through(&self.places[place].endpoints);
        match successor {
            Successor::SameName => {
                self.used_again.insert(ended.name.clone());
                self.workers.start_again(ended)
            }
            Successor::OwnName => self.workers.start(Kind::Rust),
        }
    }

    async fn ask_to_end(&mut self, worker: Worker, place: Option<usize>) {
        // Before its first line it does not know the signal.
        wait_for(&format!("{} has begun", worker.name), LIMIT, async || {
            if worker.said().is_empty() { Err("its log is empty".to_owned()) } else { Ok(()) }
        })
        .await;
        self.ending.spawn(async move { (place, worker.stop_as_far_as_possible(LIMIT).await) });
    }

    /// Resumes everybody and waits for those that are ending.
    pub(crate) async fn settle(&mut self) {
        for place in &mut self.places {
            if place.resumed_at.is_some() {
                place.resumed_at = Some(Instant::now());
            }
        }
        self.look().await;
        while let Some(ended) = self.ending.join_next().await {
            self.note_ended(ended.unwrap());
        }
    }

    /// Asks one after another to end, in clear weather: each must do so in order.
    pub(crate) async fn stop_all(&mut self) {
        for index in 0..self.places.len() {
            if let Some(worker) = self.places[index].worker.take() {
                self.stop_in_order(worker).await;
            }
        }
    }

    /// Asks one to end, which must be able to.
    pub(crate) async fn stop_in_order(&mut self, worker: Worker) {
        let name = worker.name.clone();
        self.ask_to_end(worker, None).await;
        self.settle().await;
        let how = self.ended.iter().rfind(|ended| ended.name == name).map(|ended| ended.how);
        if how != Some(End::Stopped) {
            self.faults.push(format!("{name} did not end in order in clear weather"));
        }
    }

    /// Starts one more, with the first way to the servers.
    pub(crate) fn start_another(&mut self) -> Worker {
        self.workers.through(&self.places[0].endpoints).start(Kind::Rust)
    }
}
