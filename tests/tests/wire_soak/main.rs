//! Real faults over real sockets: a fleet of processes reads a resharding stream, each of them through proxies of its own that cut,
//! delay, throttle and silence its connections to the servers, and processes are killed, paused, asked to end and replaced. Then the
//! faults stop, and whatever happened, nothing is missing, in disorder or checkpointed too early. Run by `cargo xtask soak`.
//!
//! `SOAK_SECONDS` says for how long there are faults, `SOAK_SEED` which: the same seed is the same plan.
//!
//! A machine under load may stall any process for longer than the fail-over time, so it may lose leases at any time, and deliver
//! again what it had in hand. What is checked holds all the same; how long something takes decides only whether it ends at all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod chronicle;
mod fleet;
mod judgement;
mod schedule;
mod way;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::java_daemon::Application;
use end_to_end_tests::interop::resharding::{merge_two_shards, split_a_shard};
use end_to_end_tests::interop::scene::{Scene, Volume};
use end_to_end_tests::interop::workers::Workers;
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};
use futures::future::join_all;
use tokio::time::timeout;

use crate::chronicle::Chronicle;
use crate::fleet::Fleet;
use crate::schedule::Event;
use crate::way::Way;

const STREAM: &str = "numbers";
const APPLICATION: &str = "soak";

/// Short, so that faults are longer than it.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// How long a process takes over a batch: long enough that a kill finds it at it.
const HANDLING_TIME: Duration = Duration::from_millis(400);

/// How long any single thing may take before the run counts as failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// How long there are faults unless told otherwise.
const SHORT: Duration = Duration::from_secs(45);

/// A run longer than this has one process more.
const LONG: Duration = Duration::from_secs(120);

/// How much of the records is put while there are faults, in percent; the rest afterwards.
const PUT_DURING_FAULTS_PERCENT: u64 = 80;

/// How long there are faults, and which.
#[derive(Debug, Clone, Copy)]
struct Form {
    length: Duration,
    seed: u64,
}

impl Form {
    fn of_environment() -> Self {
        let number = |name: &str| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        let length = number("SOAK_SECONDS").map_or(SHORT, Duration::from_secs);
        Self { length, seed: number("SOAK_SEED").unwrap_or(1) }
    }

    fn places(&self) -> usize {
        if self.length > LONG { 4 } else { 3 }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_soak_on_ferrokinesis_and_dynoxide() {
    let servers = InProcessServers::start().await.unwrap();
    soak("ferrokinesis-dynoxide", servers.endpoints(), Form::of_environment(), 200).await;
}

async fn soak(name: &str, endpoints: &Endpoints, form: Form, records_per_second: usize) {
    let Form { length, seed } = form;
    println!("== {name}: {endpoints}; seed {seed}, faults for {length:?}");
    println!("   `cargo xtask soak --seed {seed}` with the same length is the same plan");
    let directory = fresh_directory(&format!("{name}-{seed}"));
    let during_faults = records_per_second as u64 * length.as_secs();
    let volume = Volume {
        records: usize::try_from(during_faults * 100 / PUT_DURING_FAULTS_PERCENT).unwrap(),
        records_per_second,
        shards: 4,
    };
    let application = Application {
        name: APPLICATION.to_owned(),
        stream: STREAM.to_owned(),
        endpoints: endpoints.clone(),
        failover_time: FAILOVER_TIME,
        directory,
    };
    // What the test itself asks of the servers goes past the proxies, and there is no Java in it.
    let mut scene = Scene::new(application.clone(), PathBuf::new(), volume).await;

    let chronicle = Chronicle::begin();
    let ways: Vec<Way> =
        (0..form.places()).map(|place| Way::open(place, endpoints, &form, &chronicle)).collect();
    let workers = Workers::new(application, PathBuf::new()).with_handling_time(HANDLING_TIME);
    let mut fleet = Fleet::start(workers, ways.iter().map(Way::endpoints).collect(), &chronicle);

    for step in schedule::draw(seed, length, form.places(), FAILOVER_TIME) {
        fleet.wait_until(chronicle.started_at + step.at).await;
        if step.event == Event::Reshard {
            reshard(endpoints, &chronicle).await;
        } else {
            fleet.carry_out(&step).await;
        }
    }
    fleet.wait_until(chronicle.started_at + length).await;
    let over = join_all(ways.iter().map(Way::wait_until_over));
    timeout(LIMIT, over).await.expect("the plans end");
    fleet.settle().await;
    chronicle.say("the faults are over");

    let flowed = tokio::select! {
        flowed = async {
            let flowed = scene.put_the_rest().await;
            judgement::wait_until_checkpointed(&mut scene).await;
            flowed
        } => flowed,
        () = fleet.wait_for_ever() => unreachable!("it waits for ever"),
    };
    chronicle.say(&format!(
        "all {} records are delivered and checkpointed; {flowed} were put during the faults",
        volume.records
    ));
    fleet.stop_all().await;
    judgement::judge(&mut scene, &mut fleet, &chronicle, &volume, &ways).await;
}

async fn reshard(endpoints: &Endpoints, chronicle: &Chronicle) {
    let split = split_a_shard(endpoints, STREAM).await;
    let [left, right] = merge_two_shards(endpoints, STREAM, &split).await;
    let short = |shard: &str| shard.trim_start_matches("shardId-").trim_start_matches('0').to_owned();
    let [split, left, right] = [split, left, right].map(|shard| format!("{:0>1}", short(&shard)));
    chronicle.say(&format!("shard {split} is split, {left} and {right} are merged"));
    chronicle.count("reshards");
}

fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}
