//! The real Java KCL and our receiver on one lease table. They share it, take over from killed workers of the other kind,
//! read through splits and merges, and replace each other. Run by `cargo xtask interop`, which installs the KCL.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_dynamodb::types::{DeleteGlobalSecondaryIndexAction, GlobalSecondaryIndexUpdate};
use end_to_end_tests::interop::java_daemon::{Application, ClientVersion, JARS_VARIABLE, jars_directory};
use end_to_end_tests::interop::last_checkpoints::not_checkpointed;
use end_to_end_tests::interop::lease_rows::further_attributes;
use end_to_end_tests::interop::test_run::{TestRun, Volume};
use end_to_end_tests::interop::verdict::{Cause, Repeats, Verdict, inheritance};
use end_to_end_tests::interop::workers::{Kind, Worker};
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};

const STREAM: &str = "numbers";
const APPLICATION: &str = "interop";

/// Short, to keep the run short; three times the time between renewals.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// The size of a fleet of one kind that is replaced by a fleet of the other.
const FLEET: usize = 3;

/// How long a Java fleet takes at most until it moves itself to 3.x mode: its workers report for ten minutes before it does.
const SELF_UPGRADE_LIMIT: Duration = Duration::from_secs(900);

/// At least one shard, and all shards.
const ONE: usize = 1;
const ALL: usize = usize::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_short() {
    let volume = Volume { records: 13_000, records_per_second: 150, shards: 4 };
    let Some((_servers, mut run)) = start_run("short", volume).await else { return };
    let (rust, java) = share_and_inherit(&mut run).await;
    finish(run, vec![rust], vec![java], volume).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_full() {
    let volume = Volume { records: 110_000, records_per_second: 400, shards: 6 };
    let Some((_servers, mut run)) = start_run("full", volume).await else { return };
    let (rust, java) = share_and_inherit(&mut run).await;
    let java = replace_and_back(&mut run, rust, java).await;
    finish(run, Vec::new(), java, volume).await;
}

/// A Java worker in 3.x mode joins the table of our worker: its leader assigns the leases from then on. Then no Java worker is
/// left, and ours go on as `docs/kcl-mode.md` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_3x_mode() {
    let volume = Volume { records: 30_000, records_per_second: 100, shards: 2 };
    let Some((_servers, mut run)) = start_run("3x-mode", volume).await else { return };
    let rust = run.start(Kind::Rust);
    run.wait_for_shares("Rust has all shards", &[&rust], ALL).await;
    run.workers().with_client_version(ClientVersion::ThreeX);
    let java = run.start(Kind::Java);
    run.wait_for_log("Rust says that a leader assigns the leases", &rust, "is CLIENT_VERSION_3X").await;
    let log = run.start_refused(Kind::Rust).await;
    for part in ["CLIENT_VERSION_3X", "its leader assigns the leases", "delete the item Migration3.0"] {
        assert!(log.contains(part), "the refusal does not say {part:?}: {log}");
    }
    run.wait_for_shares("Rust keeps its shards", &[&rust], ALL).await;
    run.stop(rust).await;
    run.wait_for_shares("the leader has assigned all shards", &[&java], ALL).await;
    run.stop(java).await;
    let log = run.start_refused(Kind::Rust).await;
    assert!(log.contains("delete the item Migration3.0"), "the refusal does not say how to go on: {log}");
    forget_the_mode(&run.endpoints().dynamodb_client()).await;
    let rust = run.start(Kind::Rust);
    run.wait_for_shares("Rust has all shards again", &[&rust], ALL).await;
    run.put_the_rest().await;
    run.stop(rust).await;
    check_run(&mut run, volume).await;
}

