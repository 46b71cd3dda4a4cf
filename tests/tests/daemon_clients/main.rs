//! Unmodified clients of the KCL on `kinesis-streaming daemon`: the sample of `amazon_kclpy`, and a processor on `aws-kcl`. Run by
//! `cargo xtask daemon-tests`, which installs them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // a test may

mod cost;
mod java;
mod packages;

use std::collections::BTreeMap;
use std::fs;
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

/// The extension of the files with what they print.
const PRINTED: &str = "printed";

fn client(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("LEFT OUT: a client, because {variable} is not set");
    }
    folder
}

/// A child that prints its records to its standard error, each process to a file of its own: the output of the sample has no line
/// ends, so that of two children could not be told apart.
fn child_that_prints(scene: &Scene, worker: &str, command: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;

    let script = scene.directory.join(format!("{worker}.sh"));
    let output = scene.directory.join(worker);
    fs::write(&script, format!("#!/bin/sh\nexec {command} 2>> {}.$$.{PRINTED}\n", output.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script.display().to_string()
}

/// What all children printed.
fn printed_text(scene: &Scene) -> String {
    let files = fs::read_dir(&scene.directory).unwrap().map(|entry| entry.unwrap().path());
    let printed = files.filter(|path| path.extension().is_some_and(|extension| extension == PRINTED));
    printed.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// How often each number was printed.
fn printed(scene: &Scene) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for record in printed_text(scene).split(BEFORE_NUMBER).skip(1) {
        // The last one may be incomplete.
        if let Some((number, _)) = record.split_once(',') {
            *counts.entry(number.parse().unwrap()).or_default() += 1;
        }
    }
    counts
}

async fn wait_for_numbers(scene: &Scene, daemon: &Daemon) {
    wait_for("every number is printed", LIMIT, async || {
        let count = printed(scene).len();
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
        let log = printed_text(&scene);
        let shards = usize::try_from(SHARDS).unwrap();
        for text in ["Shutdown has been requested, checkpointing.", "Lease has been lost"] {
            assert_eq!(count(&log, text), shards * round, "{text}: {log}");
        }
        assert!(printed(&scene).values().all(|count| *count == 1), "a record repeats: {log}");
        let rows = scene.rows().await;
        assert!(
            rows.values().all(|row| row
                .checkpoint
                .parts()
                .0
                .starts_with(|digit: char| digit.is_ascii_digit())),
            "{rows:?}"
        );
    }
}

fn python_child(scene: &Scene, worker: &str, folder: &Path) -> String {
    let sample = folder.join("samples/sample_kclpy_app.py");
    child_that_prints(scene, worker, &format!("python3 {}", sample.display()))
}

fn node_child(scene: &Scene) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon_clients/consumer.js");
    child_that_prints(scene, "w", &format!("node {script}"))
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
        let properties = scene.properties_of("w", &python_child(scene, "w", &folder), "");
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
        let properties = scene.properties_of("w", &python_child(scene, "w", &folder), "");
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
    let start = async |scene: &Scene| {
        let properties = scene.properties_of("w", &node_child(scene), "");
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
    let jars = scene.directory.join("jars");
    fs::create_dir_all(&jars).unwrap();
    let project = fs::read_to_string(modules.join("aws-kcl/pom.xml")).unwrap();
    for jar in jars_of(&project) {
        fs::write(jars.join(jar), "").unwrap();
    }
    scene.put(100).await;
    let properties = scene.properties_of("w", &node_child(&scene), "");
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
        let lost = count(&printed_text(&scene), "Lease has been lost");
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
