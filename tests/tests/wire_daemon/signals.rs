//! Starts and stops: signals, the order of the last messages, exit codes, and the form for `java`.

use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::{Daemon, Scene, is_running, send_signal};
use end_to_end_tests::programs::{built, program};

fn told(action: &str) -> Event {
    Event::Told(action.to_owned())
}

fn last_checkpoint() -> Event {
    Event::Checkpoint { during: "shutdownRequested".to_owned(), error: None }
}

/// What a child is told at an orderly stop.
fn orderly_end() -> Vec<Event> {
    vec![told("shutdownRequested"), last_checkpoint(), told("leaseLost"), Event::Closed]
}

fn assert_orderly_ends(daemon: &Daemon, children: usize) {
    let dialogues = daemon.dialogues();
    assert_eq!(dialogues.len(), children, "{dialogues:?}");
    for (child, events) in dialogues {
        assert!(events.ends_with(&orderly_end()), "{child:?}: {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_children_in_order_and_a_restart_resumes() {
    let mut scene = Scene::new("sigterm", 2).await;
    scene.put(1000).await;
    let mut daemon = scene.start("first", "", "");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
    assert_orderly_ends(&daemon, 2);
    let rows = scene.rows().await;
    for (shard, last) in scene.last_delivered() {
        let row = &rows[&shard];
        assert_eq!((row.checkpoint.parts().0, &row.owner), (last.as_str(), &None), "{shard}");
    }

    scene.put(100).await;
    let mut daemon = scene.start("second", "", "");
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(0));
    for ((shard, _), events) in daemon.dialogues() {
        let sequence_number = rows[&shard].checkpoint.parts().0.to_owned();
        assert_eq!(events[0], Event::Initialize { sequence_number }, "{shard}");
    }
    assert!(scene.deliveries().values().all(|count| *count == 1), "nothing repeats after an orderly stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_to_the_group_reaches_no_child() {
    let mut scene = Scene::new("ctrl-c", 2).await;
    scene.put(10).await;
    let mut command = program("kinesis-streaming");
    command.args(["daemon", "-p"]).arg(scene.properties("w", "", "")).process_group(0);
    let mut daemon = scene.spawn("w", command);
    scene.wait_for_all().await;
    send_signal("-INT", &format!("-{}", daemon.process.id().unwrap())).await;
    assert_eq!(daemon.ended().await, Some(0), "{}", daemon.log());
    assert_orderly_ends(&daemon, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_at_once() {
    let mut scene = Scene::new("second-signal", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "hang-at=9", "shutdownGraceMillis = 600000");
    daemon.wait_for("the child hangs", 1, |event| matches!(event, Event::Record { number: 9, .. })).await;
    let child = daemon.entries()[0].process;
    daemon.signal("-TERM").await;
    daemon.wait_for_log("asking the children to shut down").await;
    daemon.signal("-INT").await;
    assert_eq!(daemon.ended().await, Some(130), "{}", daemon.log());
    assert!(!is_running(child), "the hanging child is killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_within_the_stated_time() {
    let mut scene = Scene::new("stated-time", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "hang-at=9", "shutdownGraceMillis = 1500");
    daemon.wait_for("the child hangs", 1, |event| matches!(event, Event::Record { number: 9, .. })).await;
    let child = daemon.entries()[0].process;
    assert_eq!(daemon.terminate().await, Some(3), "{}", daemon.log());
    assert!(daemon.log().contains("limited to 1500 ms"), "{}", daemon.log());
    assert!(!is_running(child), "the hanging child is killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_does_not_exist_is_named() {
    let scene = Scene::new("unknown-stream", 1).await;
    let mut daemon = scene.start("w", "", "streamName = nowhere");
    assert_eq!(daemon.ended().await, Some(1), "{}", daemon.log());
    let log = daemon.log();
    let error = log.lines().find(|line| line.starts_with("kinesis-streaming daemon: error: "));
    assert!(error.is_some_and(|error| error.contains("nowhere")), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn program_named_java_is_the_multi_lang_daemon() {
    let mut scene = Scene::new("java", 1).await;
    scene.put(10).await;
    let home = scene.directory.join("home/bin");
    std::fs::create_dir_all(&home).unwrap();
    let java = home.join("java");
    std::os::unix::fs::symlink(built("kinesis-streaming"), &java).unwrap();
    scene.properties("w", "", "");

    // The line of the bindings: jars, and the directory of the properties file, in the class path.
    let mut command = program("kinesis-streaming");
    let environment: Vec<_> = command
        .as_std()
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command = tokio::process::Command::new(&java);
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let class_path = format!("a.jar:{}", scene.directory.display());
    command.args(["-Xmx64m", "-cp", &class_path, "software.amazon.kinesis.multilang.MultiLangDaemon"]);
    command.args(["--properties-file", "w.properties"]);
    let mut daemon = scene.spawn("w", command);
    scene.wait_for_all().await;
    assert_eq!(daemon.terminate().await, Some(143), "{}", daemon.log());
    assert_orderly_ends(&daemon, 1);
}
