//! One process of the fleet: the real receiver, its network link, and its application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use receiver::{
    Consumer, ConsumerBuilder, ConsumerError, ConsumerErrorKind, ConsumerHandle, ConsumerState,
    InitialPosition, StreamConfig,
};
use shard_worker::{DataLossPolicy, StreamSource};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use crate::application::Application;
use crate::event::{EPOCH_MILLIS, EventKind, Process};
use crate::fan_out::Service;
use crate::kinesis::Kinesis;
use crate::kinesis_client::KinesisClient;
use crate::network::Link;
use crate::observer::Observer;
use crate::plan::{Defect, Plan, Start};
use crate::several_streams::{Changes, Receiver, SecondStream};
use crate::table::Table;
use crate::table_client::TableClient;

/// The fail-over time of every simulated fleet.
pub const FAILOVER_TIME: Duration = Duration::from_secs(10);

/// Time between a failed start and the next one, as with a service manager.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// The services that processes use. Clones share them.
#[derive(Debug, Clone)]
pub struct World {
    /// Records the events.
    pub observer: Observer,
    /// The table.
    pub table: Table,
    /// The stream.
    pub kinesis: Kinesis,
    /// The fan-out service of the stream.
    pub fan_out: Service,
    /// The second stream of workers that read several.
    pub second: SecondStream,
}

/// A running process.
#[derive(Debug)]
pub struct Worker {
    /// Its worker name.
    pub name: String,
    /// The process.
    pub process: Process,
    /// Its network link.
    pub link: Link,
    /// Its application.
    pub application: Application,
    control: Arc<Control>,
    task: JoinHandle<()>,
    ignores_stop: bool,
}

#[derive(Debug, Default)]
struct Control {
    is_stopped: AtomicBool,
    handle: Mutex<Option<ConsumerHandle>>,
}

/// Draws the clock rate of a worker in permille. One runtime has one clock, so the simulation scales the worker's
/// settings by its rate. Constant durations in the crates keep the true rate; none of them decides about ownership.
fn clock(plan: &Plan, process: u64) -> u64 {
    match plan.clock_spread {
        0 => 1000,
        spread => plan.rng("clock", process).u64(1000 - spread..=1000 + spread),
    }
}

fn initial_position(start: Start) -> InitialPosition {
    match start {
        Start::TrimHorizon => InitialPosition::TrimHorizon,
        Start::Latest => InitialPosition::Latest,
        Start::AtTimestamp(millis) => InitialPosition::AtTimestamp(
            SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MILLIS + millis),
        ),
    }
}

fn builder(clock: u64, is_limited: bool) -> ConsumerBuilder {
    let by_clock = |seconds: u64| Duration::from_millis(seconds * clock);
    let mut builder = Consumer::builder()
        .application("simulated")
        .failover_time(by_clock(FAILOVER_TIME.as_secs()))
        .hand_over_time(by_clock(10))
        .checkpoint_interval(by_clock(5))
        .drain_time(by_clock(30))
        // Retention removes closed shards before they are read to their end. Their descendants must be read all the
        // same.
        .data_loss_policy(DataLossPolicy::Continue);
    if is_limited {
        builder = builder.max_leases(1);
    }
    builder
}