/// Two Java workers in the mode for 2.x workers move their fleet to 3.x mode by themselves after some ten minutes, although our
/// standby, which holds no lease, is beside them. The standby says so and takes nothing; the next start is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_moves_itself_to_3x_mode() {
    let volume = Volume { records: 6_000, records_per_second: 5, shards: 2 };
    let Some((_servers, mut run)) = start_run("self-upgrade", volume).await else { return };
    let java = [run.start(Kind::Java), run.start(Kind::Java)];
    run.wait_for_shares("each Java worker has a shard", &[&java[0], &java[1]], ONE).await;
    let rust = run.start(Kind::Rust);
    let mode = "is CLIENT_VERSION_3X_WITH_ROLLBACK";
    run.wait_for_log_within(SELF_UPGRADE_LIMIT, "the fleet has moved itself, and Rust says so", &rust, mode)
        .await;
    let refusal = run.start_refused(Kind::Rust).await;
    assert!(refusal.contains("such a fleet moves itself to this mode"), "{refusal}");
    run.wait_for_shares("each Java worker keeps its shard", &[&java[0], &java[1]], ONE).await;
    run.stop(rust).await;
    run.put_the_rest().await;
    for worker in java {
        run.stop(worker).await;
    }
    check_run(&mut run, volume).await;
}

/// What `docs/kcl-mode.md` says for the case that no KCL worker is left.
async fn forget_the_mode(client: &aws_sdk_dynamodb::Client) {
    let separate = format!("{APPLICATION}-CoordinatorState");
    client.delete_table().table_name(separate).send().await.unwrap();
    let delete = DeleteGlobalSecondaryIndexAction::builder().index_name("LeaseOwnerToLeaseKeyIndex");
    let update = GlobalSecondaryIndexUpdate::builder().delete(delete.build().unwrap()).build();
    client
        .update_table()
        .table_name(APPLICATION)
        .global_secondary_index_updates(update)
        .send()
        .await
        .unwrap();
}

async fn start_run(form: &str, volume: Volume) -> Option<(InProcessServers, TestRun)> {
    let Some(jars) = jars_directory() else {
        println!("LEFT OUT: the Java KCL, because {JARS_VARIABLE} is not set");
        return None;
    };
    let servers = InProcessServers::start_for_java().await.unwrap();
    let endpoints = servers.endpoints();
    println!("== {form}: {} records on {} shards, {endpoints}", volume.records, volume.shards);
    let application = application(form, endpoints);
    let run = TestRun::new(application, jars, volume).await;
    Some((servers, run))
}

fn application(form: &str, endpoints: &Endpoints) -> Application {
    Application {
        name: APPLICATION.to_owned(),
        stream: STREAM.to_owned(),
        endpoints: endpoints.clone(),
        failover_time: FAILOVER_TIME,
        directory: fresh_directory(form),
    }
}

