//! The status tells the truth: the lag of shards that make no progress, their health, and the end of a receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, member, put, setup};
use kinesis_streaming::prelude::*;
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);

/// A handler that fails while the switch is on.
fn failing_while(fails: &Arc<AtomicBool>) -> impl RecordProcessorFactory + use<> {
    let fails = fails.clone();
    batch_handler(async move |_, _| match fails.load(Ordering::Relaxed) {
        true => Err("the database is away".into()),
        false => Ok(()),
    })
}

fn the_shard(running: &Member) -> ShardStatus {
    running.handle.status().shards.remove(0)
}

/// Whether an age is this, less the seconds that reads and retries take.
fn is_about(age: Option<Duration>, expected: Duration) -> bool {
    age.is_some_and(|age| {
        age <= expected + Duration::from_secs(5) && age + Duration::from_secs(5) >= expected
    })
}

fn stuck_state(health: &Health) -> Option<ShardState> {
    match health.faults.as_slice() {
        [HealthFault::ShardStuck { state, .. }] => Some(*state),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn lag_of_a_halted_shard_grows() {
    let (stream, store, journal) = setup(1);
    let fails = Arc::new(AtomicBool::new(true));
    let builder = member("a", &stream, &store, &journal)
        .failure_policy(FailurePolicy::halt().attempts(std::num::NonZeroU32::MIN))
        .processors(failing_while(&fails));
    let running = Member::start(builder);
    put(&stream, 0..400);
    sleep(2 * MINUTE).await;
    let (status, shard) = (running.handle.status(), the_shard(&running));
    assert_eq!(shard.progress.millis_behind_latest, Some(0), "the newest read was at the tip");
    assert!(is_about(shard.oldest_unacknowledged_age, 2 * MINUTE), "{shard:?}");
    assert!(is_about(shard.position_age, 2 * MINUTE), "{shard:?}");
    assert!(is_about(shard.failing_for, 2 * MINUTE), "{shard:?}");
    assert_eq!(status.failed_attempts, shard.progress.failed_attempts);
    assert_eq!(stuck_state(&status.health()), Some(ShardState::Halted), "{}", status.health());

    fails.store(false, Ordering::Relaxed);
    sleep(MINUTE).await;
    let shard = the_shard(&running);
    assert_eq!((shard.oldest_unacknowledged_age, shard.failing_for), (None, None));
    assert!(is_about(shard.position_age, Duration::ZERO), "{shard:?}");
    assert!(running.handle.status().health().is_healthy());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lag_of_a_shard_that_cannot_be_read_grows() {
    let (stream, store, journal) = setup(1);
    let running = Member::start(member("a", &stream, &store, &journal));
    sleep(MINUTE).await;
    assert!(is_about(the_shard(&running).position_age, Duration::ZERO));
    stream.fail_reads(SourceErrorKind::Denied, u32::MAX);
    put(&stream, 0..1);
    sleep(3 * MINUTE).await;
    let shard = the_shard(&running);
    assert_eq!(shard.oldest_unacknowledged_age, None, "nothing was delivered");
    assert!(is_about(shard.position_age, 3 * MINUTE), "{shard:?}");
    assert_eq!(stuck_state(&running.handle.status().health()), Some(ShardState::Denied));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shard_that_backs_off_for_ever_is_unhealthy() {
    let (stream, store, journal) = setup(1);
    // A throttled read counts as progress, since another worker would be throttled too.
    stream.throttle_reads(u32::MAX);
    let running = Member::start(member("a", &stream, &store, &journal));
    sleep(MINUTE).await;
    assert!(running.handle.status().health().is_healthy(), "for a minute it is nothing unusual");
    for _ in 0..20 {
        sleep(MINUTE + Duration::from_millis(777)).await;
        let health = running.handle.status().health_after(MINUTE);
        assert!(stuck_state(&health).is_some(), "{health}");
    }
    stream.throttle_reads(0);
    sleep(MINUTE).await;
    assert!(running.handle.status().health().is_healthy());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn restarts_do_not_hide_a_failing_shard() {
    let (stream, store, journal) = setup(1);
    let fails = Arc::new(AtomicBool::new(true));
    let builder = member("a", &stream, &store, &journal)
        .no_progress_time(Duration::from_secs(90))
        .max_restarts(u32::MAX)
        .processors(failing_while(&fails));
    let running = Member::start(builder);
    put(&stream, 0..1);
    sleep(3 * MINUTE).await;
    for _ in 0..20 {
        sleep(Duration::from_millis(44_321)).await;
        let health = running.handle.status().health();
        assert!(stuck_state(&health).is_some(), "{health}");
    }
    assert!(the_shard(&running).progress.restarts > 5);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stop_can_be_awaited_by_any_handle() {
    let (stream, store, journal) = setup(1);
    let consumer = member("a", &stream, &store, &journal).build().unwrap();
    let (handle, waiting) = (consumer.handle(), consumer.handle());
    let waiting = tokio::spawn(async move { waiting.stopped().await });
    let running = tokio::spawn(consumer.run());
    put(&stream, 0..5);
    journal.wait_for(5, MINUTE).await;
    assert!(!waiting.is_finished());
    let report = handle.stop_and_wait().await.unwrap();
    assert!(report.is_drained());
    assert_eq!(handle.status().state, ConsumerState::Stopped);
    assert_eq!(waiting.await.unwrap().as_ref(), Some(&report));
    assert_eq!(running.await.unwrap().unwrap(), report);
}

#[tokio::test(start_paused = true)]
async fn crash_and_failed_start_end_the_wait_without_a_report() {
    let (stream, store, journal) = setup(1);
    let crashed = member("a", &stream, &store, &journal).build().unwrap();
    let handle = crashed.handle();
    let running = tokio::spawn(crashed.run());
    sleep(MINUTE).await;
    running.abort();
    assert_eq!(handle.stopped().await, None);
    let never_run = member("b", &stream, &store, &journal).build().unwrap();
    let handle = never_run.handle();
    drop(never_run);
    assert_eq!(handle.stopped().await, None);
}
