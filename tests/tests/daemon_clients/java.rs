//! The real Java daemon: as the reference of our lines, and as a peer of ours on one lease table. `cargo xtask daemon-tests` installs
//! it; the short form leaves it out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use end_to_end_tests::daemon::scene::{Daemon, LIMIT, Scene, number_of};
use end_to_end_tests::interop::java_daemon::{TERMINATED_STATUS, jars_directory};
use end_to_end_tests::interop::lease_rows::LeaseRows;
use end_to_end_tests::interop::producer::Producer;
use end_to_end_tests::interop::wait_for;

use crate::{PYTHON_VARIABLE, as_java, client, printed, python_child};

/// How the Java daemon shares a table with workers that take leases by themselves, and ends in order.
pub(crate) const JAVA_LINES: &str = "clientVersionConfig = CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X\nshutdownGraceMillis = 10000\n\
                          parentShardPollIntervalMillis = 1000\nfailoverTimeMillis = 3000";

/// The records of the mixed fleet, and their rate.
const RECORDS: usize = 20_000;
const RECORDS_PER_SECOND: usize = 400;

pub(crate) fn jars() -> Option<PathBuf> {
    let jars = jars_directory();
    if jars.is_none() {
        println!("LEFT OUT: the Java daemon, because KCL_JARS_DIR is not set");
    }
    jars
}

/// Starts the Java daemon with scripted children.
fn start_java(scene: &Scene, jars: &Path, worker: &str, script: &str, lines: &str) -> Daemon {
    let properties = scene.properties(worker, script, &format!("{JAVA_LINES}\n{lines}"));
    let arguments = [
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        // The local server sends times in another unit in CBOR than in JSON.
        "-Daws.cborEnabled=false",
        "-classpath",
        &jars.join("*").display().to_string(),
        "software.amazon.kinesis.multilang.MultiLangDaemon",
        "--properties-file",
        &properties.display().to_string(),
    ];
    scene.spawn(worker, as_java(Path::new("java"), &arguments.map(str::to_owned)))
}

/// The lines that a child received: `initialize`, the text of all records whatever the batches are, and the lines after them.
fn received(raw: &Path) -> (String, Vec<String>, Vec<String>) {
    let text = fs::read_to_string(raw).unwrap();
    let mut lines = text.lines();
    let initialize = lines.next().unwrap().to_owned();
    let (mut records, mut others) = (Vec::new(), Vec::new());
    for line in lines {
        match line.strip_prefix("{\"action\":\"processRecords\",\"records\":[") {
            Some(rest) => {
                let (batch, after) = rest.rsplit_once("],\"millisBehindLatest\":").unwrap();
                assert!(after.trim_end_matches('}').parse::<u64>().is_ok(), "{after}");
                records.extend(
                    batch.split_inclusive('}').map(|record| record.trim_start_matches(',').to_owned()),
                );
            }
            None => others.push(line.to_owned()),
        }
    }
    (initialize, records, others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_those_of_the_java_daemon() {
    let Some(jars) = jars() else { return };
    let mut scene = Scene::new("java-lines", 1).await;
    scene.put(50).await;
    let raw = |worker: &str| scene.directory.join(format!("{worker}.raw"));
    let mut ends = Vec::new();
    for (worker, lines) in [("java", "applicationName = java-lines-of-java"), ("ours", "")] {
        let script = format!("raw={}", raw(worker).display());
        let mut daemon = match worker {
            "java" => start_java(&scene, &jars, worker, &script, lines),
            _ => scene.start(worker, &script, lines),
        };
        wait_for("every number is delivered", LIMIT, async || {
            let numbers: BTreeSet<usize> = daemon.entries().iter().filter_map(number_of).collect();
            if numbers.len() == scene.count() { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
        ends.push(daemon.terminate().await);
    }
    assert_eq!(ends, [Some(TERMINATED_STATUS), Some(0)]);
    let (of_java, ours) = (received(&raw("java")), received(&raw("ours")));
    assert_eq!(ours.0, of_java.0, "initialize");
    assert_eq!(ours.1, of_java.1, "records");
    assert_eq!(ours.2, of_java.2, "the lines after the records");
}

fn holds(rows: &LeaseRows, worker: &str) -> usize {
    rows.values().filter(|row| row.owner.as_deref() == Some(worker)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_move_between_java_and_python_on_our_daemon() {
    let (Some(jars), Some(folder)) = (jars(), client(PYTHON_VARIABLE)) else { return };
    let scene = Scene::new("mixed", 4).await;
    let mut producer =
        Producer::start(scene.endpoints.kinesis_client(), scene.stream(), RECORDS, RECORDS_PER_SECOND);
    let start_ours = |worker: &str| {
        let child = python_child(&scene, worker, &folder);
        let properties = scene.properties_of(worker, &child, "failoverTimeMillis = 3000");
        let mut command = end_to_end_tests::programs::program("kinesis-streaming");
        command.args(["daemon", "-p"]).arg(properties).env("PYTHONPATH", &folder);
        scene.spawn(worker, command)
    };
    let mut first = start_ours("ours-1");
    scene.wait_for_rows("ours holds all leases", |rows| holds(rows, "ours-1") == 4).await;
    let mut java = start_java(&scene, &jars, "java", "checkpoint-always", "");
    scene.wait_for_rows("Java holds leases of ours", |rows| holds(rows, "java") >= 2).await;
    assert_eq!(first.terminate().await, Some(0), "{}", first.log());
    scene.wait_for_rows("Java holds all leases", |rows| holds(rows, "java") == 4).await;
    let mut second = start_ours("ours-2");
    scene.wait_for_rows("ours holds leases of Java", |rows| holds(rows, "ours-2") >= 2).await;
    assert_eq!(java.terminate().await, Some(TERMINATED_STATUS));
    scene.wait_for_rows("ours holds all leases again", |rows| holds(rows, "ours-2") == 4).await;
    producer.finish(RECORDS).await;
    let deliveries = || {
        let mut deliveries = scene.deliveries();
        for (number, count) in printed(&scene) {
            *deliveries.entry(number).or_default() += count;
        }
        deliveries
    };
    wait_for("every number is delivered", LIMIT, async || {
        let count = deliveries().len();
        if count == RECORDS { Ok(()) } else { Err(format!("{count} of {RECORDS}")) }
    })
    .await;
    let repeats: usize = deliveries().values().map(|count| count - 1).sum();
    assert_eq!(second.terminate().await, Some(0), "{}", second.log());
    println!("{RECORDS} records, none missing, {repeats} delivered again");
}
