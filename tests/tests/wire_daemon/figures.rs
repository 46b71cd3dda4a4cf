//! What the daemon costs: memory, the time to the first child, and the round trip of a checkpoint. Times are printed; memory has a
//! bound.

use std::time::Duration;

use end_to_end_tests::daemon::journal::Event;
use end_to_end_tests::daemon::scene::{Daemon, LIMIT, Scene};
use tokio::time::{Instant, sleep};

/// The time between two looks at the journal.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The most memory of its own that the daemon may have with two idle shards, in KiB.
const MAX_IDLE_KIB: u64 = 20 * 1024;

/// The same with 200 shards, in KiB.
const MAX_200_KIB: u64 = 100 * 1024;

/// The memory of the daemon, in KiB: its own, and all that is resident. The difference is mapped pages of the program, which the
/// profile `dev` makes several times as large as a release.
fn memory_kib(daemon: &Daemon) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.id().unwrap())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (field("RssAnon:"), field("VmRSS:"))
}

/// The time until this many children were told to initialize.
async fn initialized(daemon: &Daemon, count: usize) -> Duration {
    let started_at = Instant::now();
    loop {
        let entries = daemon.entries();
        if entries.iter().filter(|entry| matches!(entry.event, Event::Initialize { .. })).count() >= count {
            return started_at.elapsed();
        }
        assert!(started_at.elapsed() < LIMIT, "{}", daemon.log());
        sleep(LOOK_INTERVAL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_daemon_is_small_and_starts_quickly() {
    let scene = Scene::new("idle", 2).await;
    for start in ["cold", "warm"] {
        let mut daemon = scene.start(start, "", "");
        let first = initialized(&daemon, 1).await;
        initialized(&daemon, 2).await;
        let (kib, resident) = memory_kib(&daemon);
        println!(
            "{start}: first initialize after {first:?}; with two idle shards {kib} KiB, resident {resident} KiB"
        );
        assert!(kib < MAX_IDLE_KIB, "{kib} KiB");
        assert_eq!(daemon.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_children_fit_in_memory() {
    let mut scene = Scene::new("two-hundred", 200).await;
    // Fewer reads: the server shares the machine with the test.
    let mut daemon = scene.start("w", "", "idleTimeBetweenReadsInMillis = 5000");
    let all = initialized(&daemon, 200).await;
    scene.put(2000).await;
    scene.wait_for_all().await;
    let (kib, resident) = memory_kib(&daemon);
    println!("200 children: all initialized after {all:?}; {kib} KiB, resident {resident} KiB");
    assert!(kib < MAX_200_KIB, "{kib} KiB");
    assert_eq!(daemon.terminate().await, Some(0), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_that_writes_nothing_is_answered() {
    let mut scene = Scene::new("round-trip", 1).await;
    scene.put(10).await;
    let mut daemon = scene.start("w", "time-checkpoints", "");
    daemon.wait_for("checkpoints are timed", 1, |event| matches!(event, Event::RoundTrip { .. })).await;
    for entry in daemon.entries() {
        if let Event::RoundTrip { micros } = entry.event {
            println!("median round trip of a checkpoint without its write: {micros} µs");
        }
    }
    assert_eq!(daemon.terminate().await, Some(0));
}
