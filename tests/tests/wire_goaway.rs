//! A load balancer that recycles HTTP/2 connections under load, as AWS and proxies do: it sends GOAWAY, answers the requests that
//! it has, ignores later ones, and closes the connection after a grace period. No record may be missing or repeated, and no lease
//! may be lost. Run by `cargo xtask wire`, which builds the programs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::java_daemon::Application;
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::verdict::Verdict;
use end_to_end_tests::interop::workers::{Kind, Worker};
use end_to_end_tests::local_servers::{Recycling, ServersWithTls};
use tokio::time::sleep;

const STREAM: &str = "numbers";
const APPLICATION: &str = "goaway";
/// Longer than a busy machine stalls a process, and shorter than the time under load.
const FAILOVER_TIME: Duration = Duration::from_secs(6);

/// How a connection is recycled. Load balancers do so every few minutes, which takes too long for a test.
const RECYCLING: Recycling = Recycling { age: Duration::from_millis(700), grace: Duration::from_millis(300) };

/// The time under load in which no lease may change its owner.
const UNDER_LOAD: Duration = Duration::from_secs(15);

/// Log messages of a worker that lost a lease.
const LOSSES: [&str; 2] =
    ["the lease was taken by another worker", "the lease was not renewed within the fail-over time"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_goaway_costs_no_record_and_no_lease() {
    let servers = ServersWithTls::start(UNDER_LOAD * 4, Some(RECYCLING)).await.unwrap();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wire-goaway");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let application = Application {
        name: APPLICATION.to_owned(),
        stream: STREAM.to_owned(),
        endpoints: servers.endpoints().clone(),
        failover_time: FAILOVER_TIME,
        directory,
    };
    let volume = Volume { records: 12_000, records_per_second: 250, shards: 4 };
    let mut run = TestRun::new(application, PathBuf::new(), volume).await;
    run.workers().through(&servers.tls_endpoints()).with_variable(ServersWithTls::trust());
    let polling = run.start(Kind::Rust);
    run.workers().by_fan_out(Some(APPLICATION));
    let fan_out = run.start(Kind::Rust);
    let workers: [&Worker; 2] = [&polling, &fan_out];
    run.wait_for_shares("both have a share", &workers, 2).await;

    let changes = run.history.owner_changes();
    sleep(UNDER_LOAD).await;
    assert_eq!(run.history.owner_changes(), changes, "no lease moves");
    run.put_the_rest().await;
    run.stop(polling).await;
    run.stop(fan_out).await;

    let deliveries = run.deliveries().to_vec();
    let verdict = Verdict::new(&deliveries, volume.records, &run.history, &run.ended);
    let logs = run.directory().display();
    assert!(verdict.faults.is_empty(), "{:#?}; logs are in {logs}", verdict.faults);
    assert!(verdict.missing.is_empty(), "{:?} are missing; logs are in {logs}", verdict.missing);
    let [kinesis, dynamodb] =
        servers.fronts().each_ref().map(|front| (front.connections(), front.recycled()));
    let (deliveries, records) = (deliveries.len(), verdict.records);
    println!(
        "   {deliveries} deliveries of {records} records; connections, GOAWAYs and requests after them:"
    );
    println!("   Kinesis {kinesis:?}, DynamoDB {dynamodb:?}");
    for (_, (recycled, _)) in [kinesis, dynamodb] {
        assert!(recycled >= 15, "{recycled} connections were recycled");
    }
    for entry in fs::read_dir(run.directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(&path).unwrap();
            let lost = LOSSES.iter().find(|message| log.contains(**message));
            assert_eq!(lost, None, "see {}", path.display());
        }
    }
}
