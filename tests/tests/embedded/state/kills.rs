//! Workers that are killed: at every request to the object store, and at random.

use std::ops::Range;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED};
use fastrand::Rng;
use tokio::time::timeout;

use super::scene::{Scene, every};

/// How many workers are killed at random.
const KILLS: usize = 100;

/// A quick run kills a worker at one of this many requests. `cargo xtask ci` runs the others too.
const QUICK_STEP: usize = 5;

/// Runs one worker through a split and a merge, kills it at the given request, and lets an heir finish. Returns the number
/// of requests to the store.
async fn run_and_kill(scene: &Scene, crash_at: Option<(usize, bool)>) -> usize {
    scene.put(0..40);
    scene.objects.with(|faults| faults.crash_at = crash_at);
    let member = scene.start("first");
    let work = async {
        member.wait_until_holding(2).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene.put(40..80);
        let parent = scene.stream.open_shards().swap_remove(0);
        let [left, right] = scene.stream.split(&parent).unwrap();
        scene.put(80..120);
        tokio::time::sleep(Duration::from_secs(8)).await;
        scene.stream.merge(&left, &right).unwrap();
        scene.put(120..160);
        tokio::time::sleep(Duration::from_secs(12)).await;
    };
    tokio::select! {
        () = work => {}
        () = scene.objects.crash.notified() => {}
    }
    let requests = scene.objects.with(|faults| {
        faults.crash_at = None;
        faults.requests
    });
    member.crash().await;
    let heir = scene.start("heir");
    scene.put(160..200);
    scene.wait_until_all_counted().await;
    assert!(heir.stop().await.is_drained());
    requests
}

/// Kills a worker before and after each request to the store whose number is selected.
async fn check_kills_at_requests(is_selected: impl Fn(usize) -> bool) {
    let requests = run_and_kill(&Scene::new(2), None).await;
    assert!(requests > 30, "{requests} requests");
    for request in (1..=requests).filter(|request| is_selected(*request)) {
        for is_after in [false, true] {
            run_and_kill(&Scene::new(2), Some((request, is_after))).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn state_and_positions_agree_after_a_kill_at_any_request() {
    check_kills_at_requests(|request| request % QUICK_STEP == 0).await;
}

#[tokio::test(start_paused = true)]
async fn state_and_positions_agree_after_kills_at_more_requests() {
    check_kills_at_requests(|request| request % QUICK_STEP != 0).await;
}

#[tokio::test(start_paused = true)]
async fn totals_are_exact_after_a_hundred_random_kills() {
    let mut rng = Rng::with_seed(SEED);
    let scene = Scene::new(2).with_settings(|settings| settings.snapshot_records = every(20));
    // Half of the writes may arrive after their sender has crashed.
    scene.objects.with(|faults| faults.latency = Some((Rng::with_seed(SEED), 1500)));
    let mut put = 0;
    let mut members: Vec<Member> =
        vec![scene.start("worker-a"), scene.start("worker-b"), scene.start("worker-c")];
    for kill in 0..KILLS {
        let span = FAILOVER_TIME.mul_f64(0.2 + 1.6 * rng.f64());
        for _ in 0..4 {
            let records = rng.usize(0..25);
            scene.put(put..put + records);
            put += records;
            tokio::time::sleep(span / 4).await;
        }
        let open = scene.stream.open_shards();
        match rng.u8(..5) {
            0 if open.len() < 6 => drop(scene.stream.split(&open[rng.usize(..open.len())]).unwrap()),
            1 if open.len() > 1 => {
                // The stream refuses to merge shards that are not adjacent.
                let at = rng.usize(1..open.len());
                let _ = scene.stream.merge(&open[at - 1], &open[at]);
            }
            _ => {}
        }
        let killed = members.swap_remove(rng.usize(..members.len()));
        killed.crash().await;
        if members.len() < 2 || rng.bool() {
            members.push(scene.start(&format!("worker-{kill}")));
        }
    }
    scene.wait_until_all_counted().await;
    for member in members {
        assert!(member.stop().await.is_drained());
    }
    scene.wait_until_all_counted().await;
    assert!(put > 3000, "{put} records");
}

/// Kills a worker at a moment that each of these seeds chooses.
async fn check_kills_at_moments(seeds: Range<u64>) {
    let mut rng = Rng::with_seed(SEED ^ seeds.start);
    for seed in seeds {
        let scene = Scene::new(1);
        scene.objects.with(|faults| faults.latency = Some((Rng::with_seed(seed), 400)));
        let member = scene.start("first");
        let work = async {
            for round in 0..10 {
                scene.put(round * 8..(round + 1) * 8);
                tokio::time::sleep(Duration::from_millis(700)).await;
                if round == 5 {
                    scene.stream.split(&scene.stream.open_shards()[0]).unwrap();
                }
            }
        };
        let _ = timeout(Duration::from_millis(rng.u64(0..7000)), work).await;
        member.crash().await;
        let heir = scene.start("heir");
        scene.wait_until_all_counted().await;
        assert!(heir.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn state_and_positions_agree_after_a_kill_at_any_moment() {
    check_kills_at_moments(0..30).await;
}

#[tokio::test(start_paused = true)]
async fn state_and_positions_agree_after_kills_at_more_moments() {
    check_kills_at_moments(30..150).await;
}
