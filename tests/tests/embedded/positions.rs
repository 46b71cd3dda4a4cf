//! Where reading starts and ends: positions of single shards, trimmed records and data loss, the retention period, bounded
//! runs.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use end_to_end_tests::fleet::{Member, member, parents, put, setup};
use kinesis_streaming::lease_store::{Consistency, HashKey, HashKeyRange, Lease};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::{Consumer, ConsumerErrorKind};
use kinesis_streaming::shard_worker::{
    ReadFrom, RetentionAlarm, ShardProgress, ShardState, SourceError, SourceErrorKind,
};
use test_support::{HookedStream, Journal, LIMIT, StreamCall, wait_until};
use tokio::time::{sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

async fn rows(store: &InMemoryLeaseStore) -> Vec<Lease> {
    store.list(Consistency::Strong).await.unwrap().leases
}

async fn row(store: &InMemoryLeaseStore, shard_id: &ShardId) -> Lease {
    store.get(shard_id).await.unwrap().unwrap()
}

/// The hash-key range of each shard.
async fn ranges(stream: &InMemoryStream) -> BTreeMap<ShardId, HashKeyRange> {
    let shards = stream.list_shards(&ShardFilter::All).await.unwrap();
    shards.into_iter().map(|shard| (shard.shard_id, shard.hash_key_range.unwrap())).collect()
}

/// Puts a record into one shard.
fn put_at(stream: &InMemoryStream, hash_key: HashKey, text: &str) -> SequenceNumber {
    stream.put_with_hash_key(hash_key, Some("key"), text.to_owned()).unwrap().1
}

fn progress(member: &Member, shard_id: &ShardId) -> Option<ShardProgress> {
    let shards = member.handle.status().shards;
    shards.into_iter().find(|shard| shard.shard_id == *shard_id).map(|shard| shard.progress)
}

fn state(member: &Member, shard_id: &ShardId) -> Option<ShardState> {
    progress(member, shard_id).map(|progress| progress.state)
}

/// The texts of all delivered records.
fn texts(journal: &Journal) -> BTreeSet<String> {
    journal.times().into_keys().collect()
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    texts.into_iter().map(str::to_owned).collect()
}

/// Runs a bounded receiver until it ends.
async fn ends(receiver: Consumer) -> StopReport {
    timeout(LIMIT, receiver.run()).await.expect("a bounded run ends by itself").unwrap()
}

async fn now(stream: &InMemoryStream) -> SystemTime {
    stream.describe().await.unwrap().now.unwrap()
}

#[tokio::test(start_paused = true)]
async fn named_position_marks_its_ancestors_done_and_skips_no_more() {
    let (stream, store, journal) = setup(2);
    let ranges_of = ranges(&stream).await;
    let [first, second] = [0, 1].map(|index| stream.open_shards()[index].clone());
    let (low, high) = (ranges_of[&first].start(), ranges_of[&first].end());
    put_at(&stream, low, "done in the parent");
    let [left, right] = stream.split(&first).unwrap();
    put_at(&stream, low, "done in the left child");
    let kept = put_at(&stream, low, "the last that is done");
    put_at(&stream, low, "left");
    put_at(&stream, high, "right");
    put_at(&stream, ranges_of[&second].start(), "second");
    let position = ShardPosition::After { sequence_number: kept, sub_sequence_number: 0 };
    let builder = member("a", &stream, &store, &journal).initial_position_of(left, position);
    let member = Member::start(builder);
    journal.wait_for(3, LIMIT).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(texts(&journal), strings(["left", "right", "second"]));
    assert!(row(&store, &right).await.checkpoint > Position::Latest);
    journal.check_order();
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_named_child_waits_for_a_parent_that_is_read() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..50);
    let first = stream.open_shards()[0].clone();
    let [left, right] = stream.split(&first).unwrap();
    put(&stream, 50..100);
    // A sentinel position does not mark the parent as done.
    let builder =
        member("a", &stream, &store, &journal).initial_position_of(left.clone(), ShardPosition::TrimHorizon);
    let member = Member::start(builder);
    journal.wait_for(100, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
    journal.check_parents_first(&parents(&stream).await);
    assert_eq!(member.held(), BTreeSet::from([left, right]));
}

#[tokio::test(start_paused = true)]
async fn existing_lease_wins_over_any_initial_position() {
    let (stream, store, journal) = setup(2);
    put(&stream, 0..50);
    let first = Member::start(member("a", &stream, &store, &journal));
    journal.wait_for(50, LIMIT).await;
    assert!(first.stop().await.is_drained());
    put(&stream, 50..100);
    sleep(Duration::from_secs(10)).await;
    let shard_id = stream.open_shards()[0].clone();
    let builder = member("b", &stream, &store, &journal)
        .initial_position(InitialPosition::Latest)
        .initial_position_of(shard_id, ShardPosition::TrimHorizon);
    let second = Member::start(builder);
    journal.wait_for(100, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
    assert!(second.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn start_time_of_a_single_shard_holds_for_its_child() {
    let (stream, store, journal) = setup(2);
    let [first, second] = [0, 1].map(|index| stream.open_shards()[index].clone());
    let ranges_of = ranges(&stream).await;
    let (of_first, of_second) = (ranges_of[&first].start(), ranges_of[&second].start());
    put_at(&stream, of_first, "old");
    put_at(&stream, of_second, "old, but wanted");
    stream.split(&first).unwrap();
    put_at(&stream, of_first, "old, in the child");
    tokio::time::advance(Duration::from_secs(100)).await;
    let at = now(&stream).await;
    put_at(&stream, of_first, "new");
    let builder =
        member("a", &stream, &store, &journal).initial_position_of(first, ShardPosition::AtTimestamp(at));
    let _member = Member::start(builder);
    journal.wait_for(2, LIMIT).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(texts(&journal), strings(["new", "old, but wanted"]));
}

/// Creates a data loss. Both shards are read and checkpointed. Then one of them takes a record every ten minutes for three
/// hours without a reader, and records older than an hour are trimmed. Returns the texts of the remaining records.
async fn with_a_loss(
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
    journal: &Journal,
) -> BTreeSet<String> {
    stream.set_retention(Some(HOUR));
    let ranges_of = ranges(stream).await;
    for range in ranges_of.values() {
        put_at(stream, range.start(), &format!("before {}", range.start()));
    }
    let reader = Member::start(member("before", stream, store, journal));
    journal.wait_for(ranges_of.len(), LIMIT).await;
    assert!(reader.stop().await.is_drained());
    let busy = ranges_of[&stream.open_shards()[0]].start();
    for number in 0..18 {
        tokio::time::advance(HOUR / 6).await;
        put_at(stream, busy, &format!("busy {number}"));
    }
    stream.trim_older_than(HOUR);
    (11..18).map(|number| format!("busy {number}")).collect()
}

#[tokio::test(start_paused = true)]
async fn expired_position_halts_its_shard_and_no_other() {
    let (stream, store, journal) = setup(2);
    let remaining = with_a_loss(&stream, &store, &journal).await;
    let [busy, quiet] = [0, 1].map(|index| stream.open_shards()[index].clone());
    let before = texts(&journal);
    let position = row(&store, &busy).await.checkpoint;
    let member = Member::start(member("a", &stream, &store, &journal));
    wait_until("the shard is halted", || state(&member, &busy) == Some(ShardState::DataLost)).await;
    put_at(&stream, ranges(&stream).await[&quiet].start(), "quiet");
    journal.wait_for(before.len() + 1, LIMIT).await;
    sleep(Duration::from_secs(300)).await;
    let halted = progress(&member, &busy).unwrap();
    assert_eq!((halted.state, halted.lost_spans, halted.failed_attempts), (ShardState::DataLost, 1, 0));
    let error = halted.last_error.unwrap();
    let [span, horizon] = [format!("between {position} and "), "after the horizon".to_owned()];
    assert!(error.contains(&span) && error.contains(&horizon), "{error}");
    assert!(error.contains("set the data-loss policy to CONTINUE"), "{error}");
    assert!(texts(&journal).is_disjoint(&remaining), "the halted shard delivers nothing more");
    assert_eq!(progress(&member, &quiet).unwrap().lost_spans, 0);
    assert!(member.stop().await.is_drained());
    assert_eq!(row(&store, &busy).await.checkpoint, position, "the halted shard checkpoints nothing");
}

#[tokio::test(start_paused = true)]
async fn continue_policy_counts_the_lost_span_and_reads_the_rest() {
    let (stream, store, journal) = setup(2);
    let remaining = with_a_loss(&stream, &store, &journal).await;
    let (busy, before) = (stream.open_shards()[0].clone(), texts(&journal));
    let builder = member("a", &stream, &store, &journal).data_loss_policy(DataLossPolicy::Continue);
    let member = Member::start(builder);
    journal.wait_for(before.len() + remaining.len(), LIMIT).await;
    assert_eq!(texts(&journal), before.union(&remaining).cloned().collect());
    let progress = progress(&member, &busy).unwrap();
    assert_eq!((progress.lost_spans, progress.possibly_lost_spans), (1, 0));
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_shard_is_not_halted_after_days() {
    let (stream, store, journal) = setup(2);
    put(&stream, 0..50);
    let reader = Member::start(member("before", &stream, &store, &journal));
    journal.wait_for(50, LIMIT).await;
    assert!(reader.stop().await.is_drained());
    tokio::time::advance(HOUR * 100).await;
    stream.trim_older_than(HOUR * 24);
    let [spoke, silent] = [0, 1].map(|index| stream.open_shards()[index].clone());
    put_at(&stream, ranges(&stream).await[&spoke].start(), "after days");
    let member = Member::start(member("a", &stream, &store, &journal));
    journal.wait_for(51, LIMIT).await;
    sleep(Duration::from_secs(10)).await;
    put_at(&stream, ranges(&stream).await[&silent].start(), "later");
    journal.wait_for(52, LIMIT).await;
    let counts = [&spoke, &silent].map(|shard_id| {
        let progress = progress(&member, shard_id).unwrap();
        (progress.lost_spans, progress.possibly_lost_spans)
    });
    assert_eq!(counts, [(0, 1), (0, 0)], "an empty answer at the tip is no evidence of a loss");
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn handler_that_hangs_past_the_retention_period_is_a_data_loss() {
    let (stream, store, journal) = setup(1);
    let retention = Duration::from_secs(600);
    stream.set_retention(Some(retention));
    stream.set_max_batch_records(NonZeroUsize::MIN);
    let shared = journal.clone();
    // The watchdog is off, so the handler may hang that long.
    let builder = member("a", &stream, &store, &journal).no_progress_time(Duration::ZERO).read_ahead_bytes(0);
    let builder = builder.processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| {
        let journal = shared.clone();
        async move {
            if journal.all().is_empty() {
                sleep(retention * 3).await;
            }
            journal.record(&shard, &batch);
            Ok(())
        }
    }));
    put(&stream, 0..1);
    let member = Member::start(builder);
    member.wait_until_holding(1).await;
    for number in 1..18 {
        sleep(retention / 6).await;
        put(&stream, number..number + 1);
        stream.trim_older_than(retention);
    }
    let shard_id = stream.open_shards()[0].clone();
    sleep(retention / 6).await;
    wait_until("the shard is halted", || state(&member, &shard_id) == Some(ShardState::DataLost)).await;
    assert_eq!(texts(&journal), strings(["0"]));
    assert!(progress(&member, &shard_id).unwrap().last_error.unwrap().contains("between the two"));
}

#[tokio::test(start_paused = true)]
async fn continue_policy_reads_children_of_a_trimmed_unread_shard() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..10);
    let reader = Member::start(member("before", &stream, &store, &journal));
    journal.wait_for(10, LIMIT).await;
    assert!(reader.stop().await.is_drained());
    let gone = stream.open_shards()[0].clone();
    put(&stream, 10..20);
    let children = stream.split(&gone).unwrap();
    tokio::time::advance(HOUR * 25).await;
    put(&stream, 20..30);
    stream.trim_older_than(HOUR * 24);
    let halted = Member::start(member("fails", &stream, &store, &journal));
    wait_until("the shard is halted", || state(&halted, &gone) == Some(ShardState::DataLost)).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(journal.times().len(), 10, "its children wait");
    assert!(halted.stop().await.is_drained());
    let builder = member("continues", &stream, &store, &journal).data_loss_policy(DataLossPolicy::Continue);
    let member = Member::start(builder);
    journal.wait_for(20, LIMIT).await;
    assert!(children.iter().all(|child| member.held().contains(child)));
}

#[tokio::test(start_paused = true)]
async fn retention_shortened_while_running_still_halts_the_shard() {
    let (stream, store, journal) = setup(1);
    stream.set_retention(Some(HOUR * 48));
    stream.set_max_batch_records(NonZeroUsize::MIN);
    let shared = journal.clone();
    let builder = member("a", &stream, &store, &journal)
        .no_progress_time(Duration::ZERO)
        .read_ahead_bytes(0)
        .failover_time(HOUR / 6);
    let builder = builder.processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| {
        let journal = shared;
        async move {
            if journal.all().is_empty() {
                sleep(HOUR * 30).await;
            }
            journal.record(&shard, &batch);
            Ok(())
        }
    }));
    put(&stream, 0..1);
    let member = Member::start(builder);
    member.wait_until_holding(1).await;
    // An operator shortens the retention period while the handler hangs, and the stream removes records 1 to 4.
    for number in 1..30 {
        sleep(HOUR).await;
        put(&stream, number..number + 1);
    }
    stream.set_retention(Some(HOUR * 24));
    stream.trim_older_than(HOUR * 24);
    sleep(HOUR).await;
    let shard_id = stream.open_shards()[0].clone();
    wait_until("the shard is halted", || state(&member, &shard_id) == Some(ShardState::DataLost)).await;
    assert_eq!(texts(&journal), strings(["0"]));
    let progress = progress(&member, &shard_id).unwrap();
    assert_eq!((progress.lost_spans, progress.possibly_lost_spans), (1, 0));
}

