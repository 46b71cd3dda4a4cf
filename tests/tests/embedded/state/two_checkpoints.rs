//! Lease checkpoints and snapshots: a checkpoint never passes the snapshot that holds its records, and snapshots are written
//! when they are due.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use end_to_end_tests::fleet::Member;
use kinesis_streaming::prelude::*;
use kinesis_streaming::shard_worker::FailurePolicy;
use kinesis_streaming::state::LostState;
use tokio::time::{Instant, sleep};

use super::scene::{APPLICATION, Scene, every, word_counts};
use test_support::{HookedLeaseStore, LIMIT, wait_until};

/// A snapshot interval that no test reaches.
const LONG: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn checkpoint_waits_for_the_snapshot_and_holds_no_records() {
    let scene = Scene::new(1);
    let budget = ByteBudget::new(NonZeroU64::new(1 << 30).unwrap());
    let processors = scene.processors();
    let builder = scene.builder("a").byte_budget(budget.clone()).processors(processors.clone());
    let member = Member::start(builder);
    member.wait_until_holding(1).await;
    let shard_id = scene.stream.open_shards().swap_remove(0);
    wait_until("its state is restored", || !processors.status().is_empty()).await;
    let put_at = Instant::now();
    scene.put(0..100);
    wait_until("all are in the state", || processors.status()[0].records_in_no_snapshot == 100).await;
    sleep(Duration::from_millis(1800)).await;
    assert_eq!(
        scene.checkpoint(&shard_id).await,
        Position::TrimHorizon,
        "more than a checkpoint interval later"
    );
    assert_eq!(budget.usage().buffered_bytes, 0, "acknowledgements that wait for a snapshot hold no records");
    assert_eq!(processors.local_totals().get("all"), Some(&100));
    wait_until("a snapshot is written", || processors.status()[0].snapshots_written == 2).await;
    let waited = put_at.elapsed();
    assert!(
        waited >= Duration::from_secs(3) && waited < Duration::from_secs(4),
        "the interval is 3 s: {waited:?}"
    );
    let status = processors.status().swap_remove(0);
    assert_eq!(status.stored.as_ref(), Some(&status.applied));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.checkpoint(&shard_id).await, status.applied, "an idle shard is checkpointed too");
    let written = scene.objects.with(|faults| faults.written.len());
    sleep(LIMIT).await;
    assert_eq!(scene.objects.with(|faults| faults.written.len()), written, "an idle shard writes nothing");
    scene.wait_until_all_counted().await;
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_full_window_forces_a_snapshot() {
    let scene = Scene::new(1).with_settings(|settings| settings.snapshot_interval = LONG);
    scene.stream.set_max_batch_records(NonZeroUsize::new(7).unwrap());
    let builder = scene.builder("a").max_unacknowledged_records(NonZeroUsize::new(20).unwrap());
    scene.put(0..200);
    let member = Member::start(builder);
    let deadline = Instant::now() + LIMIT;
    while scene.counted().await.get("all").is_none_or(|all| *all < 180) {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(scene.objects.with(|faults| faults.written.len()) >= 9);
    member.stop().await;
    scene.wait_until_all_counted().await;
}

#[tokio::test(start_paused = true)]
async fn record_count_makes_a_snapshot_due() {
    let scene = Scene::new(1).with_settings(|settings| {
        settings.snapshot_interval = LONG;
        settings.snapshot_records = every(50);
    });
    let processors = scene.processors();
    let member = Member::start(scene.builder("a").processors(processors.clone()));
    wait_until("its state is restored", || !processors.status().is_empty()).await;
    scene.put(0..49);
    sleep(LIMIT).await;
    assert_eq!(processors.status()[0].records_in_no_snapshot, 49);
    scene.put(49..50);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(processors.status()[0].records_in_no_snapshot, 0);
    member.crash().await;
}

#[tokio::test(start_paused = true)]
async fn stop_writes_a_last_snapshot_and_repeats_nothing() {
    let scene = Scene::new(2).with_settings(|settings| settings.snapshot_interval = LONG);
    let member = scene.start("a");
    member.wait_until_holding(2).await;
    scene.put(0..100);
    sleep(Duration::from_secs(2)).await;
    assert!(member.stop().await.is_drained());
    assert_eq!(scene.counted().await, scene.expected(), "without another reader");
    let processors = scene.processors();
    let next = Member::start(scene.builder("b").processors(processors.clone()));
    wait_until("it has both states", || processors.status().len() == 2).await;
    sleep(Duration::from_secs(5)).await;
    assert!(processors.status().iter().all(|shard| shard.snapshots_written == 0), "nothing is redelivered");
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn final_snapshot_precedes_shard_end_and_children_inherit_it() {
    let scene = Scene::new(1).with_settings(|settings| settings.snapshot_interval = LONG);
    let member = scene.start("a");
    member.wait_until_holding(1).await;
    scene.put(0..60);
    sleep(Duration::from_secs(2)).await;
    scene.objects.with(|faults| faults.fails_writes = true);
    let parent = scene.stream.open_shards().swap_remove(0);
    let children = scene.stream.split(&parent).unwrap();
    scene.put(60..90);
    sleep(LIMIT).await;
    assert!(!scene.checkpoint(&parent).await.is_shard_end(), "it does not end without its final snapshot");
    assert_eq!(scene.counted().await.get("all"), None);
    let error = member.handle.status().shards[0].progress.last_error.clone().unwrap();
    assert!(error.contains("writing the snapshot") && error.contains("no space left"), "{error}");
    scene.objects.with(|faults| faults.fails_writes = false);
    wait_until("the children are held", || member.held().is_superset(&children.iter().cloned().collect()))
        .await;
    assert!(member.stop().await.is_drained());
    scene.wait_until_all_counted().await;
    let totals = scene.totals().await;
    let held: Vec<&ShardId> = totals.shards.iter().map(|shard| &shard.shard_id).collect();
    assert_eq!(
        held,
        children.iter().collect::<Vec<_>>(),
        "the parent's snapshots are gone when both have their own"
    );
    assert!(totals.shards.iter().all(|shard| shard.ancestors.contains(&parent)));
}

#[tokio::test(start_paused = true)]
async fn parent_keeps_its_snapshots_for_a_child_not_yet_begun() {
    let scene = Scene::new(1);
    let member = Member::start(scene.builder("a").max_leases(1));
    member.wait_until_holding(1).await;
    scene.put(0..60);
    let parent = scene.stream.open_shards().swap_remove(0);
    let children = scene.stream.split(&parent).unwrap();
    scene.put(60..90);
    // With `max_leases(1)` it takes one of the two children.
    wait_until("it has a child", || children.iter().any(|child| member.held().contains(child))).await;
    sleep(LIMIT).await;
    let kept: Vec<ShardId> = scene.totals().await.shards.into_iter().map(|shard| shard.shard_id).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.contains(&parent), "the other child needs them");
    assert!(scene.counted().await["all"] >= 60, "the other child's part is still counted with the parent");
    let other = scene.start("b");
    scene.wait_until_all_counted().await;
    assert!(!scene.totals().await.shards.iter().any(|shard| shard.shard_id == parent));
    for member in [member, other] {
        member.stop().await;
    }
    let remaining = scene.objects.paths().await;
    assert!(!remaining.iter().any(|path| path.as_ref().contains(parent.as_str())), "{remaining:?}");
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_snapshots_of_a_shard_are_kept() {
    let scene = Scene::new(1).with_settings(|settings| settings.keep = NonZeroUsize::new(3).unwrap());
    let member = scene.start("a");
    member.wait_until_holding(1).await;
    for round in 0..10 {
        scene.put(round..round + 1);
        sleep(Duration::from_secs(4)).await;
    }
    let names = scene.objects.paths().await;
    assert_eq!(names.len(), 3, "{names:?}");
    let written = scene.objects.with(|faults| faults.written.len());
    assert!(names[2].as_ref().ends_with(&format!("-{written:010}.snapshot")), "the newest ones: {names:?}");
    member.crash().await;
    scene.start("b").wait_until_holding(1).await;
}

#[tokio::test(start_paused = true)]
async fn records_reread_after_a_deleted_table_are_not_counted_again() {
    let scene = Scene::new(2);
    let member = scene.start("a");
    scene.put(0..100);
    scene.wait_until_all_counted().await;
    member.stop().await;
    // The lease table is deleted, and the snapshots are kept.
    let leases = HookedLeaseStore::new(InMemoryLeaseStore::new());
    let scene = Scene { leases, ..scene };
    let member = scene.start("b");
    member.wait_until_holding(2).await;
    scene.put(100..150);
    scene.wait_until_all_counted().await;
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn late_snapshot_of_a_fenced_worker_loses_to_its_successors() {
    let scene = Scene::new(1).with_settings(|settings| settings.keep = NonZeroUsize::new(9).unwrap());
    let shard_id = scene.stream.open_shards().swap_remove(0);
    let first = scene.start("first");
    scene.put(0..30);
    scene.wait_until_all_counted().await;
    let of_the_fenced = scene.objects.newest(&shard_id).await;
    first.crash().await;
    let second = scene.start("second");
    scene.put(30..80);
    scene.wait_until_all_counted().await;
    second.crash().await;
    // A write of the first worker arrives late: a higher snapshot number under its old lease, and fewer records.
    let (folder, name) = of_the_fenced.as_ref().rsplit_once('/').unwrap();
    let (start, _) = name.rsplit_once('-').unwrap();
    let late = object_store::path::Path::from(format!("{folder}/{start}-0000009999.snapshot"));
    let bytes = scene.objects.read(&of_the_fenced).await;
    object_store::ObjectStoreExt::put(&*scene.objects.kept, &late, bytes.into()).await.unwrap();
    assert_ne!(scene.objects.newest(&shard_id).await, late);
    assert_eq!(scene.counted().await, scene.expected());
    let third = scene.start("third");
    scene.put(80..90);
    scene.wait_until_all_counted().await;
    third.stop().await;
}

#[tokio::test(start_paused = true)]
async fn skipped_records_leave_no_trace_in_state_and_no_gap() {
    for divides in [true, false] {
        let scene = Scene::new(1).with_settings(|settings| settings.snapshot_interval = LONG);
        let policy = || FailurePolicy::skip().attempts(NonZeroU32::new(2).unwrap()).divide(divides);
        scene.stream.set_max_batch_records(NonZeroUsize::new(10).unwrap());
        scene.put(0..20);
        let good = scene.expected();
        for (number, text) in ["all poison", "all panic"].into_iter().enumerate() {
            scene.stream.put(format!("bad-{number}"), text).unwrap();
        }
        let processors = scene.processors();
        let builder = scene.builder("a").failure_policy(policy()).processors(processors.clone());
        let member = Member::start(builder);
        wait_until("both records are skipped", || {
            member.handle.status().shards.iter().any(|shard| shard.progress.skipped_records == 2)
        })
        .await;
        let all = processors.local_totals();
        assert_eq!(
            all.iter()
                .map(|(word, count)| (word.to_owned(), *count))
                .collect::<std::collections::BTreeMap<_, _>>(),
            good
        );
        // The checkpoint passes the skipped records, and nothing was applied after them.
        sleep(Duration::from_secs(5)).await;
        let shard_id = scene.stream.open_shards().swap_remove(0);
        let before = scene.checkpoint(&shard_id).await;
        member.crash().await;
        let heir = Member::start(scene.builder("b").failure_policy(policy()));
        heir.wait_until_holding(1).await;
        scene.put(20..30);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(heir.handle.status().shards[0].progress.last_error, None, "skipped records leave no gap");
        heir.stop().await;
        scene.wait_until_all_counted().await;
        assert!(matches!(before, Position::After(_)), "{before}");
    }
}

#[tokio::test(start_paused = true)]
async fn state_added_to_a_running_application_needs_begin_empty() {
    let scene = Scene::new(1);
    // The application has run without state.
    let before = Member::start(scene.builder("before").processors(batch_handler(|_, _| async { Ok(()) })));
    before.wait_until_holding(1).await;
    scene.stream.put("k", "not counted").unwrap();
    sleep(Duration::from_secs(5)).await;
    before.stop().await;
    let refused = scene.start("refused");
    refused.wait_until_holding(1).await;
    scene.put(0..10);
    sleep(Duration::from_secs(30)).await;
    let error = refused.handle.status().shards[0].progress.last_error.clone().unwrap();
    assert!(error.contains("no snapshot") && error.contains("BeginEmpty"), "{error}");
    assert_eq!(refused.stop().await.acknowledged_records, 0);
    scene.ran_ahead.store(false, std::sync::atomic::Ordering::Relaxed);
    let scene = scene.with_settings(|settings| settings.lost_state = LostState::BeginEmpty);
    let member = scene.start("allowed");
    scene.wait_until_all_counted().await;
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn volatile_state_is_refused_unless_accepted() {
    let settings = StateSettings::default();
    let in_memory = object_store::memory::InMemory::new();
    for store in [StateStore::volatile(), StateStore::object_store(std::sync::Arc::new(in_memory), "states")]
    {
        let error = stateful(word_counts(1), store, settings.clone()).unwrap_err().to_string();
        assert!(error.contains("accepts_loss_at_restart") && error.contains("is volatile"), "{error}");
    }
    let settings = StateSettings { accepts_loss_at_restart: true, ..settings };
    let scene = Scene::new(2);
    let start = |name| {
        let processors = stateful(word_counts(1), StateStore::volatile(), settings.clone()).unwrap();
        (Member::start(scene.builder(name).processors(processors.clone())), processors)
    };
    let (member, processors) = start("a");
    scene.put(0..50);
    wait_until("all records are counted", || processors.local_totals().get("all") == Some(&50)).await;
    // The state survives a split within this process.
    scene.stream.split(&scene.stream.open_shards()[0]).unwrap();
    scene.put(50..60);
    wait_until("all records are counted", || processors.local_totals().get("all") == Some(&60)).await;
    assert_eq!(processors.read_totals("no such application", "text").await.unwrap().shards, []);
    member.stop().await;
    let (member, processors) = start("b");
    wait_until("its states are restored", || processors.status().len() == 3).await;
    sleep(Duration::from_secs(2)).await;
    assert!(processors.local_totals().is_empty(), "the state is lost at a restart, as the warning announces");
    member.stop().await;
    assert_eq!(APPLICATION, "counting");
}

#[tokio::test(start_paused = true)]
async fn large_state_is_encoded_and_decoded_off_the_runtime() {
    let scene = Scene::new(1);
    let mut member = scene.start("worker");
    for round in 0..4 {
        for record in 0..50 {
            let words: Vec<String> =
                (0..60).map(|word| format!("word-{}-of-record-{}", word, record + round * 25)).collect();
            scene.put_text(&format!("key-{record}"), &words.join(" "));
        }
        sleep(Duration::from_secs(5)).await;
        member.crash().await;
        member = scene.start(&format!("worker-{round}"));
    }
    scene.wait_until_all_counted().await;
    assert!(
        scene.totals().await.state.len() > 5_000,
        "larger than the states that are encoded on the runtime's thread"
    );
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn windows_are_exact_after_kills_and_late_snapshots() {
    use kinesis_streaming::state::PaneCounts;
    let scene = Scene::new(2);
    let window = SlidingWindow::new(Duration::from_secs(60), Duration::from_secs(10)).unwrap();
    let logic = move || {
        SlidingWindowCount::new(StateSchema::new("window", 1), window, |record: &Record| {
            Ok(String::from_utf8(record.data.to_vec())?.split(' ').map(|word| (word.to_owned(), 1)).collect())
        })
    };
    let start = |name: &str| {
        let processors = stateful(logic(), scene.store(), scene.settings.clone()).unwrap();
        (Member::start(scene.builder(name).processors(processors.clone())), processors)
    };
    scene.objects.with(|faults| faults.latency = Some((fastrand::Rng::with_seed(7), 800)));
    let (mut member, mut processors) = start("worker");
    let mut put_at = Vec::new();
    let started_at = Instant::now();
    for round in 0..60 {
        scene.put(round..round + 1);
        put_at.push(started_at.elapsed().as_millis());
        sleep(Duration::from_secs(3)).await;
        if round % 9 == 8 {
            member.crash().await;
            (member, processors) = start(&format!("worker-{round}"));
        }
        if round == 30 {
            scene.stream.split(&scene.stream.open_shards()[0]).unwrap();
        }
    }
    sleep(Duration::from_secs(30)).await;
    member.stop().await;
    let totals = processors.read_totals(APPLICATION, "text").await.unwrap();
    let newest = totals.state.watermark().unwrap();
    // The clock of the stream starts at a pane boundary.
    let pane = |millis: u128| millis / 10_000;
    let last = pane(*put_at.last().unwrap());
    let expected = put_at.iter().filter(|at| pane(**at) + 6 > last).count() as u64;
    let count = |counts: &PaneCounts| counts.count(&window, newest);
    assert_eq!(totals.state.get("all").map(count), Some(expected));
    assert!(totals.state.get("all").unwrap().panes().len() < 12, "old panes are gone");
}
