//! One process of the fleet: the real receiver, its way to the services, and its application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use receiver::{InitialPosition, Receiver, ReceiverBuilder, ReceiverHandle};
use shard_worker::DataLossPolicy;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

use crate::application::Application;
use crate::event::{EPOCH_MILLIS, Process, What};
use crate::fan_out::Service;
use crate::kinesis::Kinesis;
use crate::kinesis_client::KinesisClient;
use crate::network::Link;
use crate::observer::Observer;
use crate::plan::{Plan, Planted, Start};
use crate::table::Table;
use crate::table_client::TableClient;

/// The fail-over time of every fleet here.
pub const FAILOVER_TIME: Duration = Duration::from_secs(10);

/// How long after a failed start the process is started again, as a service manager does.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// The world that processes live in. Clones are the same.
#[derive(Debug, Clone)]
pub struct World {
    /// What is seen.
    pub observer: Observer,
    /// The table.
    pub table: Table,
    /// The stream.
    pub kinesis: Kinesis,
    /// The fan-out of the stream.
    pub fan_out: Service,
}

/// A running process.
#[derive(Debug)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Which process it is.
    pub process: Process,
    /// Its way to the services.
    pub link: Link,
    /// Its application.
    pub application: Application,
    control: Arc<Control>,
    task: JoinHandle<()>,
    is_deaf: bool,
}

#[derive(Debug, Default)]
struct Control {
    is_stopped: AtomicBool,
    handle: Mutex<Option<ReceiverHandle>>,
}

/// The clock of a worker in permille: its durations are those of the settings times this. One runtime has one clock, so
/// a clock of another rate is modelled by settings that are longer or shorter by that rate. Durations that are constants
/// in the crates keep the true rate; none of them decides about ownership.
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

fn builder(clock: u64, is_limited: bool) -> ReceiverBuilder {
    let by_clock = |seconds: u64| Duration::from_millis(seconds * clock);
    let mut builder = Receiver::builder()
        .application("simulated")
        .failover_time(by_clock(FAILOVER_TIME.as_secs()))
        .hand_over_time(by_clock(10))
        .checkpoint_interval(by_clock(5))
        .drain_time(by_clock(30))
        // Retention removes closed shards that are not read to their ends; what follows them is to be read all the same.
        .data_loss_policy(DataLossPolicy::Continue);
    if is_limited {
        builder = builder.max_leases(1);
    }
    builder
}

impl Worker {
    /// Starts a process under a name.
    pub fn start(world: &World, plan: &Plan, name: &str) -> Self {
        let number = world.observer.record().names.count();
        let clock = clock(plan, number);
        let process = world.observer.new_process(name, clock, false);
        let link = Link::new(plan.rng("link", number));
        let planted = plan.planted;
        let application = Application {
            observer: world.observer.clone(),
            link: link.clone(),
            process,
            planted,
            acknowledges_late: plan.acknowledges_late,
            mood: Arc::default(),
        };
        let is_limited = planted == Some(Planted::OneLeaseOnly) && process == 0;
        let builder = builder(clock, is_limited)
            .worker_id(name)
            .initial_position(initial_position(plan.start))
            .lease_store(TableClient { table: world.table.clone(), link: link.clone(), process, planted })
            .processors(application.clone());
        let builder = if plan.is_fan_out {
            builder.source(world.fan_out.stream(plan, &link, process))
        } else {
            let kinesis = world.kinesis.clone();
            builder.source(KinesisClient { kinesis, link: link.clone(), process, planted })
        };
        let control = Arc::new(Control::default());
        let running = run(
            builder,
            plan.rng("receiver", number).u64(..),
            control.clone(),
            world.observer.clone(),
            process,
        );
        let task = tokio::spawn(running);
        let is_deaf = planted == Some(Planted::Deaf);
        Self { name: name.to_owned(), process, link, application, control, task, is_deaf }
    }

    /// Asks it to end.
    pub fn stop(&self, observer: &Observer) {
        observer.note(What::StopAsked { process: self.process });
        if self.is_deaf {
            return;
        }
        self.control.is_stopped.store(true, Ordering::Relaxed);
        if let Some(handle) = &*self.control.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            handle.stop();
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Kills it.
    pub async fn crash(self, observer: &Observer) {
        self.task.abort();
        let _ = self.task.await;
        observer.note(What::Crashed { process: self.process });
    }
}

/// Runs a receiver until it ends; one that fails to start is started again.
async fn run(
    builder: ReceiverBuilder,
    seed: u64,
    control: Arc<Control>,
    observer: Observer,
    process: Process,
) {
    for attempt in 0.. {
        let receiver = match builder.clone().seed(seed.wrapping_add(attempt)).build() {
            Ok(receiver) => receiver,
            Err(error) => {
                observer.note(What::Ended { process, how: error.to_string() });
                return;
            }
        };
        *control.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver.handle());
        match receiver.run().await {
            Ok(report) => {
                let shards = report.shards.len();
                let how = if report.is_drained() { "drained" } else { "not drained" };
                observer.note(What::Ended { process, how: format!("{how}, {shards} shards") });
                return;
            }
            Err(error) => observer.note(What::StartFailed { process, why: error.to_string() }),
        }
        sleep(RESTART_AFTER).await;
        if control.is_stopped.load(Ordering::Relaxed) {
            observer.note(What::Ended { process, how: "between two starts".to_owned() });
            return;
        }
    }
}
