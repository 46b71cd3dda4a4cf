//! Children that fail, hang and print what is no message.

use std::collections::BTreeSet;

use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::{Daemon, Scene, is_running, send_signal};

fn is_initialize(event: &Event) -> bool {
    matches!(event, Event::Initialize { .. })
}

/// The shard that this number was delivered to, or would be next.
fn shards(daemon: &Daemon) -> BTreeSet<String> {
    daemon.entries().into_iter().map(|entry| entry.shard).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_child_ends_the_daemon_and_others_end_in_order() {
    let mut scene = Scene::new("failed-child", 2).await;
    let mut daemon = scene.start("w", "exit-at=100", "");
    daemon.wait_for("both children are initialized", 2, is_initialize).await;
    scene.put(200).await;
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    let log = daemon.log();
    let failed = log.lines().find(|line| line.starts_with("kinesis-streaming daemon: error: "));
    let failed = failed.unwrap_or_else(|| panic!("{log}"));
    for part in ["shardId-", "processRecords", "exit status 3"] {
        assert!(failed.contains(part), "{part} in {failed}");
    }
    let is_orderly = |events: &Vec<Event>| events.contains(&Event::Told("shutdownRequested".to_owned()));
    let orderly = daemon.dialogues().values().filter(|events| is_orderly(events)).count();
    assert_eq!(orderly, 1, "the other child checkpoints: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_child_is_restarted_with_the_other_policy() {
    let mut scene = Scene::new("restarted-child", 2).await;
    scene.put(1000).await;
    let once = scene.directory.join("once");
    let script = format!("checkpoint-always exit-at=700 once={}", once.display());
    let mut daemon = scene.start("w", &script, "childFailure = RESTART");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    assert_eq!(shards(&daemon).len(), 2);
    assert_eq!(daemon.dialogues().len(), 3, "one child was started again, the other was not disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_is_given_up_after_the_stated_attempts() {
    let mut scene = Scene::new("given-up", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "exit-at=5", "childFailure = RESTART\nchildRestartLimit = 1");
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    assert_eq!(daemon.dialogues().len(), 2, "the first child and one restart");
    let rows = scene.rows().await;
    assert!(rows.values().all(|row| row.owner.is_none()), "another worker may try at once: {rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_child_is_killed_after_its_time_limit() {
    let mut scene = Scene::new("silent", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "hang-at=5", "timeoutInSeconds = 1");
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("processRecords"), "{}", daemon.log());
    assert!(!is_running(daemon.entries()[0].process), "Java leaves it running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_idle_child_is_noticed_without_a_record() {
    let scene = Scene::new("idle-child", 1).await;
    let mut daemon = scene.start("w", "", "");
    daemon.wait_for("the child is initialized", 1, is_initialize).await;
    let child = daemon.entries()[0].process;
    send_signal("-KILL", &child.to_string()).await;
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("ended by signal 9"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_ignores_the_end_is_terminated() {
    let mut scene = Scene::new("ignores-end", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "ignore-end", "childExitMillis = 100");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    assert!(!is_running(daemon.entries()[0].process));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_is_no_message_is_passed_on() {
    let mut scene = Scene::new("noise", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "noise", "");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0));
    let log = std::fs::read(scene.directory.join("w.log")).unwrap();
    let lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    for line in [&b"plain text"[..], b"null", b"[1,2]", b"\xff\xfe", b"{\"action\":\"status\""] {
        assert!(lines.contains(&line), "{}", String::from_utf8_lossy(line));
    }
}