/// A stream that refuses to open a shard at any sequence number, as Kinesis may where the record is gone.
fn refuses_positions(stream: &InMemoryStream) -> HookedStream {
    HookedStream::new(stream.clone()).before(|call| async move {
        match call {
            StreamCall::Open(_, ReadFrom::At(_)) => {
                Err(SourceError::new(SourceErrorKind::Invalid, "StartingSequenceNumber is invalid"))
            }
            _ => Ok(()),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn position_refused_by_the_stream_is_a_data_loss() {
    for policy in [DataLossPolicy::Fail, DataLossPolicy::Continue] {
        let (stream, store, journal) = setup(1);
        let remaining = with_a_loss(&stream, &store, &journal).await;
        let (shard_id, before) = (stream.open_shards()[0].clone(), texts(&journal));
        let builder = member("a", &stream, &store, &journal)
            .data_loss_policy(policy)
            .source(refuses_positions(&stream));
        let member = Member::start(builder);
        if policy == DataLossPolicy::Fail {
            wait_until("it is halted", || state(&member, &shard_id) == Some(ShardState::DataLost)).await;
            assert_eq!(texts(&journal), before);
        } else {
            journal.wait_for(before.len() + remaining.len(), LIMIT).await;
            assert_eq!(texts(&journal), before.union(&remaining).cloned().collect());
        }
        assert_eq!(progress(&member, &shard_id).unwrap().lost_spans, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn position_that_never_existed_is_an_error_and_skips_nothing() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..10);
    let shard_id = stream.open_shards()[0].clone();
    let bogus = SequenceNumber::new("9".repeat(56)).unwrap();
    let position = ShardPosition::After { sequence_number: bogus, sub_sequence_number: 0 };
    let builder = member("a", &stream, &store, &journal)
        .source(refuses_positions(&stream))
        .initial_position_of(shard_id.clone(), position.clone());
    let member = Member::start(builder);
    let error = || progress(&member, &shard_id).and_then(|progress| progress.last_error).unwrap_or_default();
    wait_until("the error is reported", || error().contains("does not belong to this shard")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(journal.times().len(), 0);
    assert_eq!(row(&store, &shard_id).await.checkpoint, position.position());
}

#[tokio::test(start_paused = true)]
async fn lag_near_the_retention_period_raises_an_alarm_in_time() {
    let (stream, store, journal) = setup(1);
    let part = Duration::from_secs(60);
    stream.set_retention(Some(part * 24));
    put(&stream, 0..10);
    let shard_id = stream.open_shards()[0].clone();
    let builder = member("a", &stream, &store, &journal)
        .processors(batch_handler(|_, _| async { Err("the sink is away".into()) }));
    let member = Member::start(builder);
    member.wait_until_holding(1).await;
    // The watchdog restarts the shard, and sometimes releases its lease.
    let alarm = || progress(&member, &shard_id).map(|progress| progress.retention_alarm);
    sleep(part * 11).await;
    assert!(alarm().is_none_or(|alarm| alarm == RetentionAlarm::None));
    sleep(part * 2).await;
    wait_until("the lag is half the retention period", || alarm() == Some(RetentionAlarm::Half)).await;
    sleep(part * 5).await;
    wait_until("the lag is four fifths of it", || alarm() == Some(RetentionAlarm::FourFifths)).await;
}

#[tokio::test(start_paused = true)]
async fn alarm_ends_when_the_shard_has_caught_up() {
    let (stream, store, journal) = setup(1);
    stream.set_max_batch_records(NonZeroUsize::MIN);
    for number in 0..24 {
        put(&stream, number..number + 1);
        tokio::time::advance(HOUR).await;
    }
    let shard_id = stream.open_shards()[0].clone();
    let seen: std::sync::Arc<std::sync::Mutex<Vec<RetentionAlarm>>> = std::sync::Arc::default();
    let builder =
        member("a", &stream, &store, &journal).read_ahead_bytes(0).processors(batch_handler(|_, _| async {
            sleep(Duration::from_secs(1)).await;
            Ok(())
        }));
    let member = Member::start(builder);
    wait_until("it has caught up", || {
        let progress = progress(&member, &shard_id).unwrap_or_default();
        let mut seen = seen.lock().unwrap();
        if seen.last() != Some(&progress.retention_alarm) {
            seen.push(progress.retention_alarm);
        }
        progress.acknowledged_records == 24
    })
    .await;
    use RetentionAlarm::{FourFifths, Half, None};
    assert_eq!(*seen.lock().unwrap(), [None, FourFifths, Half, None]);
}

#[tokio::test(start_paused = true)]
async fn idle_shard_at_latest_is_at_its_tip_and_misses_nothing() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..10);
    tokio::time::advance(Duration::from_secs(1)).await;
    let latest = |name| member(name, &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let first = Member::start(latest("a"));
    let shard_id = stream.open_shards()[0].clone();
    wait_until("it has been read", || {
        progress(&first, &shard_id).is_some_and(|progress| progress.millis_behind_latest == Some(0))
    })
    .await;
    sleep(HOUR).await;
    // Without an acknowledged record there is no checkpoint; the row holds the instant.
    assert!(first.stop().await.is_drained());
    tokio::time::advance(HOUR * 20).await;
    put(&stream, 10..15);
    let second = Member::start(latest("b"));
    put(&stream, 15..20);
    journal.wait_for(10, LIMIT).await;
    assert_eq!(journal.times(), (10..20).map(|number| (number.to_string(), 1)).collect());
    let progress = progress(&second, &shard_id).unwrap();
    assert_eq!((progress.retention_alarm, progress.lost_spans), (RetentionAlarm::None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_to_the_tip_reads_children_too_and_ends_by_itself() {
    let (stream, store, journal) = setup(3);
    put(&stream, 0..100);
    let open = stream.open_shards();
    let [left, _] = stream.split(&open[0]).unwrap();
    put(&stream, 100..200);
    let merged = stream.merge(&open[1], &open[2]).unwrap();
    put(&stream, 200..300);
    stream.split(&left).unwrap();
    put(&stream, 300..400);
    let builder = member("a", &stream, &store, &journal).run_until(RunUntil::Tip);
    let report = ends(builder.build().unwrap()).await;
    assert_eq!((report.acknowledged_records, report.is_drained()), (400, true));
    assert!(journal.times().values().all(|times| *times == 1) && journal.times().len() == 400);
    journal.check_parents_first(&parents(&stream).await);
    for row in rows(&store).await {
        assert!(row.owner.is_none() || row.is_finished(), "{row:?}");
    }
    assert!(row(&store, &merged).await.checkpoint > Position::Latest);

    // A later run resumes where this one ended and reads the records that arrive later.
    put(&stream, 400..410);
    let later = member("b", &stream, &store, &journal).run_until(RunUntil::Tip).build().unwrap();
    assert_eq!(ends(later).await.acknowledged_records, 10);
    assert!(journal.times().values().all(|times| *times == 1) && journal.times().len() == 410);
}

#[tokio::test(start_paused = true)]
async fn run_to_an_instant_delivers_earlier_records_only() {
    let (stream, store, journal) = setup(2);
    put(&stream, 0..100);
    let first = stream.open_shards()[0].clone();
    stream.split(&first).unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    put(&stream, 100..200);
    tokio::time::advance(Duration::from_secs(10)).await;
    let instant = now(&stream).await;
    // These come in the same answers as the records before the instant.
    put(&stream, 200..300);
    let bounded = |name| {
        let builder = member(name, &stream, &store, &journal).run_until(RunUntil::Timestamp(instant));
        builder.build().unwrap()
    };
    assert!(ends(bounded("a")).await.is_drained());
    let expected: BTreeMap<String, usize> = (0..200).map(|number| (number.to_string(), 1)).collect();
    assert_eq!(journal.times(), expected);
    // A second bounded run has nothing to do, and an unbounded one resumes right after the instant.
    assert_eq!(ends(bounded("b")).await.acknowledged_records, 0);
    let member = Member::start(member("c", &stream, &store, &journal));
    journal.wait_for(300, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn run_to_a_future_instant_waits_for_it() {
    let (stream, store, journal) = setup(2);
    let started = tokio::time::Instant::now();
    let instant = now(&stream).await + Duration::from_secs(60);
    let builder = member("a", &stream, &store, &journal).run_until(RunUntil::Timestamp(instant));
    let running = tokio::spawn(ends(builder.build().unwrap()));
    for number in 0..100 {
        sleep(Duration::from_secs(1)).await;
        put(&stream, number..number + 1);
    }
    let report = running.await.unwrap();
    // The last record before the instant arrived a second earlier.
    assert_eq!((report.acknowledged_records, report.is_drained()), (59, true));
    assert!(started.elapsed() >= Duration::from_secs(60));
    assert!(journal.times().keys().all(|text| text.parse::<u32>().unwrap() < 59));
}

#[tokio::test(start_paused = true)]
async fn a_run_over_a_stream_without_records_ends() {
    for until in [RunUntil::Tip, RunUntil::Timestamp(SystemTime::UNIX_EPOCH)] {
        let (stream, store, journal) = setup(3);
        let report = ends(member("a", &stream, &store, &journal).run_until(until).build().unwrap()).await;
        assert_eq!((report.acknowledged_records, report.is_drained()), (0, true));
        let checkpoints: BTreeSet<Position> =
            rows(&store).await.into_iter().map(|row| row.checkpoint).collect();
        assert_eq!(checkpoints, BTreeSet::from([Position::TrimHorizon]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_shares_a_bounded_run_and_every_worker_ends() {
    for (workers, max_leases) in [(2, usize::MAX), (3, 1)] {
        let (stream, store, journal) = setup(8);
        put(&stream, 0..400);
        for shard_id in stream.open_shards().iter().take(3) {
            stream.split(shard_id).unwrap();
        }
        put(&stream, 400..800);
        let names = ["a", "b", "c"];
        let running: Vec<_> = names[..workers]
            .iter()
            .map(|name| {
                let builder = member(name, &stream, &store, &journal).run_until(RunUntil::Tip);
                tokio::spawn(ends(builder.max_leases(max_leases).build().unwrap()))
            })
            .collect();
        let mut acknowledged = 0;
        for run in running {
            let report = run.await.unwrap();
            assert!(report.is_drained());
            acknowledged += report.acknowledged_records;
        }
        assert_eq!(acknowledged, 800, "nothing is read twice");
        assert!(journal.times().values().all(|times| *times == 1) && journal.times().len() == 800);
        journal.check_parents_first(&parents(&stream).await);
    }
}

#[tokio::test(start_paused = true)]
async fn bounded_run_ends_only_after_a_crashed_worker_is_replaced() {
    let (stream, store, journal) = setup(4);
    put(&stream, 0..200);
    let shared = journal.clone();
    let slow = |name: &'static str| {
        let journal = shared.clone();
        member(name, &stream, &store, &journal).run_until(RunUntil::Tip).processors(batch_handler(
            move |shard: ShardContext, batch: RecordBatch| async move {
                sleep(Duration::from_secs(20)).await;
                journal.record(&shard, &batch);
                Ok(())
            },
        ))
    };
    let dying = Member::start(slow("dying"));
    let survivor = tokio::spawn(ends(slow("survivor").build().unwrap()));
    dying.wait_until_holding(2).await;
    sleep(Duration::from_secs(5)).await;
    dying.crash().await;
    assert!(survivor.await.unwrap().is_drained());
    assert_eq!(journal.times().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn failing_batch_delays_a_bounded_run_and_is_not_skipped() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..5);
    let shared = journal.clone();
    let failures = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let builder = member("a", &stream, &store, &journal).run_until(RunUntil::Tip).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            let (journal, failures) = (shared.clone(), failures);
            async move {
                if failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 5 {
                    return Err("not yet".into());
                }
                journal.record(&shard, &batch);
                Ok(())
            }
        },
    ));
    assert!(ends(builder.build().unwrap()).await.is_drained());
    assert_eq!(journal.times(), (0..5).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn halted_shard_delays_a_bounded_run() {
    let (stream, store, journal) = setup(2);
    let remaining = with_a_loss(&stream, &store, &journal).await;
    let (busy, before) = (stream.open_shards()[0].clone(), texts(&journal));
    // One record in the same answer lies after the instant; the others lie before it.
    let instant = now(&stream).await + Duration::from_secs(1);
    tokio::time::advance(Duration::from_secs(2)).await;
    put_at(&stream, ranges(&stream).await[&busy].start(), "beyond");
    let bounded = |name, policy| {
        let builder = member(name, &stream, &store, &journal).run_until(RunUntil::Timestamp(instant));
        builder.data_loss_policy(policy).no_progress_time(Duration::from_secs(60))
    };
    let halted = Member::start(bounded("fails", DataLossPolicy::Fail));
    wait_until("the shard is halted", || state(&halted, &busy) == Some(ShardState::DataLost)).await;
    let lease_counter = || halted.handle.status().shards.first().map(|shard| shard.lease_counter);
    let counter = lease_counter();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(state(&halted, &busy), Some(ShardState::DataLost));
    assert_eq!(lease_counter(), counter, "the lease is neither released nor taken again");
    assert_eq!(progress(&halted, &busy).unwrap().restarts, 0, "the watchdog cannot help");
    assert!(halted.stop().await.is_drained());
    assert_eq!(texts(&journal), before);
    ends(bounded("continues", DataLossPolicy::Continue).build().unwrap()).await;
    assert_eq!(texts(&journal), before.union(&remaining).cloned().collect());
}

/// A stream whose description lacks the time.
fn without_time(stream: &InMemoryStream) -> HookedStream {
    HookedStream::new(stream.clone()).after_describe(|mut described| async move {
        described.now = None;
        Ok(described)
    })
}

#[tokio::test(start_paused = true)]
async fn run_to_an_instant_needs_the_time_of_the_stream() {
    let (stream, store, journal) = setup(1);
    let until = RunUntil::Timestamp(SystemTime::UNIX_EPOCH);
    let builder = member("a", &stream, &store, &journal).source(without_time(&stream)).run_until(until);
    let error = builder.build().unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
    let builder =
        member("a", &stream, &store, &journal).source(without_time(&stream)).run_until(RunUntil::Tip);
    assert!(ends(builder.build().unwrap()).await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn bounded_run_flushes_partial_batches_and_awaits_late_acks() {
    let (stream, store, journal) = setup(1);
    put(&stream, 0..25);
    let shared = journal.clone();
    let limits = BatchLimits::new(NonZeroUsize::new(10), None, HOUR);
    let builder = member("a", &stream, &store, &journal)
        .run_until(RunUntil::Tip)
        .batch_limits(limits)
        .processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let (journal, acknowledgement) = (shared, batch.defer());
            tokio::spawn(async move {
                sleep(Duration::from_secs(60)).await;
                journal.record(&shard, &batch);
                acknowledgement.acknowledge();
            });
            async { Ok(()) }
        }));
    let report = ends(builder.build().unwrap()).await;
    assert_eq!((report.acknowledged_records, report.is_drained()), (25, true));
    assert_eq!(journal.times(), (0..25).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn records_trimmed_before_acknowledgement_are_lost_at_a_restart() {
    let (stream, store, journal) = setup(1);
    let retention = Duration::from_secs(600);
    stream.set_retention(Some(retention));
    stream.set_max_batch_records(NonZeroUsize::MIN);
    let shared = journal.clone();
    let builder = member("a", &stream, &store, &journal)
        .no_progress_time(retention + Duration::from_secs(20))
        .read_ahead_bytes(0)
        .processors(batch_handler(move |shard: ShardContext, batch: RecordBatch| {
            let journal = shared;
            async move {
                if batch[0].data == "1" {
                    std::future::pending::<()>().await;
                }
                journal.record(&shard, &batch);
                Ok(())
            }
        }));
    put(&stream, 0..1);
    let member = Member::start(builder);
    journal.wait_for(1, LIMIT).await;
    sleep(Duration::from_secs(10)).await;
    put(&stream, 1..2);
    sleep(Duration::from_secs(10)).await;
    put(&stream, 2..3);
    sleep(retention - Duration::from_secs(5)).await;
    stream.trim_older_than(retention);
    let shard_id = stream.open_shards()[0].clone();
    wait_until("the shard is halted", || state(&member, &shard_id) == Some(ShardState::DataLost)).await;
    assert_eq!(progress(&member, &shard_id).unwrap().restarts, 1);
    assert_eq!(texts(&journal), strings(["0"]));
}
