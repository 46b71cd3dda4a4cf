//! Unmodified clients of the KCL on `kinesis-streaming daemon`: the sample of `amazon_kclpy`, and a processor on `aws-kcl`. Run by
//! `cargo xtask daemon-tests`, which installs them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod java;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use end_to_end_tests::daemon::scene::{Daemon, LIMIT, Scene};
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::programs::{built, program};
use tokio::process::Command;

/// The folder of the source package of `amazon_kclpy`.
const PYTHON_VARIABLE: &str = "DAEMON_PYTHON_CLIENT";

/// The folder `node_modules` with `aws-kcl`.
const NODE_VARIABLE: &str = "DAEMON_NODE_CLIENT";

const SHARDS: i32 = 2;

/// What the clients print about a record.
const BEFORE_NUMBER: &str = "Record (Partition Key: ";

fn client(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("LEFT OUT: a client, because {variable} is not set");
    }
    folder
}

/// How often each number was printed, and the last sequence number of each.
fn printed(log: &str) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for record in log.split(BEFORE_NUMBER).skip(1) {
        let number = record.split(',').next().unwrap();
        *counts.entry(number.parse().unwrap()).or_default() += 1;
    }
    counts
}

async fn wait_for_numbers(scene: &Scene, daemon: &Daemon) {
    wait_for("every number is printed", LIMIT, async || {
        let count = printed(&daemon.log()).len();
        if count == scene.count() {
            Ok(())
        } else {
            Err(format!("{count} of {}: {}", scene.count(), daemon.log()))
        }
    })
    .await;
}

/// How often this text is in the output.
fn count(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

/// Starts twice, with records before and in between, and checks that none is missing and none repeats.
async fn runs_twice(mut scene: Scene, start: impl AsyncFn(&Scene) -> Command, exit_code: i32) {
    for round in 1..=2 {
        scene.put(400).await;
        let mut daemon = scene.spawn("w", start(&scene).await);
        wait_for_numbers(&scene, &daemon).await;
        assert_eq!(daemon.terminate().await, Some(exit_code), "{}", daemon.log());
        let log = daemon.log();
        let shards = usize::try_from(SHARDS).unwrap();
        for text in ["Shutdown has been requested, checkpointing.", "Lease has been lost"] {
            assert_eq!(count(&log, text), shards * round, "{text}: {log}");
        }
        assert!(printed(&log).values().all(|count| *count == 1), "a record repeats: {log}");
        let rows = scene.rows().await;
        assert!(
            rows.values()
                .all(|row| row.checkpoint.parts().0.parse::<u128>().is_ok()
                    || row.checkpoint.parts().0.len() > 38),
            "{rows:?}"
        );
    }
}

fn python_child(folder: &Path) -> String {
    format!("python3 {}", folder.join("samples/sample_kclpy_app.py").display())
}

/// The daemon under the name of the Java program, with the environment of the tests.
fn as_java(java: &Path, arguments: &[String]) -> Command {
    let own = program("kinesis-streaming");
    let mut command = Command::new(java);
    for (name, value) in own.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(arguments).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_sample_runs_unmodified() {
    let Some(folder) = client(PYTHON_VARIABLE) else { return };
    let scene = Scene::new("python", SHARDS).await;
    let start = async |scene: &Scene| {
        let properties = scene.properties_of("w", &python_child(&folder), "");
        let mut command = program("kinesis-streaming");
        command.args(["daemon", "--properties-file"]).arg(properties).env("PYTHONPATH", &folder);
        command
    };
    runs_twice(scene, start, 0).await;
}

/// The helper of the package prints the line for `java`; our program is named as `java`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_helper_starts_the_daemon_as_java() {
    let Some(folder) = client(PYTHON_VARIABLE) else { return };
    let scene = Scene::new("python-helper", SHARDS).await;
    let start = async |scene: &Scene| {
        let properties = scene.properties_of("w", &python_child(&folder), "");
        let line = Command::new("python3")
            .arg(folder.join("samples/amazon_kclpy_helper.py"))
            .args(["--print_command", "--java"])
            .arg(built("kinesis-streaming"))
            .arg("--properties")
            .arg(properties)
            .env("PYTHONPATH", &folder)
            .output()
            .await
            .unwrap();
        let line = String::from_utf8(line.stdout).unwrap();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut command = as_java(Path::new(&words[0]), &words[1..]);
        command.env("PYTHONPATH", &folder);
        command
    };
    runs_twice(scene, start, 143).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_processor_runs_on_the_unmodified_package() {
    let Some(modules) = client(NODE_VARIABLE) else { return };
    let scene = Scene::new("node", SHARDS).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon_clients/consumer.js");
    let start = async |scene: &Scene| {
        let properties = scene.properties_of("w", &format!("node {script}"), "");
        let mut command = program("kinesis-streaming");
        command.args(["daemon", "--properties-file"]).arg(properties).env("NODE_PATH", &modules);
        command
    };
    runs_twice(scene, start, 0).await;
}

/// The bootstrap of the package starts our program as `java`. It wants the jars to exist, so empty files take their place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_bootstrap_starts_the_daemon_as_java() {
    let Some(modules) = client(NODE_VARIABLE) else { return };
    let mut scene = Scene::new("node-bootstrap", SHARDS).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon_clients/consumer.js");
    let jars = scene.directory.join("jars");
    std::fs::create_dir_all(&jars).unwrap();
    let project = std::fs::read_to_string(modules.join("aws-kcl/pom.xml")).unwrap();
    for jar in jars_of(&project) {
        std::fs::write(jars.join(jar), "").unwrap();
    }
    scene.put(100).await;
    let properties = scene.properties_of("w", &format!("node {script}"), "");
    let arguments = [
        modules.join("aws-kcl/bin/kcl-bootstrap"),
        "--java".into(),
        built("kinesis-streaming"),
        "-p".into(),
        properties,
        "-c".into(),
        jars,
        "-e".into(),
    ];
    let arguments = arguments.map(|argument| argument.display().to_string());
    let mut command = as_java(Path::new("node"), &arguments);
    command.env("NODE_PATH", &modules).process_group(0);
    let mut daemon = scene.spawn("w", command);
    wait_for_numbers(&scene, &daemon).await;
    // The bootstrap does not pass signals on: a supervisor signals its group.
    let group = format!("-{}", daemon.process.id().unwrap());
    end_to_end_tests::daemon::scene::send_signal("-TERM", &group).await;
    daemon.ended().await;
    wait_for("the daemon stops", LIMIT, async || {
        let lost = count(&daemon.log(), "Lease has been lost");
        if lost == usize::try_from(SHARDS).unwrap() { Ok(()) } else { Err(daemon.log()) }
    })
    .await;
}

/// The names of the jars in a `pom.xml`.
fn jars_of(project: &str) -> Vec<String> {
    let between = |text: &str, start: &str, end: &str| {
        text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(found, _)| found.to_owned())
    };
    let version_of =
        |version: String| match version.strip_prefix("${").and_then(|name| name.strip_suffix('}')) {
            Some(name) => between(project, &format!("<{name}>"), "</").unwrap(),
            None => version,
        };
    let dependencies = project.split("<dependency>").skip(1);
    let jar = |dependency: &str| {
        let artifact = between(dependency, "<artifactId>", "<").unwrap();
        format!("{artifact}-{}.jar", version_of(between(dependency, "<version>", "<").unwrap()))
    };
    dependencies.map(jar).collect()
}
