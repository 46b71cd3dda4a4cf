//! What a fleet logs. A program of its own, because it captures the log.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, put, setup};
use kinesis_streaming::prelude::*;
use test_support::{LogCapture, LogEvent};

/// A healthy fleet is balanced, and its leader has cleaned up after a reshard, within this time.
const SETTLING_TIME: Duration = Duration::from_secs(600);

/// The lines that an operator sees with the usual filter of a service.
fn notable(events: Vec<LogEvent>) -> Vec<String> {
    let notable =
        events.into_iter().filter(|event| event.level.as_str() != "DEBUG" && event.level.as_str() != "TRACE");
    notable.map(|event| format!("{} {}", event.level, event.text)).collect()
}

#[tokio::test(start_paused = true)]
async fn healthy_fleet_logs_no_warning_and_is_silent_when_idle() {
    let log = LogCapture::install();
    let (stream, store, journal) = setup(8);
    put(&stream, 0..400);
    let start = |name, seed| Member::start(member(name, &stream, &store, &journal).seed(seed));
    let (first, second) = (start("first", SEED), start("second", SEED + 1));
    first.wait_until_holding(4).await;
    // A reshard whose parent is read, finished and cleaned up, a rolling replacement, and a stop.
    stream.split(&ShardId::numbered(0)).unwrap();
    put(&stream, 400..800);
    tokio::time::sleep(SETTLING_TIME).await;
    let third = start("third", SEED + 2);
    second.stop().await;
    tokio::time::sleep(SETTLING_TIME).await;
    let (warnings, lines): (Vec<_>, Vec<_>) =
        notable(log.take()).into_iter().partition(|line| !line.starts_with("INFO"));
    assert!(warnings.is_empty(), "{warnings:#?}");
    assert!(lines.len() > 10, "starts, takes and the reshard are told: {lines:#?}");
    // Half an hour with a record now and then.
    for number in 800..830 {
        put(&stream, number..number + 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let lines = notable(log.take());
    assert!(lines.is_empty(), "{lines:#?}");
    assert!(first.stop().await.is_complete() && third.stop().await.is_complete());
    let warnings = log.take_warnings();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_names_both_processes_of_one_worker_id() {
    let log = LogCapture::install();
    let (stream, store, journal) = setup(2);
    let start = |seed| Member::start(member("same", &stream, &store, &journal).seed(seed));
    let first = start(SEED);
    first.wait_until_holding(2).await;
    let _second = start(SEED + 1);
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    let errors: Vec<String> = log
        .take()
        .into_iter()
        .filter(|event| event.level.as_str() == "ERROR")
        .map(|event| event.text)
        .collect();
    let [error] = errors.as_slice() else { panic!("logged once: {errors:?}") };
    assert!(error.contains("another live process uses the worker id"), "{error}");
    let process = format!("pid={} ", std::process::id());
    for name in ["this_process=\"host=", "other_process=\"host="] {
        let text = error.split_once(name).unwrap().1.split_once('"').unwrap().0;
        assert!(
            text.contains(&process) && text.contains("started=") && text.ends_with("worker=same"),
            "{text}"
        );
    }
    first.stop().await;
    tokio::time::sleep(FAILOVER_TIME + Duration::from_secs(5)).await;
    assert!(log.take_warnings().is_empty());
}

#[tokio::test(start_paused = true)]
async fn shards_beyond_the_sum_of_max_leases_are_named() {
    let log = LogCapture::install();
    let (stream, store, journal) = setup(6);
    let start = |name: &str, max_leases| {
        Member::start(member(name, &stream, &store, &journal).max_leases(max_leases))
    };
    let members = ["a", "b"].map(|name| start(name, 2));
    for member in &members {
        member.wait_until_holding(2).await;
    }
    let held: BTreeSet<ShardId> = members.iter().flat_map(Member::held).collect();
    let unread: Vec<ShardId> =
        stream.open_shards().into_iter().filter(|shard_id| !held.contains(shard_id)).collect();
    assert_eq!(unread.len(), 2);
    for member in &members {
        assert!(
            member.handle.status().shards_without_worker.is_empty(),
            "another worker may be about to start"
        );
    }
    tokio::time::sleep(FAILOVER_TIME * 5).await;
    for member in &members {
        assert_eq!(member.handle.status().shards_without_worker, unread);
    }
    let warnings = log.take_warnings();
    assert_eq!(warnings.len(), 2, "one of each worker: {warnings:?}");
    for warning in warnings {
        let names = unread.iter().all(|shard_id| warning.text.contains(shard_id.as_str()));
        assert!(names && warning.text.contains("raise max_leases"), "{warning:?}");
    }
    let third = start("c", 2);
    third.wait_until_holding(2).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    for member in &members {
        assert!(member.handle.status().shards_without_worker.is_empty());
    }
    assert!(log.take_warnings().is_empty());
}