impl Worker {
    /// Starts a process under a worker name.
    pub fn start(world: &World, plan: &Plan, name: &str) -> Self {
        let number = world.observer.history().names.count();
        let clock = clock(plan, number);
        let process = world.observer.new_process(name, clock, false);
        let link = Link::new(plan.rng("link", number), plan.has_long_tails);
        let defect = plan.defect;
        let application = Application {
            observer: world.observer.clone(),
            link: link.clone(),
            process,
            defect,
            acknowledges_late: plan.acknowledges_late,
            handler_fault: Arc::default(),
        };
        let is_limited = defect == Some(Defect::OneLeaseOnly) && process == 0;
        let builder = builder(clock, is_limited)
            .worker_id(name)
            .initial_position(initial_position(plan.start))
            .processors(application.clone());
        let table = TableClient { table: world.table.clone(), link: link.clone(), process, defect };
        let source: Arc<dyn StreamSource> = if plan.is_fan_out {
            Arc::new(world.fan_out.stream(plan, &link, process))
        } else {
            let kinesis = world.kinesis.clone();
            Arc::new(KinesisClient { kinesis, link: link.clone(), process, defect })
        };
        let second = plan.has_second_stream.then(|| world.second.clone());
        let changes_rng = plan.rng("changes of the list of streams", number);
        let until_quiet = plan.quiet_from.saturating_sub(world.observer.now());
        let changes_until = Instant::now() + Duration::from_millis(until_quiet);
        let build = move |seed: u64| -> Result<Receiver, ConsumerError> {
            let (worker, source, table) = (builder.clone().seed(seed), source.clone(), table.clone());
            Ok(match &second {
                None => Receiver::One(Box::new(worker.shared_source(source).lease_store(table).build()?)),
                Some(second) => {
                    let consumer = second.beside(StreamConfig::shared(source), worker, table).build()?;
                    let rng = changes_rng.clone();
                    Receiver::Both(consumer, Changes { second: second.clone(), rng, until: changes_until })
                }
            })
        };
        let control = Arc::new(Control::default());
        let running = run(
            build,
            plan.rng("receiver", number).u64(..),
            control.clone(),
            world.observer.clone(),
            process,
        );
        let task = tokio::spawn(running);
        let ignores_stop = defect == Some(Defect::StopsIgnored);
        Self { name: name.to_owned(), process, link, application, control, task, ignores_stop }
    }

    /// Asks the process to stop.
    pub fn stop(&self, observer: &Observer) {
        observer.record(EventKind::StopRequested { process: self.process });
        if self.ignores_stop {
            return;
        }
        self.control.is_stopped.store(true, Ordering::Relaxed);
        if let Some(handle) = &*self.control.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            handle.stop();
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether its receiver has started.
    pub fn has_started(&self) -> bool {
        let handle = self.control.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.as_ref().is_some_and(|handle| handle.status().state != ConsumerState::Starting)
    }

    /// Kills it.
    pub async fn crash(self, observer: &Observer) {
        self.task.abort();
        let _ = self.task.await;
        observer.record(EventKind::ProcessCrashed { process: self.process });
    }
}

/// Runs a receiver until it ends. A receiver that fails to start is started again.
async fn run(
    build: impl Fn(u64) -> Result<Receiver, ConsumerError>,
    seed: u64,
    control: Arc<Control>,
    observer: Observer,
    process: Process,
) {
    for attempt in 0.. {
        let receiver = match build(seed.wrapping_add(attempt)) {
            Ok(receiver) => receiver,
            Err(error) => {
                let how = error.to_string();
                observer.record(EventKind::ProcessEnded { process, how, is_drained: false });
                return;
            }
        };
        *control.handle.lock().unwrap_or_else(PoisonError::into_inner) = receiver.handle();
        match receiver.run().await {
            Ok(report) => {
                let shards = report.shards.len();
                let is_drained = report.is_drained();
                let how = if is_drained { "drained" } else { "not drained" };
                let how = format!("{how}, {shards} shards");
                observer.record(EventKind::ProcessEnded { process, how, is_drained });
                return;
            }
            Err(error) => observer.record(EventKind::StartFailed {
                process,
                why: error.to_string(),
                is_wrong_stream: error.kind() == ConsumerErrorKind::WrongStream,
            }),
        }
        sleep(RESTART_AFTER).await;
        if control.is_stopped.load(Ordering::Relaxed) {
            let how = "stopped between two starts".to_owned();
            observer.record(EventKind::ProcessEnded { process, how, is_drained: false });
            return;
        }
    }
}
