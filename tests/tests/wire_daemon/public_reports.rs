//! Failures that users of the MultiLangDaemon reported in public, with the circumstances of each report.

use std::fs;

use end_to_end_tests::daemon::dynamodb_front::{DynamoDbFront, Refusal};
use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::Scene;
use end_to_end_tests::interop::resharding::split_a_shard;

fn answers(scene: &Scene, meant: &str) -> Vec<Option<String>> {
    let of = |event| match event {
        Event::Checkpoint { during, error } if during == meant => Some(error),
        _ => None,
    };
    scene.entries().into_iter().filter_map(|entry| of(entry.event)).collect()
}

/// amazon-kinesis-client#633: a blank after `TRIM_HORIZON` ended the daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blank_after_a_word_does_not_end_the_daemon() {
    let mut scene = Scene::new("report-633", 1).await;
    scene.put(10).await;
    let mut daemon =
        scene.start("w", "", "initialPositionInStream = TRIM_HORIZON \nretrievalMode = POLLING\t");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("blanks after the value of initialPositionInStream"), "{}", daemon.log());
}

/// amazon-kinesis-client#303: a checkpoint before the last one is refused as `IllegalArgumentException`, and the child goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_checkpoint_is_refused_and_the_child_goes_on() {
    let mut scene = Scene::new("report-303", 1).await;
    scene.put(100).await;
    let mut daemon = scene.start("w", "checkpoint-always checkpoint-older", "");
    scene.wait_for_all().await;
    scene.put(100).await;
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    let older = answers(&scene, "older");
    // In a batch of one record it is the same position, which is allowed.
    let is_right =
        |error: &Option<String>| error.as_deref().is_none_or(|error| error == "IllegalArgumentException");
    assert!(older.len() >= 2 && older.iter().all(is_right) && older.iter().any(Option::is_some), "{older:?}");
}

/// amazon-kinesis-client#134: at the end of a shard the daemon waited for ever for the end of the child's output, which another
/// process of the child kept open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_output_of_a_helper_does_not_hold_up_the_end_of_a_shard() {
    let mut scene = Scene::new("report-134", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "helper", "shardSyncIntervalMillis = 1000");
    scene.wait_for_all().await;
    split_a_shard(&scene.endpoints, scene.stream()).await;
    scene.put(10).await;
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
}

/// amazon-kinesis-client#29: several daemons and a stream that goes from one shard to two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_survive_the_split_of_the_only_shard() {
    let mut scene = Scene::new("report-29", 1).await;
    scene.put(10).await;
    let mut daemons = ["first", "second"]
        .map(|worker| scene.start(worker, "checkpoint-always", "shardSyncIntervalMillis = 1000"));
    scene.wait_for_all().await;
    split_a_shard(&scene.endpoints, scene.stream()).await;
    scene.put(100).await;
    scene.wait_for_all().await;
    for daemon in &mut daemons {
        assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    }
}

/// amazon-kinesis-client-net#9 and amazon-kinesis-client#122: checkpoints with the key of clients before KCL 1.7 were skipped, and
/// the child waited for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_with_the_old_key_is_answered() {
    let mut scene = Scene::new("report-net-9", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "checkpoint-always checkpoint-legacy", "");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    let written = answers(&scene, "processRecords");
    assert!(!written.is_empty() && written.iter().all(Option::is_none), "{written:?}");
}

/// amazon-kinesis-client#299: a checkpoint from another thread, after the status of its batch. It is answered in the next action.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_between_two_batches_is_answered_in_the_next() {
    let mut scene = Scene::new("report-299", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "checkpoint-late", "");
    scene.wait_for_all().await;
    scene.put(10).await;
    scene.wait_for_all().await;
    daemon
        .wait_for("the late checkpoint is answered", 1, |event| {
            matches!(event, Event::Checkpoint { error: None, .. })
        })
        .await;
    daemon.signal("-KILL").await;
    daemon.ended().await;
    assert!(answers(&scene, "late").iter().all(Option::is_none), "{:?}", answers(&scene, "late"));
}

/// amazon-kinesis-client-python#229: a script that the operating system cannot start.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_without_an_interpreter_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let scene = Scene::new("report-python-229", 1).await;
    let script = scene.directory.join("app.py");
    fs::write(&script, "\u{feff}#!/usr/bin/env python3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = scene.start("w", "", &format!("executableName = {}", script.display()));
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    let log = daemon.log();
    let error = log.lines().find(|line| line.starts_with("kinesis-streaming daemon: error: "));
    let parts = ["shardId-", "app.py", "name its interpreter first"];
    assert!(error.is_some_and(|error| parts.iter().all(|part| error.contains(part))), "{log}");
}

/// amazon-kinesis-client-nodejs#51: the child learnt nothing when its daemon died. It gets the end of its input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_of_a_dead_daemon_gets_the_end_of_its_input() {
    let mut scene = Scene::new("report-nodejs-51", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "", "");
    scene.wait_for_all().await;
    daemon.process.kill().await.unwrap();
    daemon.wait_for("the child sees the end", 1, |event| *event == Event::Closed).await;
}

/// amazon-kinesis-client-ruby#6: network failures took the daemon down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_table_do_not_end_the_daemon() {
    let mut scene = Scene::new("report-ruby-6", 1).await;
    scene.put(10).await;
    let front = DynamoDbFront::start(&scene.endpoints.dynamodb).await.unwrap();
    let mut daemon = scene.start("w", "", &format!("dynamoDBEndpoint = {}", front.url()));
    scene.wait_for_all().await;
    front.refuse_all(Some(Refusal { status: 503, code: "ServiceUnavailable" }));
    scene.put(10).await;
    scene.wait_for_all().await;
    front.refuse_all(None);
    scene.put(10).await;
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
}

/// amazon-kinesis-client#391 and amazon-kinesis-client-python#106: fan-out, the default, could not resume after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fan_out_resumes_after_a_restart() {
    let mut scene = Scene::new("report-391", 2).await;
    for worker in ["first", "second"] {
        scene.put(200).await;
        let mut daemon = scene.start(worker, "checkpoint-always", "retrievalMode = FANOUT");
        scene.wait_for_all().await;
        assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
        assert!(daemon.log().contains("retrieval=fan-out as consumer"), "{}", daemon.log());
    }
    assert!(scene.deliveries().values().all(|count| *count == 1));
}

/// amazon-kinesis-client#384, #701: while a stream had no records, nothing showed whether the processor was alive. The property calls it
/// after each empty read, by polling and by fan-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_batches_reach_an_idle_child() {
    for mode in ["POLLING", "FANOUT"] {
        let mut scene = Scene::new(&format!("report-384-{mode}"), 1).await;
        scene.put(10).await;
        let lines = format!("retrievalMode = {mode}\ncallProcessRecordsEvenForEmptyRecordList = true");
        let mut daemon = scene.start("w", "checkpoint-always", &lines);
        scene.wait_for_all().await;
        // The child checkpoints each batch, and ten records are ten batches at most.
        let is_answer = |event: &Event| matches!(event, Event::Checkpoint { error: None, .. });
        daemon.wait_for("empty batches are checkpointed", 13, is_answer).await;
        assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
        assert!(scene.deliveries().values().all(|count| *count == 1));
    }
}
