//! Starts against services that are unavailable, throttled, or refuse the call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{SEED, member, setup};
use kinesis_streaming::lease_store::{
    CredentialFault, FaultRates, FaultyLeaseStore, ServiceCause, StoreError, StoreErrorKind,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::{ConsumerError, ConsumerErrorKind, ConsumerState};
use kinesis_streaming::shard_worker::{SourceError, SourceErrorKind, StreamSource};
use test_support::{
    HookedLeaseStore, HookedStream, Journal, StoreCall, StreamCall, Switch, wait_until_within,
};
use tokio::time::Instant;

/// How many descriptions of streams an account may request per second (`DescribeStreamSummary`).
const DESCRIPTIONS_PER_SECOND: usize = 20;

/// A stream that cannot be described while the switch is on.
fn with_outage(stream: impl StreamSource + 'static, away: &Switch, kind: SourceErrorKind) -> HookedStream {
    let away = away.clone();
    HookedStream::new(stream).before(move |call| {
        let is_away = away.is_on() && call == StreamCall::Describe;
        async move { if is_away { Err(SourceError::new(kind, "the stream is away")) } else { Ok(()) } }
    })
}

/// A stream that throttles descriptions beyond the limit of an account.
fn with_account_limit(stream: InMemoryStream) -> HookedStream {
    let started_at = Instant::now();
    let window = Arc::new(Mutex::new((0, 0)));
    HookedStream::new(stream).before(move |call| {
        let mut window = window.lock().unwrap();
        let second = started_at.elapsed().as_secs();
        if window.0 != second {
            *window = (second, 0);
        }
        window.1 += usize::from(call == StreamCall::Describe);
        let is_throttled = call == StreamCall::Describe && window.1 > DESCRIPTIONS_PER_SECOND;
        let throttled = || SourceError::new(SourceErrorKind::Throttled, "rate exceeded");
        let answer = if is_throttled { Err(throttled()) } else { Ok(()) };
        async move { answer }
    })
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_a_service_that_is_away() {
    for kind in [SourceErrorKind::Unavailable, SourceErrorKind::Throttled] {
        let (stream, table, journal) = setup(2);
        let away = Switch::default();
        away.turn_on();
        let builder = member("a", &stream, &table, &journal).source(with_outage(stream.clone(), &away, kind));
        let receiver = builder.build().unwrap();
        let handle = receiver.handle();
        let running = tokio::spawn(receiver.run());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!running.is_finished(), "{kind:?}: {:?}", running.await);
        let status = handle.status();
        assert_eq!(status.state, ConsumerState::Starting);
        let reason = status.start_error.unwrap_or_default();
        assert!(reason.contains("describing the stream: the stream is away"), "{reason}");
        away.turn_off();
        let limit = Duration::from_secs(60);
        wait_until_within(limit, "it runs", || handle.status().shards.len() == 2).await;
        assert_eq!(handle.status().start_error, None);
        handle.stop();
        assert!(running.await.unwrap().unwrap().is_drained());
    }
}

/// Starts this many workers at once, in an account that answers [`DESCRIPTIONS_PER_SECOND`].
async fn check_start_of_workers(workers: usize, limit: Duration) {
    let (stream, table, journal) = setup(4);
    let limited = with_account_limit(stream.clone());
    let mut handles = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..workers as u64 {
        let builder = member(&format!("worker-{number:04}"), &stream, &table, &journal);
        let receiver = builder.source(limited.clone()).seed(SEED + number).build().unwrap();
        handles.push(receiver.handle());
        running.spawn(receiver.run());
    }
    tokio::time::sleep(limit).await;
    let started = handles.iter().filter(|handle| handle.status().state == ConsumerState::Running).count();
    assert_eq!(started, workers);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_workers_start_within_twelve_seconds() {
    check_start_of_workers(200, Duration::from_secs(12)).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_workers_start_within_a_minute() {
    check_start_of_workers(1000, Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_starts_within_a_minute_after_an_outage() {
    let (stream, table, journal) = setup(4);
    let limited = with_account_limit(stream.clone());
    let away = Switch::default();
    away.turn_on();
    let mut handles = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..1000_u64 {
        let source = with_outage(limited.clone(), &away, SourceErrorKind::Unavailable);
        let builder = member(&format!("worker-{number:04}"), &stream, &table, &journal);
        let receiver = builder.source(source).seed(SEED + number).build().unwrap();
        handles.push(receiver.handle());
        running.spawn(receiver.run());
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    away.turn_off();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let started = handles.iter().filter(|handle| handle.status().state == ConsumerState::Running).count();
    assert_eq!(started, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_denied_or_invalid_start_ends_at_once() {
    for (kind, expected) in [
        (SourceErrorKind::Denied, ConsumerErrorKind::Denied),
        (SourceErrorKind::StreamNotFound, ConsumerErrorKind::StreamNotFound),
        (SourceErrorKind::Invalid, ConsumerErrorKind::Invalid),
    ] {
        let (stream, table, journal) = setup(1);
        let away = Switch::default();
        away.turn_on();
        let builder = member("a", &stream, &table, &journal).source(with_outage(stream.clone(), &away, kind));
        let started_at = Instant::now();
        let error = builder.build().unwrap().run().await.unwrap_err();
        assert_eq!(error.kind(), expected);
        assert_eq!(started_at.elapsed(), Duration::ZERO);
    }
    let (stream, table, journal) = setup(1);
    let store = HookedLeaseStore::new(table).before(|call| async move {
        let denied = || StoreError::new(StoreErrorKind::Denied, "no permission");
        if matches!(call, StoreCall::Prepare) { Err(denied()) } else { Ok(()) }
    });
    let error = member("a", &stream, &store, &journal).build().unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Denied);
}

/// The error of a call with such credentials.
fn refused_credentials(fault: CredentialFault) -> ServiceCause {
    ServiceCause::new("the security token included in the request is refused")
        .with_credential_fault(Some(fault))
}

/// Starts a member whose stream or store refuses the credentials while the switch is on.
fn start_with_credentials(
    fault: CredentialFault,
    is_of_store: bool,
    refused: &Switch,
) -> (ConsumerHandle, tokio::task::JoinHandle<Result<StopReport, ConsumerError>>) {
    let (stream, table, journal) = setup(2);
    let (by_store, by_stream) = (refused.clone(), refused.clone());
    let store = HookedLeaseStore::new(table).before(move |_| {
        let is_refused = is_of_store && by_store.is_on();
        let denied =
            || StoreError::new(StoreErrorKind::Denied, "denied").with_source(refused_credentials(fault));
        let answer = if is_refused { Err(denied()) } else { Ok(()) };
        async move { answer }
    });
    let source = HookedStream::new(stream.clone()).before(move |_| {
        let is_refused = !is_of_store && by_stream.is_on();
        let denied =
            || SourceError::new(SourceErrorKind::Denied, "denied").with_source(refused_credentials(fault));
        let answer = if is_refused { Err(denied()) } else { Ok(()) };
        async move { answer }
    });
    let receiver = member("a", &stream, &store, &journal).source(source).build().unwrap();
    (receiver.handle(), tokio::spawn(receiver.run()))
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_expired_credentials() {
    for is_of_store in [false, true] {
        let refused = Switch::default();
        refused.turn_on();
        let (handle, running) = start_with_credentials(CredentialFault::Expired, is_of_store, &refused);
        // The metadata service of an instance returns expired credentials for up to 15 minutes.
        tokio::time::sleep(Duration::from_secs(900)).await;
        assert!(!running.is_finished(), "of the store: {is_of_store}: {:?}", running.await);
        let status = handle.status();
        assert_eq!(status.state, ConsumerState::Starting);
        assert!(status.start_error.is_some_and(|reason| reason.contains("denied")));
        refused.turn_off();
        let limit = Duration::from_secs(60);
        wait_until_within(limit, "it runs", || handle.status().shards.len() == 2).await;
        handle.stop();
        assert!(running.await.unwrap().unwrap().is_drained());
    }
    for fault in [CredentialFault::Denied, CredentialFault::Unknown] {
        let refused = Switch::default();
        refused.turn_on();
        let begun_at = Instant::now();
        let (_, running) = start_with_credentials(fault, false, &refused);
        assert_eq!(running.await.unwrap().unwrap_err().kind(), ConsumerErrorKind::Denied);
        assert_eq!(begun_at.elapsed(), Duration::ZERO, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_of_a_group_waits_for_throttled_members() {
    let (stream, journal) =
        (InMemoryStream::new("s", end_to_end_tests::fleet::shards(8)), Journal::default());
    let store = FaultyLeaseStore::new(InMemoryLeaseStore::new(), FaultRates::NONE, SEED);
    let mut rates = FaultRates::NONE;
    rates.throttled = 0.9;
    store.set_rates(rates);
    let group = ConsumerGroup::new(&member("group", &stream, &store, &journal), 8).unwrap();
    let handle = group.handle();
    let running = tokio::spawn(group.run());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!running.is_finished(), "{:?}", running.await);
    store.set_rates(FaultRates::NONE);
    let held = || handle.statuses().iter().map(|status| status.shards.len()).sum::<usize>();
    wait_until_within(Duration::from_secs(60), "all shards are held", || held() == 8).await;
    handle.stop();
    assert_eq!(running.await.unwrap().unwrap().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_start_timeout_ends_one_start_and_no_group() {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let (stream, table, journal) = setup(2);
    let away = Switch::default();
    away.turn_on();
    let source = with_outage(stream.clone(), &away, SourceErrorKind::Unavailable);
    let builder = member("a", &stream, &table, &journal).source(source).start_timeout(TIMEOUT);
    let begun_at = Instant::now();
    let error = builder.clone().build().unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Unavailable);
    assert!(begun_at.elapsed() <= TIMEOUT && begun_at.elapsed() > TIMEOUT / 2, "{:?}", begun_at.elapsed());
    let error = ConsumerGroup::new(&builder, 2).unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Unavailable, "none could start");

    // The first description is answered, and no later one within the limit.
    let described = Switch::default();
    let once = described.clone();
    let source = HookedStream::new(stream.clone()).before(move |call| {
        let is_refused = call == StreamCall::Describe && once.is_on();
        once.set(once.is_on() || call == StreamCall::Describe);
        let refused = || SourceError::new(SourceErrorKind::Throttled, "rate exceeded");
        async move { if is_refused { Err(refused()) } else { Ok(()) } }
    });
    let group = ConsumerGroup::new(&builder.source(source), 2).unwrap();
    let handle = group.handle();
    let running = tokio::spawn(group.run());
    tokio::time::sleep(TIMEOUT * 2).await;
    let held = || handle.statuses().iter().map(|status| status.shards.len()).sum::<usize>();
    assert_eq!(held(), 2, "the other receiver works on");
    handle.stop();
    assert_eq!(running.await.unwrap().unwrap().len(), 1);
}
