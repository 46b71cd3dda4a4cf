//! Real faults over real sockets. A fleet of processes reads a resharding stream by fan-out and by polling, over TLS and HTTP/2,
//! each process through its own proxies, which cut, delay, throttle and silence its connections, and turn them into black holes.
//! Processes are killed, paused, asked to end and replaced. Then the faults stop, and no record may be missing, out of order, or
//! checkpointed too early. Run by `cargo xtask soak`.
//!
//! `SOAK_SECONDS` is the time with faults, and `SOAK_SEED` selects them: the same seed gives the same plan.
//!
//! A machine under load may stall any process for longer than the fail-over time, so a process may lose leases at any time
//! and deliver records again. The checks hold all the same; timing decides only whether the run ends within its limits.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod final_checks;
mod fleet;
mod run_log;
mod schedule;
mod server_proxies;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::java_daemon::Application;
use end_to_end_tests::interop::resharding::{merge_two_shards, split_a_shard};
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::workers::Workers;
use end_to_end_tests::local_servers::{Endpoints, ServersWithTls};
use futures::future::join_all;
use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::run_log::RunLog;
use crate::schedule::Event;
use crate::server_proxies::ServerProxies;

const STREAM: &str = "numbers";
const APPLICATION: &str = "soak";

/// Shorter than the faults.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// The time of a process for a batch, long enough that a kill usually interrupts one.
const HANDLING_TIME: Duration = Duration::from_millis(400);

/// The lifetime of a subscription. It is 5 min on AWS; here sessions end often.
const SUBSCRIPTION: Duration = Duration::from_secs(15);

/// The limit for each step of a run.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The default time with faults.
const SHORT: Duration = Duration::from_secs(45);

/// A run longer than this has one process more.
const LONG: Duration = Duration::from_secs(120);

/// The percentage of the records that is put while there are faults.
const PUT_DURING_FAULTS_PERCENT: u64 = 80;

/// The time with faults, and the seed that selects them.
#[derive(Debug, Clone, Copy)]
struct RunSettings {
    length: Duration,
    seed: u64,
}

impl RunSettings {
    fn from_environment() -> Self {
        let number = |name: &str| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        let length = number("SOAK_SECONDS").map_or(SHORT, Duration::from_secs);
        Self { length, seed: number("SOAK_SEED").unwrap_or(1) }
    }

    fn slots(&self) -> usize {
        if self.length > LONG { 4 } else { 3 }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_soak_over_tls_by_fan_out_and_polling() {
    soak(&ServersWithTls::start(SUBSCRIPTION, None).await.unwrap(), RunSettings::from_environment(), 200)
        .await;
}

async fn soak(servers: &ServersWithTls, settings: RunSettings, records_per_second: usize) {
    let RunSettings { length, seed } = settings;
    let endpoints = servers.endpoints();
    println!("== {endpoints}; seed {seed}, faults for {length:?}");
    println!("   `cargo xtask soak --seed {seed}` with the same length is the same plan");
    let directory = fresh_directory(&seed.to_string());
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
    // The test's own requests do not pass the proxies. A soak run has no Java workers.
    let mut run = TestRun::new(application.clone(), PathBuf::new(), volume).await;

    let run_log = RunLog::begin();
    let tls = servers.tls_endpoints();
    let proxies: Vec<ServerProxies> =
        (0..settings.slots()).map(|slot| ServerProxies::open(slot, &tls, &settings, &run_log)).collect();
    let mut workers = Workers::new(application, PathBuf::new()).with_handling_time(HANDLING_TIME);
    workers.with_variable(ServersWithTls::trust());
    let mut fleet = Fleet::start(workers, proxies.iter().map(ServerProxies::endpoints).collect(), &run_log);

    for step in schedule::draw(seed, length, settings.slots(), FAILOVER_TIME) {
        fleet.wait_until(run_log.started_at + step.at).await;
        if step.event == Event::Reshard {
            reshard(endpoints, &run_log).await;
        } else {
            fleet.carry_out(&step).await;
        }
    }
    fleet.wait_until(run_log.started_at + length).await;
    let over = join_all(proxies.iter().map(ServerProxies::wait_until_over));
    timeout(LIMIT, over).await.expect("the plans end");
    fleet.wait_for_ending().await;
    run_log.log("the faults are over");

    let flowed = tokio::select! {
        flowed = async {
            let flowed = run.put_the_rest().await;
            final_checks::wait_until_checkpointed(&mut run).await;
            flowed
        } => flowed,
        () = fleet.keep_running() => unreachable!("it never returns"),
    };
    run_log.log(&format!(
        "all {} records are delivered and checkpointed; {flowed} were put during the faults",
        volume.records
    ));
    fleet.stop_all().await;
    let (accepted, refused) = servers.kinesis().subscriptions();
    println!(
        "   {accepted} subscriptions, {refused} refused because another one was less than five seconds old"
    );
    final_checks::check_run(&mut run, &mut fleet, &run_log, &volume, &proxies).await;
}

async fn reshard(endpoints: &Endpoints, run_log: &RunLog) {
    let split = split_a_shard(endpoints, STREAM).await;
    let [left, right] = merge_two_shards(endpoints, STREAM, &split).await;
    let short = |shard: &str| shard.trim_start_matches("shardId-").trim_start_matches('0').to_owned();
    let [split, left, right] = [split, left, right].map(|shard| format!("{:0>1}", short(&shard)));
    run_log.log(&format!("shard {split} is split, {left} and {right} are merged"));
    run_log.count("reshards");
}

fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}
