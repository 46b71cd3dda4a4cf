//! The CPU time of our daemon and of the Java daemon for the same records, in one run. `cargo xtask daemon-tests --figures` runs it
//! with a release build; the figures are printed and decide nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use end_to_end_tests::daemon::scene::{Daemon, Scene};
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::programs::program;
use tokio::process::Command;

use crate::as_java;
use crate::java::{JAVA_LINES, jars};

/// Set by `cargo xtask daemon-tests --figures`.
const FIGURES_VARIABLE: &str = "DAEMON_FIGURES";

/// The records before the measurement, so that connections stand and the compiler of the JVM has seen the code.
const WARM_UP_RECORDS: usize = 10_000;

/// The measured records.
const RECORDS: usize = 40_000;

/// The bytes of a record.
const RECORD_BYTES: usize = 1024;

const SHARDS: i32 = 2;

/// The limit for passing the records on: the servers are not optimised.
const LIMIT: Duration = Duration::from_secs(300);

/// A child that answers each action and counts the records that it was passed, by a process for each shard.
const CHILD: &str = r#"
import os, sys
count, path = 0, sys.argv[1] + "." + str(os.getpid()) + ".count"
for line in sys.stdin:
    if not line.strip():
        continue
    action = line.split('"action":"', 1)[1].split('"', 1)[0]
    count += line.count('"sequenceNumber":')
    with open(path + ".new", "w") as file:
        file.write(str(count))
    os.replace(path + ".new", path)
    sys.stdout.write('\n{"action":"status","responseFor":"' + action + '"}\n')
    sys.stdout.flush()
"#;

/// How many records the children of a worker were passed.
fn passed(scene: &Scene, worker: &str) -> usize {
    let files = fs::read_dir(&scene.directory).unwrap().map(|entry| entry.unwrap().path());
    let counts = files.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(&format!("{worker}.")) && name.ends_with(".count")
    });
    counts.map(|path| fs::read_to_string(path).unwrap().parse::<usize>().unwrap()).sum()
}

async fn wait_for_count(scene: &Scene, worker: &str, daemon: &Daemon) {
    wait_for("every record is passed on", LIMIT, async || {
        let count = passed(scene, worker);
        if count >= scene.count() {
            Ok(())
        } else {
            Err(format!("{count} of {}: {}", scene.count(), daemon.log()))
        }
    })
    .await;
}

/// The CPU time of a process so far, without that of its children, in clock ticks of 10 ms (`USER_HZ` is 100 on Linux).
fn cpu_ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.process.id().unwrap())).unwrap();
    // The name in parentheses may contain spaces; user and system time are the 14th and 15th field.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Starts a daemon, and returns its CPU time in milliseconds for each MB of the measured records.
async fn cpu_millis_per_megabyte(worker: &str, start: impl Fn(&Scene, &str) -> Command) -> f64 {
    let mut scene = Scene::new(&format!("cost-{worker}"), SHARDS).await;
    let script = scene.directory.join("child.py");
    fs::write(&script, CHILD).unwrap();
    let child = format!("python3 {} {}", script.display(), scene.directory.join(worker).display());
    let mut daemon = scene.spawn(worker, start(&scene, &child));
    scene.put_padded(WARM_UP_RECORDS, RECORD_BYTES).await;
    wait_for_count(&scene, worker, &daemon).await;
    let before = cpu_ticks(&daemon);
    scene.put_padded(RECORDS, RECORD_BYTES).await;
    wait_for_count(&scene, worker, &daemon).await;
    let ticks = cpu_ticks(&daemon) - before;
    daemon.terminate().await;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let (millis, megabytes) = (ticks as f64 * 10.0, (RECORDS * RECORD_BYTES) as f64 / 1e6);
    println!("{worker}: {millis} ms of CPU for {megabytes:.1} MB in records of {RECORD_BYTES} bytes");
    millis / megabytes
}

fn java_command(jars: &Path, properties: &Path) -> Command {
    let arguments = [
        "-Daws.cborEnabled=false".to_owned(),
        "-classpath".to_owned(),
        jars.join("*").display().to_string(),
        "software.amazon.kinesis.multilang.MultiLangDaemon".to_owned(),
        "--properties-file".to_owned(),
        properties.display().to_string(),
    ];
    as_java(Path::new("java"), &arguments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_for_each_megabyte_beside_java() {
    if std::env::var_os(FIGURES_VARIABLE).is_none() {
        println!("LEFT OUT: the CPU time of both daemons; `cargo xtask daemon-tests --figures` measures it");
        return;
    }
    let ours = |scene: &Scene, worker: &str, child: &str| {
        let mut command = program("kinesis-streaming");
        command.args(["daemon", "-p"]).arg(scene.properties_of(worker, child, ""));
        command
    };
    let cbor = cpu_millis_per_megabyte("cbor", |scene, child| ours(scene, "cbor", child)).await;
    let json = cpu_millis_per_megabyte("json", |scene, child| {
        let mut command = ours(scene, "json", child);
        command.env("AWS_CBOR_DISABLE", "true");
        command
    })
    .await;
    println!("ours: {cbor:.1} ms of CPU for each MB with CBOR, {json:.1} ms with JSON");
    let Some(jars) = jars() else { return };
    // The local server sends times in another unit in CBOR than in JSON, so Java reads JSON.
    let java = cpu_millis_per_megabyte("java", |scene, child| {
        java_command(&jars, &scene.properties_of("java", child, JAVA_LINES))
    })
    .await;
    println!(
        "Java: {java:.1} ms of CPU for each MB with JSON; ours is {:.2} of it with JSON, {:.2} with CBOR",
        json / java,
        cbor / java
    );
}