fn fresh_directory(form: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{form}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// A worker of each kind share the table. Each is killed once and the other takes over. The stream is resharded while both
/// read, and while only the Java worker does.
async fn share_and_inherit(run: &mut TestRun) -> (Worker, Worker) {
    // Our worker starts first and creates the leases; a Java worker would wait up to a minute before it does.
    let rust = run.start(Kind::Rust);
    run.wait_for_shares("Rust has all shards", &[&rust], ALL).await;
    let java = run.start(Kind::Java);
    run.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;

    run.reshard("(d) split and merged while both read").await;
    run.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    run.kill(java, "(b) Java is killed").await;
    run.wait_for_shares("(b) Rust has all shards", &[&rust], ALL).await;

    let java = run.start(Kind::Java);
    run.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    run.kill(rust, "(c) Rust is killed").await;
    run.wait_for_shares("(c) Java has all shards", &[&java], ALL).await;

    run.reshard("(d) split and merged while Java reads").await;
    let rust = run.start(Kind::Rust);
    run.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    (rust, java)
}

/// A Java fleet is replaced one by one by a Rust fleet, the stream is resharded, and Java comes back one by one.
async fn replace_and_back(run: &mut TestRun, rust: Worker, java: Worker) -> Vec<Worker> {
    // A Java worker counts the leases of ended shards as part of its share, and keeps them for minutes.
    run.wait_for_clean_table().await;
    run.wait_until_balanced().await;
    run.stop(rust).await;
    let mut fleet = vec![java];
    while fleet.len() < FLEET {
        fleet.push(run.start(Kind::Java));
    }
    run.wait_for_shares("(e) three Java workers share", &fleet.iter().collect::<Vec<_>>(), ONE).await;
    let fleet = replace_one_by_one(run, fleet, Kind::Rust).await;
    run.reshard("(d) split and merged while Rust reads").await;
    run.wait_for_clean_table().await;
    replace_one_by_one(run, fleet, Kind::Java).await
}

async fn replace_one_by_one(run: &mut TestRun, mut old: Vec<Worker>, kind: Kind) -> Vec<Worker> {
    let mut new = Vec::new();
    while let Some(next) = old.pop() {
        run.stop(next).await;
        new.push(run.start(kind));
        let all: Vec<&Worker> = old.iter().chain(&new).collect();
        let what = format!("(e) {} of {FLEET} replaced by {kind}", new.len());
        run.wait_for_shares(&what, &all, ONE).await;
        run.wait_until_balanced().await;
    }
    new
}

/// Stops our workers, so that a planned stop is covered too, puts the remaining records, waits for them, stops all, and
/// checks.
async fn finish(mut run: TestRun, rust: Vec<Worker>, java: Vec<Worker>, volume: Volume) {
    for worker in rust {
        run.stop(worker).await;
    }
    run.wait_for_shares("Java has all shards", &java.iter().collect::<Vec<_>>(), ONE).await;
    let flowed = run.put_the_rest().await;
    run.log(&format!(
        "all records are delivered; {flowed} were put while workers started and ended, the others at once"
    ));
    for worker in java {
        run.stop(worker).await;
    }
    check_run(&mut run, volume).await;
}

async fn check_run(run: &mut TestRun, volume: Volume) {
    let deliveries = run.deliveries().to_vec();
    let verdict = Verdict::new(&deliveries, volume.records, &run.history, &run.ended);
    let first_by: Vec<String> =
        verdict.first_by.iter().map(|(kind, records)| format!("{records} by {kind}")).collect();
    println!("   {} different records delivered, {}", verdict.records, first_by.join(", "));
    println!(
        "   {} delivered again, over {} changes of ownership in the table:",
        verdict.repeats.values().map(Repeats::total).sum::<usize>(),
        run.history.owner_changes()
    );
    for (cause, repeats) in &verdict.repeats {
        let (total, changes, most) = (repeats.total(), repeats.owner_changes(), repeats.most());
        println!("   {total:>6}  {cause}; at {changes} changes of the owner, at most {most} at one");
    }
    let mut faults = verdict.faults;
    for killed_worker in &run.killed_workers {
        let inherited = inheritance(&deliveries, killed_worker, &run.history);
        println!(
            "   {} was killed with {} shards; on {} of them an heir resumed after its checkpoint, the last after {:.1} s",
            killed_worker.ended.name,
            killed_worker.checkpoints.len(),
            inherited.shards,
            inherited.last_start.as_secs_f64()
        );
        assert!(
            inherited.shards > 0,
            "no worker delivered records of the shards of {}",
            killed_worker.ended.name
        );
        faults.extend(inherited.faults);
    }
    let rows = run.rows().await;
    faults.extend(not_checkpointed(&deliveries, &rows));
    let client = run.endpoints().dynamodb_client();
    let further = further_attributes(&client, APPLICATION).await.unwrap();
    println!(
        "   {} rows, all of them leases that Java reads; additional attributes: {further:?}",
        rows.len()
    );

    let (shown, directory) = (faults.iter().take(10).collect::<Vec<_>>(), run.directory().display());
    assert!(faults.is_empty(), "{} faults, among them {shown:#?}; logs are in {directory}", faults.len());
    assert!(
        verdict.missing.is_empty(),
        "{} records are missing: {:?}",
        verdict.missing.len(),
        verdict.missing
    );
    let after_stop = verdict.repeats.get(&Cause::AfterStop(Kind::Rust)).map_or(0, Repeats::total);
    assert_eq!(after_stop, 0, "a planned stop of a Rust worker must cause no redelivery");
}
