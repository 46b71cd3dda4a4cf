//! The main job over the wire. Three receiver processes share a resharding stream, one is killed, one is stopped, and every
//! word is counted. In another test a process is paused for longer than the fail-over time. Run by `cargo xtask wire`, which
//! builds the programs and installs the servers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod processes;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use end_to_end_tests::local_servers::{Endpoints, InProcessServers, NodeServers};
use examples::TextInput;
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, Lease, LeaseStore as _, ShardId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::processes::{
    Counter, check_words, create_stream, fresh_directory, journals, producer, real_text,
    redelivered_after_termination, split_and_merge, wait_for_records, wait_until_balanced,
};

const STREAM: &str = "words";
const APPLICATION: &str = "wire-word-count";

/// Short, to keep the run short; three times the time between renewals.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// The limit for each step of a run.
const LIMIT: Duration = Duration::from_secs(300);

/// The amount of data, and its rate.
struct Volume {
    text_bytes: usize,
    record_bytes: usize,
    records_per_second: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fleet_on_ferrokinesis_and_dynoxide() {
    let servers = InProcessServers::start().await.unwrap();
    let volume = Volume { text_bytes: 20 * 1024 * 1024, record_bytes: 2048, records_per_second: 400 };
    main_job("ferrokinesis-dynoxide", servers.endpoints(), &volume).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fleet_on_kinesis_local_and_dynalite() {
    let Some(directory) = NodeServers::directory() else {
        println!("LEFT OUT: kinesis-local and dynalite, because EMULATORS_DIR is not set");
        return;
    };
    let servers = NodeServers::start(&directory).await.unwrap();
    // This server takes about a hundred records in a second.
    let volume = Volume { text_bytes: 4 * 1024 * 1024, record_bytes: 4096, records_per_second: 40 };
    main_job("kinesis-local-dynalite", servers.endpoints(), &volume).await;
}

async fn main_job(name: &str, endpoints: &Endpoints, volume: &Volume) {
    println!("== {name}: {endpoints}");
    let directory = fresh_directory(name);
    let input = directory.join("input.txt");
    fs::write(&input, real_text(volume.text_bytes)).unwrap();
    create_stream(endpoints, 4).await;

    let mut counters: Vec<Counter> =
        (0..3).map(|index| Counter::start(index, endpoints, &directory)).collect();
    let mut producer = producer(endpoints, volume, &input, &directory);
    let expected =
        TextInput::new(std::slice::from_ref(&input)).unwrap().pieces(volume.record_bytes).unwrap().len();

    wait_for_records(&directory, expected / 5).await;
    split_and_merge(endpoints).await;
    println!("   one shard split, two merged");

    wait_for_records(&directory, expected * 2 / 5).await;
    let mut killed = counters.remove(0);
    killed.process.kill().await.unwrap();
    println!("   {} killed", killed.name);

    // A lease that has just moved is read again from its checkpoint. Wait until no lease moves, so that redeliveries are due
    // to the stop alone.
    wait_until_balanced(endpoints, &counters).await;
    wait_for_records(&directory, expected * 3 / 5).await;
    let terminated = counters.remove(0);
    let terminated_name = terminated.name.clone();
    assert_eq!(terminated.terminate().await, Some(0), "SIGTERM must drain");
    let when_terminated: BTreeMap<PathBuf, usize> =
        journals(&directory).into_iter().map(|(path, lines)| (path, lines.len())).collect();
    println!("   {terminated_name} terminated, drained");

    assert!(
        producer.wait().await.unwrap().success(),
        "the producer failed; see its log in {}",
        directory.display()
    );
    wait_for_records(&directory, expected).await;
    assert_eq!(counters.remove(0).terminate().await, Some(0), "SIGTERM must drain");

    let (summary, again) = check_words(&directory);
    let again_after = redelivered_after_termination(&directory, &terminated_name, &when_terminated);
    println!(
        "   {summary}; delivered again: {again}, of the terminated process's records: {}",
        again_after.len()
    );
    assert!(
        again_after.is_empty(),
        "delivered again after SIGTERM: {:?}",
        again_after.iter().take(5).collect::<Vec<_>>()
    );
}

/// Scans the lease table repeatedly and fails when a counter or a checkpoint moves back.
fn check_that_nothing_goes_back(endpoints: &Endpoints) -> JoinHandle<()> {
    let store = DynamoDbLeaseStore::new(endpoints.dynamodb_client(), APPLICATION).unwrap();
    tokio::spawn(async move {
        let mut before: BTreeMap<ShardId, Lease> = BTreeMap::new();
        loop {
            for lease in store.list(Consistency::Strong).await.unwrap().leases {
                if let Some(before) = before.get(&lease.shard_id) {
                    assert!(before.counter <= lease.counter, "{before:?} became {lease:?}");
                    assert!(before.checkpoint <= lease.checkpoint, "{before:?} became {lease:?}");
                }
                before.insert(lease.shard_id.clone(), lease);
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
}

/// A process is paused with SIGSTOP for three times the fail-over time while others take its leases, and then resumed. All
/// its later writes are fenced, its log reports the loss, and nothing in the table goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_fleet_fences_a_process_that_was_paused() {
    let servers = InProcessServers::start().await.unwrap();
    let endpoints = servers.endpoints();
    let directory = fresh_directory("paused");
    let input = directory.join("input.txt");
    fs::write(&input, real_text(3 * 1024 * 1024)).unwrap();
    create_stream(endpoints, 4).await;
    let counters: Vec<Counter> = (0..2).map(|index| Counter::start(index, endpoints, &directory)).collect();
    wait_until_balanced(endpoints, &counters).await;
    let watch = check_that_nothing_goes_back(endpoints);

    let volume = Volume { text_bytes: 3 * 1024 * 1024, record_bytes: 1024, records_per_second: 100 };
    let mut producer = producer(endpoints, &volume, &input, &directory);
    let expected =
        TextInput::new(std::slice::from_ref(&input)).unwrap().pieces(volume.record_bytes).unwrap().len();
    wait_for_records(&directory, expected / 10).await;
    let paused = &counters[0];
    paused.signal("-STOP").await;
    let paused_at = Instant::now();
    println!("   {} paused", paused.name);
    let store = DynamoDbLeaseStore::new(endpoints.dynamodb_client(), APPLICATION).unwrap();
    let owned_by_paused = async || {
        let leases = store.list(Consistency::Strong).await.unwrap().leases;
        let is_owner = |lease: &Lease| {
            lease.owner.as_ref().is_some_and(|owner| owner.as_str().starts_with(&paused.name))
        };
        leases.into_iter().filter(is_owner).count()
    };
    while owned_by_paused().await > 0 || paused_at.elapsed() < FAILOVER_TIME * 3 {
        assert!(paused_at.elapsed() < LIMIT, "its leases are not taken");
        sleep(Duration::from_millis(100)).await;
    }
    paused.signal("-CONT").await;
    println!("   {} resumed after {:.1} s", paused.name, paused_at.elapsed().as_secs_f64());
    let log = directory.join(format!("{}.log", paused.name));
    let resumed_at = Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("LeaseLost") {
        assert!(resumed_at.elapsed() < LIMIT, "the loss is not logged; see {}", log.display());
        sleep(Duration::from_millis(100)).await;
    }

    assert!(
        producer.wait().await.unwrap().success(),
        "the producer failed; see its log in {}",
        directory.display()
    );
    wait_for_records(&directory, expected).await;
    // The process is a member of the fleet again, and both drain.
    wait_until_balanced(endpoints, &counters).await;
    for counter in counters {
        assert_eq!(counter.terminate().await, Some(0), "SIGTERM must drain");
    }
    let (summary, again) = check_words(&directory);
    println!("   {summary}; delivered again: {again}");
    assert!(!watch.is_finished(), "a counter or a checkpoint went back; see the panic above");
    watch.abort();
}
