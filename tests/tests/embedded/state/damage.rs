//! Damaged, missing, foreign and outdated snapshots, and object stores that fail: each is a clear error, and nothing is
//! lost.

use std::time::Duration;

use bytes::Bytes;
use end_to_end_tests::fleet::{FAILOVER_TIME, Member};
use kinesis_streaming::prelude::*;
use kinesis_streaming::state::StateErrorKind;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio::time::sleep;

use super::scene::{APPLICATION, Scene, word_counts};
use test_support::{LIMIT, wait_until};

/// A scene with counted records and no running member, and the newest snapshot of its only shard.
async fn counted() -> (Scene, Path) {
    let scene = Scene::new(1);
    let member = scene.start("first");
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    scene.put(50..60);
    scene.wait_until_all_counted().await;
    member.stop().await;
    let newest = scene.objects.newest(&scene.stream.open_shards()[0]).await;
    (scene, newest)
}

async fn put(scene: &Scene, path: &Path, bytes: impl Into<Bytes>) {
    scene.objects.kept.put(path, bytes.into().into()).await.unwrap();
}

/// Starts a member that holds the shard, processes nothing, and reports an error of its state. Returns both.
async fn refused(scene: &Scene, name: &str) -> (Member, String) {
    let member = scene.start(name);
    member.wait_until_holding(1).await;
    let shard_id = scene.stream.open_shards().swap_remove(0);
    let before = scene.checkpoint(&shard_id).await;
    scene.put(60..70);
    sleep(Duration::from_secs(30)).await;
    let progress = member.handle.status().shards[0].progress.clone();
    assert_eq!(progress.acknowledged_records, 0);
    assert_eq!(scene.checkpoint(&shard_id).await, before);
    (member, progress.last_error.expect("the error is reported"))
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_stops_the_shard_until_it_is_restored() {
    for damage in [0, 1, 2] {
        let (scene, newest) = counted().await;
        let whole = scene.objects.read(&newest).await;
        let damaged = match damage {
            0 => whole.slice(..whole.len() / 2),
            1 => Bytes::new(),
            _ => {
                let mut flipped = whole.to_vec();
                flipped[whole.len() / 2] ^= 4;
                flipped.into()
            }
        };
        put(&scene, &newest, damaged).await;
        let kind = scene.processors().read_totals(APPLICATION, "text").await.unwrap_err().kind();
        assert_eq!(kind, StateErrorKind::Corrupt, "totals never leave a damaged snapshot out");
        let (member, error) = refused(&scene, "second").await;
        assert!(error.contains("damaged") && error.contains(newest.as_ref()), "{error}");
        put(&scene, &newest, whole).await;
        scene.wait_until_all_counted().await;
        assert!(member.stop().await.is_drained());
    }
}

#[tokio::test(start_paused = true)]
async fn older_snapshot_replaces_a_damaged_one_past_the_checkpoint() {
    let (scene, newest) = counted().await;
    // A newer snapshot was cut short; no record was acknowledged because of it.
    let whole = scene.objects.read(&newest).await;
    let (folder, _) = newest.as_ref().rsplit_once('/').unwrap();
    let torn = Path::from(format!("{folder}/{:020}-0000000001-0000000001.snapshot", 5_000));
    put(&scene, &torn, whole.slice(..whole.len() - 3)).await;
    let member = scene.start("second");
    member.wait_until_holding(1).await;
    wait_until("the shard is processed", || member.handle.status().shards[0].progress.last_error.is_none())
        .await;
    scene.objects.kept.delete(&torn).await.unwrap();
    scene.put(60..70);
    scene.wait_until_all_counted().await;
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn snapshot_behind_its_lease_is_refused() {
    let (scene, newest) = counted().await;
    let whole = scene.objects.read(&newest).await;
    scene.objects.kept.delete(&newest).await.unwrap();
    let (member, error) = refused(&scene, "second").await;
    let parts = ["only up to", "would be missing", "restore", "set the lease back"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    put(&scene, &newest, whole).await;
    scene.wait_until_all_counted().await;
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_whose_snapshots_are_all_gone_is_refused() {
    let (scene, _) = counted().await;
    let mut kept = Vec::new();
    for path in scene.objects.paths().await {
        kept.push((path.clone(), scene.objects.read(&path).await));
        scene.objects.kept.delete(&path).await.unwrap();
    }
    let (member, error) = refused(&scene, "second").await;
    assert!(error.contains("holds no snapshot") && error.contains("another application name"), "{error}");
    for (path, bytes) in kept {
        put(&scene, &path, bytes).await;
    }
    scene.wait_until_all_counted().await;
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn restarted_shard_must_find_the_state_it_acknowledged() {
    let scene = Scene::new(1);
    let member = Member::start(scene.builder("a").no_progress_time(Duration::from_secs(60)));
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    // The processor knows only the checkpoint at which it took the lease; the snapshots written since then are deleted.
    for path in scene.objects.paths().await {
        scene.objects.kept.delete(&path).await.unwrap();
    }
    scene.objects.with(|faults| faults.hangs = true);
    scene.put(50..60);
    wait_until("the watchdog restarts the shard", || {
        member.handle.status().shards.iter().any(|shard| shard.progress.restarts > 0)
    })
    .await;
    scene.objects.with(|faults| faults.hangs = false);
    let reports_it = || {
        let shards = member.handle.status().shards;
        shards.iter().any(|shard| {
            shard.progress.last_error.as_ref().is_some_and(|error| error.contains("no snapshot"))
        })
    };
    wait_until("the missing snapshot is reported", reports_it).await;
    member.crash().await;
}

#[tokio::test(start_paused = true)]
async fn snapshot_of_another_version_is_refused_and_stays_readable() {
    let (scene, _) = counted().await;
    let other = stateful(word_counts(2), scene.store(), scene.settings.clone()).unwrap();
    let member = Member::start(scene.builder("second").processors(other));
    member.wait_until_holding(1).await;
    scene.put(60..70);
    sleep(Duration::from_secs(20)).await;
    let error = member.handle.status().shards[0].progress.last_error.clone().unwrap();
    assert!(
        error.contains("version 1") && error.contains("version 2") && error.contains("migrate"),
        "{error}"
    );
    member.stop().await;
    let back = scene.start("third");
    scene.wait_until_all_counted().await;
    back.stop().await;
}

#[tokio::test(start_paused = true)]
async fn snapshot_of_another_shard_or_application_is_refused() {
    let (scene, newest) = counted().await;
    let whole = String::from_utf8(scene.objects.read(&newest).await.to_vec()).unwrap();
    for (from, to) in [
        ("\"application\":\"counting\"", "\"application\":\"elsewhere\""),
        ("\"stream\":\"text\"", "\"stream\":\"test\""),
        ("\"shard_id\":\"shardId-000000000000\"", "\"shard_id\":\"shardId-000000000001\""),
    ] {
        assert!(whole.contains(from), "{whole}");
        let foreign = whole.replacen(from, to, 1);
        let end = foreign.len() - "crc32 00000000\n".len();
        let foreign = format!("{}crc32 {:08x}\n", &foreign[..end], crc32(&foreign.as_bytes()[..end]));
        put(&scene, &newest, foreign).await;
        let kind = scene.processors().read_totals(APPLICATION, "text").await.unwrap_err().kind();
        assert_eq!(kind, StateErrorKind::OtherStream);
        let (member, error) = refused(&scene, "second").await;
        assert!(error.contains("the snapshot belongs to application"), "{error}");
        member.stop().await;
    }
}

/// The CRC-32 of the format, computed bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_stream_that_was_created_again_is_refused() {
    let scene = Scene::new(1);
    let identity = scene.stream.describe().await.unwrap().identity;
    let scene = scene.with_settings(|settings| settings.stream_identity = Some(identity));
    let member = scene.start("first");
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    member.stop().await;
    // Stream and lease table were deleted and created again, so the positions of the old snapshots mean nothing here.
    let stream = scene.stream.recreated(std::num::NonZeroUsize::MIN);
    let identity = stream.describe().await.unwrap().identity;
    let anew = Scene::new(1);
    let anew = Scene { stream, objects: scene.objects.clone(), ..anew };
    let anew = anew.with_settings(|settings| settings.stream_identity = Some(identity));
    let (member, error) = refused(&anew, "second").await;
    assert!(error.contains("not to stream arn:") && error.contains("another prefix"), "{error}");
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn full_store_holds_the_position_and_loses_nothing() {
    let scene = Scene::new(2);
    let member = scene.start("a");
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    scene.objects.with(|faults| faults.fails_writes = true);
    scene.put(50..150);
    let before = scene.checkpoints().await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(scene.checkpoints().await, before, "nothing is acknowledged without a snapshot");
    scene.objects.with(|faults| faults.fails_writes = false);
    scene.wait_until_all_counted().await;
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_or_is_slow_does_not_cost_the_lease() {
    let scene = Scene::new(2).with_settings(|settings| settings.store_time_limit = Duration::from_secs(8));
    let member = Member::start(scene.builder("a").no_progress_time(Duration::from_secs(3600)));
    member.wait_until_holding(2).await;
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    scene.objects.with(|faults| faults.hangs = true);
    scene.put(50..100);
    sleep(FAILOVER_TIME * 6).await;
    assert_eq!(member.handle.status().lost_leases, 0);
    scene.objects.with(|faults| {
        faults.hangs = false;
        faults.latency = Some((fastrand::Rng::with_seed(1), 3500));
    });
    scene.put(100..150);
    scene.wait_until_all_counted().await;
    assert_eq!(member.handle.status().lost_leases, 0);
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_counts_nothing_twice() {
    let scene = Scene::new(1);
    let member = scene.start("a");
    scene.put(0..50);
    scene.wait_until_all_counted().await;
    scene.objects.with(|faults| faults.loses_answers = true);
    scene.put(50..100);
    sleep(Duration::from_secs(200)).await;
    let snapshots = scene.objects.paths().await;
    assert!(snapshots.len() <= 2 + 8, "snapshots of unknown outcome are bounded: {snapshots:?}");
    member.crash().await;
    scene.objects.with(|faults| faults.loses_answers = false);
    let heir = scene.start("b");
    scene.put(100..120);
    scene.wait_until_all_counted().await;
    assert!(heir.stop().await.is_drained());
    let snapshots = scene.objects.paths().await;
    assert!(snapshots.len() <= 2, "snapshots of unknown outcome are removed too: {snapshots:?}");
}

#[tokio::test(start_paused = true)]
async fn store_without_conditional_writes_suffices() {
    let scene = Scene::new(2);
    scene.objects.with(|faults| faults.lacks_conditions = true);
    for name in ["a", "b", "c"] {
        let member = scene.start(name);
        scene.put(0..50);
        sleep(Duration::from_secs(5)).await;
        member.crash().await;
    }
    let last = scene.start("last");
    scene.wait_until_all_counted().await;
    last.stop().await;
}

#[tokio::test(start_paused = true)]
async fn oversized_state_holds_the_position_and_reports_it() {
    let scene = Scene::new(1).with_settings(|settings| settings.max_snapshot_bytes = 1000);
    let processors = scene.processors();
    let member = Member::start(scene.builder("a").processors(processors.clone()));
    scene.put(0..5);
    scene.wait_until_all_counted().await;
    for number in 0..100 {
        scene.put_text("key", &format!("another-{number}"));
    }
    sleep(LIMIT).await;
    let error = processors.status()[0].last_error.clone().unwrap();
    assert!(error.contains("max_snapshot_bytes = 1000") && error.contains("split the shard"), "{error}");
    member.crash().await;
    let scene = scene.with_settings(|settings| settings.max_snapshot_bytes = 100_000);
    let larger = scene.start("b");
    scene.wait_until_all_counted().await;
    larger.stop().await;
}

#[tokio::test]
async fn a_local_directory_keeps_the_state() {
    let folder = std::env::temp_dir().join(format!("kinesis-streaming-state-{}", std::process::id()));
    let stream = InMemoryStream::new("text", std::num::NonZeroUsize::MIN);
    let leases = InMemoryLeaseStore::new();
    for round in 0..3_u64 {
        let store = StateStore::directory(&folder).unwrap();
        let settings =
            StateSettings { snapshot_interval: Duration::from_millis(50), ..StateSettings::default() };
        let processors = stateful(word_counts(1), store, settings).unwrap();
        let builder = Consumer::builder()
            .application(APPLICATION)
            .worker_id("one")
            .source(stream.clone())
            .lease_store(leases.clone())
            .processors(processors.clone());
        let member = Member::start(builder);
        for _ in 0..100 {
            stream.put("k", "word").unwrap();
        }
        wait_until("all records are counted", || {
            processors.local_totals().get("word") == Some(&((round + 1) * 100))
        })
        .await;
        if round == 1 {
            member.crash().await;
        } else {
            member.stop().await;
        }
        assert!(
            processors.read_totals(APPLICATION, "text").await.unwrap().state.get("word")
                >= Some(&(round * 100))
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn file_is_refused_as_a_state_directory() {
    let file = std::env::temp_dir().join(format!("kinesis-streaming-no-directory-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let error = StateStore::directory(&file).unwrap_err();
    assert_eq!(error.kind(), StateErrorKind::Invalid);
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    std::fs::remove_file(file).unwrap();
}
