//! A list of streams that changes while the workers run: streams are added, removed, and their leases deleted by choice.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, put};
use kinesis_streaming::lease_store::Lease;
use kinesis_streaming::prelude::*;
use test_support::{HookedStream, LIMIT, Switch, wait_until};
use tokio::time::sleep;

use crate::streams::{Member, Scene, wait_until_loads};

const MINUTE: Duration = Duration::from_secs(60);

async fn remove(member: &Member, stream: &str, leases: FormerLeases) -> StopReport {
    let removed = member.handle.remove_stream(stream, leases);
    removed.expect("the stream is in the list").stopped().await.expect("the stream has run")
}

/// Leases that the workers handed over, lost or gave up, over all streams.
fn moves(members: &[Member]) -> u64 {
    let statuses = members.iter().flat_map(|member| member.handle.statuses());
    statuses.map(|stream| stream.status.handed_over_leases + stream.status.lost_leases).sum()
}

fn names(member: &Member) -> Vec<String> {
    member.handle.statuses().into_iter().map(|stream| stream.stream).collect()
}

/// Each of the first `count` texts of a stream was delivered once, in order.
fn check_delivered_once(scene: &Scene, index: usize, count: usize) {
    scene.journal(index).check_order();
    let times = scene.journal(index).times();
    assert_eq!(times.len(), count, "texts of stream-{index}");
    assert!(times.values().all(|times| *times == 1), "repeats in stream-{index}: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn added_stream_is_read_and_balanced() {
    let scene = Scene::new(&[2, 2]);
    let members = ["a", "b"].map(|name| scene.start_with(name, &[0]));
    wait_until_loads(&members, &[1, 1]).await;
    put(&scene.streams[1], 0..50);
    for member in &members {
        member.handle.add_stream(scene.config(1)).unwrap();
    }
    scene.journal(1).wait_for(50, LIMIT).await;
    wait_until_loads(&members, &[2, 2]).await;
    assert_eq!(names(&members[0]), ["stream-0", "stream-1"]);
    for member in members {
        let report = member.stop().await;
        assert!(report.is_drained() && report.streams.len() == 2, "{report:?}");
    }
    check_delivered_once(&scene, 1, 50);
}

#[tokio::test(start_paused = true)]
async fn stream_can_be_added_before_the_start() {
    let scene = Scene::new(&[1, 1]);
    let builder = scene.worker("a").with_streams([scene.config(0)]);
    let consumer = builder.lease_store(scene.table.clone()).build().unwrap();
    let handle = consumer.handle();
    handle.add_stream(scene.config(1)).unwrap();
    let running = tokio::spawn(consumer.run());
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    assert!(!handle.has_ended());
    assert_eq!(handle.stop_and_wait().await.len(), 2);
    assert!(running.await.unwrap().unwrap().is_drained());
    assert!(handle.has_ended());
}

#[tokio::test(start_paused = true)]
async fn removed_stream_is_released_and_others_go_on() {
    let scene = Scene::new(&[2, 1, 1]);
    let members = ["a", "b"].map(|name| scene.start(name));
    wait_until_loads(&members, &[2, 2]).await;
    for (index, stream) in scene.streams.iter().enumerate() {
        put(stream, 0..40);
        scene.journal(index).wait_for(40, LIMIT).await;
    }
    for member in &members {
        let report = remove(member, "stream-0", FormerLeases::Keep).await;
        assert!(report.is_drained(), "{report:?}");
        assert_eq!(names(member), ["stream-1", "stream-2"]);
        assert!(member.handle.of_stream("stream-0").is_none());
        assert!(member.handle.remove_stream("stream-0", FormerLeases::Keep).is_none());
    }
    put(&scene.streams[0], 40..60);
    for index in [1, 2] {
        put(&scene.streams[index], 40..60);
        scene.journal(index).wait_for(60, LIMIT).await;
    }
    wait_until_loads(&members, &[1, 1]).await;
    sleep(MINUTE * 20).await;
    let rows = scene.rows(0).await;
    assert!(rows.len() == 2 && rows.iter().all(|row| row.owner.is_none()), "{rows:?}");
    // It is continued where it ended, by the workers that have it again.
    let lost = scene.table.lost.load(Ordering::Relaxed);
    members[1].handle.add_stream(scene.config(0)).unwrap();
    scene.journal(0).wait_for(60, LIMIT).await;
    assert_eq!(scene.table.lost.load(Ordering::Relaxed), lost, "no other worker wants its leases");
    for member in members {
        assert!(member.stop().await.is_drained());
    }
    (0..3).for_each(|index| check_delivered_once(&scene, index, 60));
}

/// A rolling change of the configuration: while the lists differ, each stream is read by the workers that have it.
#[tokio::test(start_paused = true)]
async fn rolling_change_of_the_list_repeats_no_record() {
    let scene = Scene::new(&[3, 4, 2]);
    let members = ["a", "b", "c"].map(|name| scene.start_with(name, &[0, 1]));
    wait_until_loads(&members, &[2, 2, 3]).await;
    let mut written = 0;
    let mut write = || {
        scene.streams.iter().for_each(|stream| put(stream, written..written + 20));
        written += 20;
        written
    };
    for (index, member) in members.iter().enumerate() {
        write();
        member.handle.add_stream(scene.config(2)).unwrap();
        sleep(MINUTE).await;
        write();
        if index + 1 == members.len() {
            // The last one stops to read it: all of it was delivered.
            let count = write();
            scene.journal(0).wait_for(count, LIMIT).await;
            check_delivered_once(&scene, 0, count);
        }
        assert!(remove(member, "stream-0", FormerLeases::Keep).await.is_drained());
        sleep(MINUTE).await;
    }
    let count = write();
    for index in [1, 2] {
        scene.journal(index).wait_for(count, LIMIT).await;
        check_delivered_once(&scene, index, count);
    }
    wait_until_loads(&members, &[2, 2, 2]).await;
    let settled = moves(&members);
    sleep(MINUTE * 20).await;
    assert_eq!(moves(&members), settled, "the fleet is at rest");
}

#[tokio::test(start_paused = true)]
async fn workers_with_different_lists_do_not_fight() {
    let scene = Scene::new(&[3, 4, 5, 2]);
    let lists = [("a", [0, 1, 3].as_slice()), ("b", &[1, 2]), ("c", &[2, 0])];
    let members = lists.map(|(name, list)| scene.start_with(name, list));
    wait_until("all leases are held", || members.iter().map(Member::held).sum::<usize>() == 14).await;
    assert_eq!(members[0].held_of("stream-3"), 2, "read by the only worker that has it");
    sleep(FAILOVER_TIME * 10).await;
    let (settled, lost) = (moves(&members), scene.table.lost.load(Ordering::Relaxed));
    for round in 0..20 {
        for stream in &scene.streams {
            put(stream, round * 10..round * 10 + 10);
        }
        sleep(MINUTE).await;
    }
    assert_eq!(moves(&members), settled, "leases that moved");
    assert_eq!(scene.table.lost.load(Ordering::Relaxed), lost, "lost writes");
    for index in 0..4 {
        scene.journal(index).wait_for(200, LIMIT).await;
        check_delivered_once(&scene, index, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn former_leases_go_after_the_wait_and_not_before() {
    let scene = Scene::new(&[2, 1, 1]);
    let member = scene.start("a");
    wait_until_loads(std::slice::from_ref(&member), &[4]).await;
    for (stream, leases) in
        [("stream-0", FormerLeases::DeleteAfter(MINUTE * 10)), ("stream-2", FormerLeases::Keep)]
    {
        assert!(remove(&member, stream, leases).await.is_drained());
    }
    sleep(MINUTE * 10 - FAILOVER_TIME).await;
    assert_eq!(scene.rows(0).await.len(), 2, "not before the wait is over");
    sleep(FAILOVER_TIME * 4).await;
    assert_eq!(scene.rows(0).await, []);
    assert_eq!(scene.rows(2).await.len(), 1, "the leases of another former stream");
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn former_leases_stay_while_another_worker_reads_them() {
    let scene = Scene::new(&[2, 2]);
    let [a, b] = ["a", "b"].map(|name| scene.start(name));
    wait_until("both work", || a.held() == 2 && b.held() == 2).await;
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    remove(&a, "stream-0", FormerLeases::DeleteAfter(MINUTE)).await;
    wait_until("b reads it alone", || b.held_of("stream-0") == 2).await;
    let before: Vec<ShardId> = scene.rows(0).await.into_iter().map(|row| row.shard_id).collect();
    sleep(MINUTE * 60).await;
    put(&scene.streams[0], 20..40);
    scene.journal(0).wait_for(40, LIMIT).await;
    let after: Vec<ShardId> = scene.rows(0).await.into_iter().map(|row| row.shard_id).collect();
    assert_eq!(after, before);
    check_delivered_once(&scene, 0, 40);
    // The wait begins when the last worker has released them.
    remove(&b, "stream-0", FormerLeases::Keep).await;
    sleep(MINUTE / 2).await;
    assert_eq!(scene.rows(0).await.len(), 2);
    sleep(MINUTE * 2).await;
    assert_eq!(scene.rows(0).await, []);
}

#[tokio::test(start_paused = true)]
async fn former_stream_that_is_added_again_keeps_its_leases() {
    let scene = Scene::new(&[1, 1]);
    let member = scene.start("a");
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    // At once: the new one waits for the end of the old one.
    let handle = &member.handle;
    handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE)).unwrap();
    handle.add_stream(scene.config(0)).unwrap();
    assert_eq!(names(&member), ["stream-1", "stream-0"]);
    put(&scene.streams[0], 20..40);
    scene.journal(0).wait_for(40, LIMIT).await;
    // After a while.
    remove(&member, "stream-0", FormerLeases::DeleteAfter(MINUTE)).await;
    sleep(MINUTE / 2).await;
    handle.add_stream(scene.config(0)).unwrap();
    put(&scene.streams[0], 40..60);
    sleep(MINUTE * 10).await;
    check_delivered_once(&scene, 0, 60);
    assert_eq!(scene.rows(0).await.len(), 1);
    assert!(member.stop().await.is_drained());
}

/// A worker that has the stream, and holds none of its leases since it is at its maximum, restores the rows.
#[tokio::test(start_paused = true)]
async fn rows_deleted_under_a_listed_stream_come_back() {
    let scene = Scene::new(&[1, 1]);
    let a = scene.start_with("a", &[1]);
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    let b = Member::start(scene.worker("b").max_leases(1), scene.configs(), &scene.table);
    wait_until("b is full", || b.held_of("stream-0") == 1).await;
    remove(&a, "stream-1", FormerLeases::DeleteAfter(MINUTE)).await;
    let before = scene.rows(1).await;
    sleep(MINUTE * 5).await;
    let position = |rows: &[Lease]| rows.iter().map(|row| row.checkpoint.clone()).collect::<Vec<_>>();
    let after = scene.rows(1).await;
    assert_eq!(position(&after), position(&before));
    assert_ne!(after[0].counter, before[0].counter, "the row was deleted and restored");
    put(&scene.streams[1], 20..40);
    a.handle.add_stream(scene.config(1)).unwrap();
    scene.journal(1).wait_for(40, LIMIT).await;
    check_delivered_once(&scene, 1, 40);
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn empty_list_waits_for_a_stream() {
    let scene = Scene::new(&[1, 1]);
    let members = ["a", "b"].map(|name| scene.start_with(name, &[0]));
    for member in &members {
        remove(member, "stream-0", FormerLeases::DeleteAfter(MINUTE)).await;
    }
    sleep(MINUTE * 5).await;
    assert_eq!(scene.rows(0).await, [], "leases are deleted by a worker without streams too");
    let [a, b] = members;
    assert!(!a.handle.has_ended());
    a.handle.add_stream(scene.config(1)).unwrap();
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    assert!(a.stop().await.is_drained());
    let report = b.stop().await;
    assert!(report.is_drained() && report.streams.is_empty(), "stopped without a stream");
}

#[tokio::test(start_paused = true)]
async fn stream_that_cannot_be_added_is_refused() {
    let scene = Scene::new(&[1, 1]);
    let member = scene.start("a");
    let error = member.handle.add_stream(scene.config(1)).unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
    assert!(error.to_string().contains("stream-1") && error.to_string().contains("named()"), "{error}");
    // The same stream under another name: its start finds out, and the others go on.
    member.handle.add_stream(scene.config(1).named("again")).unwrap();
    let failure = || {
        let statuses = member.handle.statuses();
        statuses.into_iter().find(|stream| stream.stream == "again").and_then(|stream| stream.failure)
    };
    wait_until("it has failed", || failure().is_some()).await;
    assert!(failure().unwrap().contains("twice"), "{failure:?}", failure = failure());
    remove_failed(&member, "again");
    assert_eq!(names(&member), ["stream-0", "stream-1"]);
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    let handle = member.handle.clone();
    assert!(member.stop().await.is_drained());
    let error = handle.add_stream(scene.config(1)).unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Stopped);
    // A consumer whose future is gone takes no stream either.
    let Member { handle, task } = scene.start("b");
    drop(task);
    wait_until("it is gone", || handle.has_ended()).await;
    assert_eq!(handle.add_stream(scene.config(1)).unwrap_err().kind(), ConsumerErrorKind::Stopped);
}

/// A stream that has ended is removed at once.
fn remove_failed(member: &Member, stream: &str) {
    assert!(member.handle.remove_stream(stream, FormerLeases::Keep).is_some());
}

#[tokio::test(start_paused = true)]
async fn failed_stream_is_started_anew_when_added() {
    let scene = Scene::new(&[1, 1]);
    let created = Switch::default();
    let source = || {
        let is_created = created.clone();
        HookedStream::new(scene.streams[1].clone()).before(move |_| {
            let is_created = is_created.is_on();
            async move {
                match is_created {
                    true => Ok(()),
                    false => Err(SourceError::new(SourceErrorKind::StreamNotFound, "no such stream")),
                }
            }
        })
    };
    let member = scene.start_with("a", &[0]);
    member.handle.add_stream(StreamConfig::new(source())).unwrap();
    let failure = || member.handle.statuses()[1].failure.clone();
    wait_until("it has failed", || failure().is_some()).await;
    created.turn_on();
    member.handle.add_stream(StreamConfig::new(source())).unwrap();
    assert_eq!(names(&member), ["stream-0", "stream-1"]);
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    let report = member.stop().await;
    assert!(
        report.is_drained() && report.streams.len() == 2,
        "the failure is not reported any more: {report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn removed_failure_is_in_no_report() {
    let scene = Scene::new(&[1]);
    let missing = HookedStream::new(InMemoryStream::new("gone", NonZeroUsize::MIN))
        .before(|_| async { Err(SourceError::new(SourceErrorKind::StreamNotFound, "no such stream")) });
    let member = scene.start_with("a", &[0]);
    member.handle.add_stream(StreamConfig::new(missing)).unwrap();
    wait_until("it has failed", || member.handle.statuses()[1].failure.is_some()).await;
    remove_failed(&member, "gone");
    remove(&member, "stream-0", FormerLeases::Keep).await;
    sleep(MINUTE).await;
    assert!(!member.handle.has_ended());
    let report = member.stop().await;
    assert!(report.streams.is_empty(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn streams_may_come_and_go_beyond_the_maximum() {
    let scene = Scene::new(&[1, 1]);
    let member = scene.start_with("a", &[0]);
    for round in 0..50 {
        member.handle.add_stream(scene.config(1)).unwrap();
        put(&scene.streams[1], round * 4..round * 4 + 4);
        scene.journal(1).wait_for(4 * (round + 1), LIMIT).await;
        remove(&member, "stream-1", FormerLeases::Keep).await;
    }
    check_delivered_once(&scene, 1, 200);
    let stream = |number: usize| {
        let name = format!("other-{number}");
        StreamConfig::new(InMemoryStream::new(&name, NonZeroUsize::MIN))
    };
    let added: Vec<bool> =
        (0..=1_000).map(|number| member.handle.add_stream(stream(number)).is_ok()).collect();
    assert_eq!(added.iter().filter(|is_added| **is_added).count(), 999, "with stream-0 a thousand");
}
