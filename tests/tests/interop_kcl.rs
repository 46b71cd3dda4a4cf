//! The real Java KCL and our receiver on one lease table: they share it, inherit from each other's dead, read through
//! splits and merges, and replace each other. Run by `cargo xtask interop`, which installs the KCL.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end_tests::interop::java_daemon::{Application, JARS_VARIABLE, jars_directory};
use end_to_end_tests::interop::last_checkpoints::not_checkpointed;
use end_to_end_tests::interop::lease_rows::further_attributes;
use end_to_end_tests::interop::scene::{Scene, Volume};
use end_to_end_tests::interop::verdict::{Cause, Repeats, Verdict, inheritance};
use end_to_end_tests::interop::workers::{Kind, Worker};
use end_to_end_tests::local_servers::{Endpoints, InProcessServers};

const STREAM: &str = "numbers";
const APPLICATION: &str = "interop";

/// Short, so that the run is; three times the time between renewals.
const FAILOVER_TIME: Duration = Duration::from_secs(3);

/// What a fleet of one kind has when it is replaced by one of the other.
const FLEET: usize = 3;

/// At least one shard, and all shards.
const ONE: usize = 1;
const ALL: usize = usize::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_short() {
    let volume = Volume { records: 13_000, records_per_second: 150, shards: 4 };
    let Some((_servers, mut scene)) = scene("short", volume).await else { return };
    let (rust, java) = share_and_inherit(&mut scene).await;
    finish(scene, vec![rust], vec![java], volume).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_kcl_full() {
    let volume = Volume { records: 110_000, records_per_second: 400, shards: 6 };
    let Some((_servers, mut scene)) = scene("full", volume).await else { return };
    let (rust, java) = share_and_inherit(&mut scene).await;
    let java = replace_and_back(&mut scene, rust, java).await;
    finish(scene, Vec::new(), java, volume).await;
}

async fn scene(form: &str, volume: Volume) -> Option<(InProcessServers, Scene)> {
    let Some(jars) = jars_directory() else {
        println!("LEFT OUT: the Java KCL, because {JARS_VARIABLE} does not say where its jars are");
        return None;
    };
    let servers = InProcessServers::start_for_java().await.unwrap();
    let endpoints = servers.endpoints();
    println!("== {form}: {} records on {} shards, {endpoints}", volume.records, volume.shards);
    let application = application(form, endpoints);
    let scene = Scene::new(application, jars, volume).await;
    Some((servers, scene))
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

/// A worker of each kind share the table, each is killed once and the other inherits, and the stream is resharded while
/// both read, and while only Java does.
async fn share_and_inherit(scene: &mut Scene) -> (Worker, Worker) {
    // An empty table is filled by the one that comes first. A Java worker would wait for that, or do it after a minute.
    let rust = scene.start(Kind::Rust);
    scene.wait_for_shares("Rust has all shards", &[&rust], ALL).await;
    let java = scene.start(Kind::Java);
    scene.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;

    scene.reshard("(d) split and merged while both read").await;
    scene.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    scene.kill(java, "(b) Java is killed").await;
    scene.wait_for_shares("(b) Rust has all shards", &[&rust], ALL).await;

    let java = scene.start(Kind::Java);
    scene.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    scene.kill(rust, "(c) Rust is killed").await;
    scene.wait_for_shares("(c) Java has all shards", &[&java], ALL).await;

    scene.reshard("(d) split and merged while Java reads").await;
    let rust = scene.start(Kind::Rust);
    scene.wait_for_shares("(a) both have a share", &[&rust, &java], ONE).await;
    (rust, java)
}

/// A Java fleet is replaced one by one by a Rust fleet, the stream is resharded, and Java comes back one by one.
async fn replace_and_back(scene: &mut Scene, rust: Worker, java: Worker) -> Vec<Worker> {
    // A Java worker counts the leases of ended shards as part of its share, and keeps them for minutes.
    scene.wait_for_clean_table().await;
    scene.wait_for_lasting_rest().await;
    scene.stop(rust).await;
    let mut fleet = vec![java];
    while fleet.len() < FLEET {
        fleet.push(scene.start(Kind::Java));
    }
    scene.wait_for_shares("(e) three Java workers share", &fleet.iter().collect::<Vec<_>>(), ONE).await;
    let fleet = replace_one_by_one(scene, fleet, Kind::Rust).await;
    scene.reshard("(d) split and merged while Rust reads").await;
    scene.wait_for_clean_table().await;
    replace_one_by_one(scene, fleet, Kind::Java).await
}

async fn replace_one_by_one(scene: &mut Scene, mut old: Vec<Worker>, kind: Kind) -> Vec<Worker> {
    let mut new = Vec::new();
    while let Some(next) = old.pop() {
        scene.stop(next).await;
        new.push(scene.start(kind));
        let all: Vec<&Worker> = old.iter().chain(&new).collect();
        let what = format!("(e) {} of {FLEET} replaced by {kind}", new.len());
        scene.wait_for_shares(&what, &all, ONE).await;
        scene.wait_for_lasting_rest().await;
    }
    new
}

/// Stops ours, so that a planned stop is inherited too, puts the rest, waits for it, stops all, and judges.
async fn finish(mut scene: Scene, rust: Vec<Worker>, java: Vec<Worker>, volume: Volume) {
    for worker in rust {
        scene.stop(worker).await;
    }
    scene.wait_for_shares("Java has all shards", &java.iter().collect::<Vec<_>>(), ONE).await;
    let flowed = scene.put_the_rest().await;
    scene.say(&format!("all are delivered; {flowed} were put while workers came and went, the rest at once"));
    for worker in java {
        scene.stop(worker).await;
    }
    judge(&mut scene, volume).await;
}

async fn judge(scene: &mut Scene, volume: Volume) {
    let deliveries = scene.deliveries().to_vec();
    let verdict = Verdict::new(&deliveries, volume.records, &scene.history, &scene.ended);
    let first_by: Vec<String> =
        verdict.first_by.iter().map(|(kind, records)| format!("{records} by {kind}")).collect();
    println!("   {} different records delivered, {}", verdict.records, first_by.join(", "));
    println!(
        "   {} delivered again, over {} changes of ownership in the table:",
        verdict.repeats.values().map(Repeats::total).sum::<usize>(),
        scene.history.owner_changes()
    );
    for (cause, repeats) in &verdict.repeats {
        let (total, hands, most) = (repeats.total(), repeats.hands(), repeats.most());
        println!("   {total:>6}  {cause}; on {hands} changes of hands, at most {most} on one");
    }
    let mut faults = verdict.faults;
    for legacy in &scene.legacies {
        let inherited = inheritance(&deliveries, legacy, &scene.history);
        println!(
            "   {} was killed with {} shards; on {} of them an heir went on behind its checkpoint, the last after {:.1} s",
            legacy.dead.name,
            legacy.checkpoints.len(),
            inherited.shards,
            inherited.last_start.as_secs_f64()
        );
        assert!(inherited.shards > 0, "nobody delivered anything of the shards of {}", legacy.dead.name);
        faults.extend(inherited.faults);
    }
    let rows = scene.rows().await;
    faults.extend(not_checkpointed(&deliveries, &rows));
    let client = scene.endpoints().dynamodb_client();
    let further = further_attributes(&client, APPLICATION).await.unwrap();
    println!("   {} rows, all of them leases that Java reads; further attributes: {further:?}", rows.len());

    let (shown, directory) = (faults.iter().take(10).collect::<Vec<_>>(), scene.directory().display());
    assert!(faults.is_empty(), "{} faults, among them {shown:#?}; logs are in {directory}", faults.len());
    assert!(
        verdict.missing.is_empty(),
        "{} records are missing: {:?}",
        verdict.missing.len(),
        verdict.missing
    );
    let after_stop = verdict.repeats.get(&Cause::AfterStop(Kind::Rust)).map_or(0, Repeats::total);
    assert_eq!(after_stop, 0, "a planned stop of a Rust worker must cost nothing");
}
