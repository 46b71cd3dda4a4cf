//! A reader of the daemon's standard output or error that does not read, as a terminal in scroll mode (spdlog#3104), with one thread
//! for all tasks of the daemon: only the child that prints is held up, and a log without a reader holds up nothing.

use end_to_end_tests::daemon::journal::{Entry, Event};
use end_to_end_tests::daemon::scene::{Daemon, LIMIT, Scene, number_of};
use end_to_end_tests::daemon::scripted_child::FLOOD_LINES;
use end_to_end_tests::interop::wait_for;
use end_to_end_tests::programs::program;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};

/// What a full pipe of Linux holds at least: it has 16 pages of 4,096 bytes, and a line that does not fit begins a page.
const FULL_PIPE_BYTES: usize = 32_768;

/// A daemon whose output is not read, after the child of one shard has printed more than the pipes hold.
async fn flooded(scene: &mut Scene, lines: &str) -> (Daemon, ChildStdout) {
    scene.put(100).await;
    let mut command: Command = program("kinesis-streaming");
    command.args(["daemon", "-p"]).arg(scene.properties("w", "checkpoint-always flood-at=7", lines));
    command.env("TOKIO_WORKER_THREADS", "1");
    let (daemon, stdout) = scene.spawn_piped("w", command);
    daemon.wait_for("the child floods", 1, |event| matches!(event, Event::Record { number: 7, .. })).await;
    (daemon, stdout)
}

/// Waits until all shards but the one of the flood are read to their end.
async fn wait_for_others(scene: &Scene, numbers: usize) {
    let flooded = |entries: &[Entry]| {
        entries.iter().find(|entry| number_of(entry) == Some(7)).map(|entry| entry.shard.clone()).unwrap()
    };
    wait_for("the other shards go on", LIMIT, async || {
        let entries = scene.entries();
        let shard = flooded(&entries);
        let others =
            entries.iter().filter(|entry| entry.shard != shard && number_of(entry) >= Some(100)).count();
        if others >= numbers { Ok(()) } else { Err(format!("{others} of {numbers}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_that_stands_still_holds_up_one_child() {
    let mut scene = Scene::new("standing-reader", 2).await;
    let (mut daemon, stdout) = flooded(&mut scene, "").await;
    scene.put(100).await;
    // About half of them.
    wait_for_others(&scene, 20).await;
    // Once it is read, the child goes on, and nothing that it printed is lost.
    let reading = tokio::spawn(async move {
        let (mut lines, mut count) = (BufReader::new(stdout).lines(), 0);
        while let Some(line) = lines.next_line().await.unwrap() {
            count += usize::from(line.starts_with('x'));
        }
        count
    });
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    assert_eq!(reading.await.unwrap(), FLOOD_LINES);
    assert!(scene.deliveries().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_is_in_time_although_the_output_is_not_read() {
    let mut scene = Scene::new("standing-reader-stop", 2).await;
    let (mut daemon, _stdout) = flooded(&mut scene, "shutdownGraceMillis = 2000").await;
    scene.put(100).await;
    wait_for_others(&scene, 20).await;
    assert_eq!(daemon.terminate().await, Some(3), "{}", daemon.log());
    let ended = Event::Told("leaseLost".to_owned());
    let in_order = daemon.entries().into_iter().filter(|entry| entry.event == ended).count();
    assert_eq!(in_order, 1, "the child that does not print ends in order: {}", daemon.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_is_not_read_holds_up_no_child() {
    let mut scene = Scene::new("standing-reader-log", 2).await;
    scene.put(100).await;
    let mut command: Command = program("kinesis-streaming");
    command.args(["daemon", "-p"]).arg(scene.properties("w", "checkpoint-always", ""));
    // Far more lines than a pipe holds.
    command.env("TOKIO_WORKER_THREADS", "1").env("RUST_LOG", "trace");
    let (mut daemon, mut log) = scene.spawn_with_log("w", command);
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0));
    assert!(scene.deliveries().values().all(|count| *count == 1));
    let mut held = Vec::new();
    log.read_to_end(&mut held).await.unwrap();
    assert!(held.len() >= FULL_PIPE_BYTES, "the log held {} bytes, which is no test", held.len());
}
