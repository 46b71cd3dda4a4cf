//! The contents of the lease table: leases for every hash key, the identity of the stream, the instant of the first start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, put, setup, shards};
use futures::FutureExt as _;
use kinesis_streaming::lease_store::{
    Consistency, HeldLease, Lease, LeaseChange, LeaseWrite, StoreError, StoreErrorKind, WorkerId,
    WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::ConsumerErrorKind;
use kinesis_streaming::shard_worker::SourceErrorKind;
use test_support::{HookedLeaseStore, HookedStream, LIMIT, StreamCall, wait_until};
use tokio::time::Instant;

async fn rows(store: &InMemoryLeaseStore) -> Vec<Lease> {
    store.list(Consistency::Strong).await.unwrap().leases
}

/// Deletes a row, as an operator may.
async fn delete(store: &InMemoryLeaseStore, shard_id: &ShardId) {
    let row = store.get(shard_id).await.unwrap().unwrap();
    let delete = LeaseWrite::Delete { shard_id: shard_id.clone(), expected: row.version() };
    store.write(&delete).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deleted_row_of_a_held_lease_is_restored_at_its_position() {
    let (stream, store, journal) = setup(3);
    let _member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..300);
    journal.wait_for(300, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let victim = stream.open_shards().swap_remove(1);
    let before = store.get(&victim).await.unwrap().unwrap();
    assert!(matches!(before.checkpoint, Position::After(_)));
    delete(&store, &victim).await;
    put(&stream, 300..400);
    journal.wait_for(400, LIMIT).await;
    let deleted_at = Instant::now();
    loop {
        if let Some(row) = store.get(&victim).await.unwrap() {
            assert!(row.checkpoint >= before.checkpoint && row.counter > before.counter, "{row:?}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(deleted_at.elapsed() < FAILOVER_TIME, "{:?}", deleted_at.elapsed());
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    put(&stream, 400..500);
    journal.wait_for(500, LIMIT).await;
    let old_again = journal
        .times()
        .iter()
        .filter(|(text, times)| text.parse::<usize>().unwrap() < 300 && **times > 1)
        .count();
    assert_eq!(old_again, 0, "checkpointed records are not read again");
}

#[tokio::test(start_paused = true)]
async fn restored_row_counts_on_from_later_holders() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let is_silent = Arc::new(AtomicBool::new(false));
    // The table no longer answers the writes of this worker, so it does not learn of the later holders.
    let hooked = HookedLeaseStore::new(store.clone()).before({
        let is_silent = is_silent.clone();
        move |_| {
            let is_silent = is_silent.load(Ordering::Relaxed);
            async move {
                if is_silent {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    return Err(StoreError::new(StoreErrorKind::Unavailable, "no answer"));
                }
                Ok(())
            }
        }
    });
    let _member = Member::start(member("a", &stream, &store, &journal).lease_store(hooked));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    is_silent.store(true, Ordering::Relaxed);
    // Another worker takes the lease and renews it often; then an operator deletes the row.
    let seen = store.get(&shard_id).await.unwrap().unwrap();
    let other = WorkerId::new("b").unwrap();
    let held = HeldLease::take(Arc::new(store.clone()), &seen, &other).await.unwrap();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        held.renew().await.unwrap();
    }
    let newest = store.get(&shard_id).await.unwrap().unwrap();
    delete(&store, &shard_id).await;
    is_silent.store(false, Ordering::Relaxed);
    let table = || rows(&store).now_or_never().unwrap();
    wait_until("the row is restored", || !table().is_empty()).await;
    wait_until("the lease is taken", || table()[0].owner.is_some()).await;
    assert!(table()[0].counter > newest.counter, "{} after {}", table()[0].counter, newest.counter);
}

#[tokio::test(start_paused = true)]
async fn position_edited_by_hand_is_reported_while_held() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let row = store.get(&shard_id).await.unwrap().unwrap();
    assert_eq!(member.handle.status().shards[0].edited_position, None);
    let edited = Lease { checkpoint: Position::TrimHorizon, ..row.clone() };
    store.write(&LeaseWrite::Delete { shard_id: shard_id.clone(), expected: row.version() }).await.unwrap();
    store.write(&LeaseWrite::Create(edited)).await.unwrap();
    let reported = || member.handle.status().shards.first().and_then(|shard| shard.edited_position.clone());
    wait_until("the edit is reported", || reported().is_some()).await;
    assert_eq!(reported(), Some(Position::TrimHorizon));
    put(&stream, 10..20);
    journal.wait_for(20, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let stored = store.get(&shard_id).await.unwrap().unwrap().checkpoint;
    assert!(stored > row.checkpoint, "the holder's next checkpoint replaces the edit: {stored}");
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn position_moved_forward_while_held_skips_nothing() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let first = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let row = store.get(&shard_id).await.unwrap().unwrap();
    let Position::After(last) = &row.checkpoint else { panic!("{}", row.checkpoint) };
    let number: u128 = last.sequence_number.as_str().parse().unwrap();
    let edited = Lease { checkpoint: Position::after((number + 1_000_000).into(), 0), ..row.clone() };
    store.write(&LeaseWrite::Delete { shard_id: shard_id.clone(), expected: row.version() }).await.unwrap();
    store.write(&LeaseWrite::Create(edited)).await.unwrap();
    wait_until("the edit is reported", || {
        first.handle.status().shards.first().is_some_and(|shard| shard.edited_position.is_some())
    })
    .await;
    put(&stream, 10..20);
    journal.wait_for(20, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let stored = store.get(&shard_id).await.unwrap().unwrap().checkpoint;
    assert!(stored > row.checkpoint && stored < Position::after((number + 1_000_000).into(), 0), "{stored}");
    first.crash().await;
    let _second = Member::start(member("b", &stream, &store, &journal));
    put(&stream, 20..30);
    journal.wait_for(30, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn rows_that_only_an_old_kcl_explains_are_deleted() {
    let (stream, store, journal) = setup(1);
    let root = stream.open_shards().swap_remove(0);
    let _member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    stream.split(&root).unwrap();
    put(&stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    let table = || rows(&store).now_or_never().unwrap();
    wait_until("the row of the parent is deleted", || table().len() == 2).await;
    // A finished row that names no children, and one of a shard that the stream does not list.
    for shard_id in [root, ShardId::numbered(9000)] {
        store.write(&LeaseWrite::Create(Lease::unowned(shard_id, Position::ShardEnd))).await.unwrap();
    }
    wait_until("both rows are deleted", || table().len() == 2).await;
    put(&stream, 200..300);
    journal.wait_for(300, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn row_of_an_ended_shard_is_not_restored_after_a_lost_answer() {
    let (stream, store, journal) = setup(1);
    let parent = stream.open_shards().swap_remove(0);
    let (created, deleted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let hooked = HookedLeaseStore::new(store.clone())
        .before_write({
            let (parent, created) = (parent.clone(), created.clone());
            move |write| {
                let is_parent = matches!(write, LeaseWrite::Create(lease) if lease.shard_id == parent);
                created.fetch_add(usize::from(is_parent), Ordering::Relaxed);
            }
        })
        .after_write({
            let (store, deleted) = (store.clone(), deleted.clone());
            move |write, outcome| {
                let (store, deleted) = (store.clone(), deleted.clone());
                async move {
                    let LeaseWrite::Update {
                        shard_id,
                        change: LeaseChange::Checkpoint { position: Position::ShardEnd, .. },
                        ..
                    } = write
                    else {
                        return outcome;
                    };
                    if !matches!(outcome, WriteOutcome::Applied { .. })
                        || deleted.swap(true, Ordering::Relaxed)
                    {
                        return outcome;
                    }
                    // Another worker deletes the row, and the answer to this write is lost.
                    delete(&store, &shard_id).await;
                    WriteOutcome::Unknown(StoreError::new(StoreErrorKind::Unavailable, "no answer"))
                }
            }
        });
    let _member = Member::start(member("a", &stream, &store, &journal).lease_store(hooked));
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    stream.split(&parent).unwrap();
    put(&stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    assert!(deleted.load(Ordering::Relaxed));
    assert_eq!(created.load(Ordering::Relaxed), 1, "at the start, and never again");
    assert!(journal.times().values().all(|times| *times == 1), "no record is delivered twice");
}

#[tokio::test(start_paused = true)]
async fn late_row_of_a_merged_shard_ends_without_its_sibling() {
    let (stream, store, journal) = setup(2);
    let [one, other] = [0, 1].map(|index| stream.open_shards().swap_remove(index));
    let _member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    let merged = stream.merge(&one, &other).unwrap();
    put(&stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    stream.split(&merged).unwrap();
    put(&stream, 200..300);
    journal.wait_for(300, LIMIT).await;
    let table = || rows(&store).now_or_never().unwrap();
    wait_until("the rows of ended shards are deleted", || table().len() == 2).await;
    // A write that creates the row was in flight all that time.
    let late = Lease { parents: BTreeSet::new(), ..Lease::unowned(one.clone(), Position::TrimHorizon) };
    store.write(&LeaseWrite::Create(late)).await.unwrap();
    let is_open = || table().iter().any(|row| row.shard_id == one && !row.is_finished());
    wait_until("it has ended again", || !is_open()).await;
    assert!(store.get(&merged).await.unwrap().is_none(), "records of the merged shard are not read again");
}

#[tokio::test(start_paused = true)]
async fn hole_in_coverage_is_repaired_within_seconds() {
    let (stream, store, journal) = setup(4);
    // No worker holds the lease when its row is deleted, so none can restore it from memory.
    let victim = stream.open_shards().swap_remove(2);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(4).await;
    assert!(first.stop().await.is_drained());
    delete(&store, &victim).await;
    put(&stream, 0..100);
    let members: Vec<Member> =
        ["b", "c"].map(|name| Member::start(member(name, &stream, &store, &journal))).into();
    journal.wait_for(100, Duration::from_secs(3)).await;
    // While a fleet runs: the row of an unowned lease is deleted.
    for member in members {
        member.stop().await;
    }
    let survivor = Member::start(member("d", &stream, &store, &journal).max_leases(3));
    survivor.wait_until_holding(3).await;
    let free = rows(&store).await.into_iter().find(|row| row.owner.is_none()).unwrap();
    delete(&store, &free.shard_id).await;
    let deleted_at = Instant::now();
    loop {
        if store.get(&free.shard_id).await.unwrap().is_some() {
            break;
        }
        assert!(deleted_at.elapsed() < Duration::from_secs(4), "not repaired");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn non_leader_repairs_a_hole_left_by_a_dead_leader() {
    let (stream, store, journal) = setup(4);
    // The leader crashes, but its leases have not expired yet, so no other worker leads.
    let idle = Member::start(member("idle", &stream, &store, &journal).max_leases(2));
    idle.wait_until_holding(2).await;
    let second = Member::start(member("second", &stream, &store, &journal).max_leases(1));
    second.wait_until_holding(1).await;
    wait_until("one of them leads", || idle.handle.status().is_leader != second.handle.status().is_leader)
        .await;
    let free = rows(&store).await.into_iter().find(|row| row.owner.is_none()).unwrap();
    let (leader, other) = if idle.handle.status().is_leader { (idle, second) } else { (second, idle) };
    leader.crash().await;
    delete(&store, &free.shard_id).await;
    let deleted_at = Instant::now();
    loop {
        if store.get(&free.shard_id).await.unwrap().is_some() {
            break;
        }
        assert!(
            deleted_at.elapsed() < FAILOVER_TIME,
            "not repaired before the leases of the crashed leader expire"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!other.handle.status().is_leader, "the leader's leases have not expired yet");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_lists_shards_and_only_when_rows_are_missing() {
    let (stream, store, journal) = setup(6);
    let start = |name: &str| {
        let listings = Arc::new(AtomicU64::new(0));
        (Member::start(member(name, &stream, &store, &journal).source(counted(&stream, &listings))), listings)
    };
    let (first, first_listings) = start("first");
    first.wait_until_holding(6).await;
    assert_eq!(first_listings.load(Ordering::Relaxed), 1, "the table was empty");
    let others: Vec<_> = ["b", "c"].map(start).into();
    wait_until("all hold two", || others.iter().all(|(other, _)| other.held().len() == 2)).await;
    let before: Vec<u64> = others.iter().map(|(_, listings)| listings.load(Ordering::Relaxed)).collect();
    assert_eq!(before, [0, 0], "no row was missing");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let all = [&first_listings, &others[0].1, &others[1].1];
    let all: Vec<u64> = all.iter().map(|listings| listings.load(Ordering::Relaxed)).collect();
    let leaders = [&first, &others[0].0, &others[1].0].map(|member| member.handle.status().is_leader);
    assert_eq!(leaders.iter().filter(|is_leader| **is_leader).count(), 1);
    for (listings, is_leader) in all.iter().zip(leaders) {
        assert_eq!(*listings > 5, is_leader, "{all:?} {leaders:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_stream_is_refused() {
    let (stream, store, journal) = setup(2);
    let before = Member::start(member("a", &stream, &store, &journal));
    before.wait_until_holding(2).await;
    before.stop().await;
    let identities: BTreeSet<_> = rows(&store).await.into_iter().map(|row| row.stream).collect();
    assert_eq!(identities, BTreeSet::from([Some(stream.describe().await.unwrap().identity)]));

    let other = InMemoryStream::new("other", shards(2));
    let recreated = stream.recreated(shards(2));
    for (stream, expected) in [(other, "stream/s "), (recreated, "has been deleted")] {
        let error = member("a", &stream, &store, &journal).build().unwrap().run().await.unwrap_err();
        assert_eq!(error.kind(), ConsumerErrorKind::WrongStream);
        for part in [expected, "shardId-000000000000", "another name", "delete the table"] {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
    }
    let again = Member::start(member("a", &stream, &store, &journal));
    again.wait_until_holding(2).await;
}

/// The stream, with a counter of its listings.
fn counted(stream: &InMemoryStream, listings: &Arc<AtomicU64>) -> HookedStream {
    let listings = listings.clone();
    HookedStream::new(stream.clone()).before(move |call| {
        if matches!(call, StreamCall::ListShards(_)) {
            listings.fetch_add(1, Ordering::Relaxed);
        }
        async { Ok(()) }
    })
}

/// Writes rows as a KCL worker does, without our additional attributes.
async fn kcl_rows(stream: &InMemoryStream, store: &InMemoryLeaseStore, checkpoint: &Position) {
    for shard in stream.list_shards(&ShardFilter::All).await.unwrap() {
        let mut lease = Lease::unowned(shard.shard_id, checkpoint.clone());
        lease.parents = shard.parents;
        lease.hash_key_range = shard.hash_key_range;
        store.write(&LeaseWrite::Create(lease)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn kcl_rows_are_matched_by_hash_keys_and_get_the_stream() {
    let (stream, store, journal) = setup(2);
    kcl_rows(&stream, &store, &Position::TrimHorizon).await;
    // A missing row makes the worker list the shards.
    delete(&store, &ShardId::numbered(0)).await;
    let other = InMemoryStream::new("s", shards(3));
    let error = member("a", &other, &store, &journal).build().unwrap().run().await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::WrongStream, "{error}");
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(2).await;
    assert!(rows(&store).await.iter().all(|row| row.stream.is_some()));
}

#[tokio::test(start_paused = true)]
async fn row_without_hash_keys_gets_them() {
    let (stream, store, journal) = setup(2);
    for shard in stream.list_shards(&ShardFilter::All).await.unwrap() {
        store
            .write(&LeaseWrite::Create(Lease::unowned(shard.shard_id, Position::TrimHorizon)))
            .await
            .unwrap();
    }
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(2).await;
    let ranges: Vec<_> = rows(&store).await.into_iter().map(|row| row.hash_key_range).collect();
    let shards = stream.list_shards(&ShardFilter::All).await.unwrap();
    assert_eq!(ranges, shards.into_iter().map(|shard| shard.hash_key_range).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn latest_stays_the_instant_of_the_first_start() {
    let (stream, store, journal) = setup(2);
    put(&stream, 0..50);
    tokio::time::advance(Duration::from_secs(5)).await;
    let latest = |name| member(name, &stream, &store, &journal).initial_position(InitialPosition::Latest);
    // The first worker takes the leases, cannot read, and crashes before its first record.
    let first = Member::start(latest("first"));
    stream.fail_reads(SourceErrorKind::Denied, 1000);
    first.wait_until_holding(2).await;
    put(&stream, 50..100);
    tokio::time::sleep(Duration::from_secs(5)).await;
    first.crash().await;
    put(&stream, 100..150);
    stream.fail_reads(SourceErrorKind::Denied, 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let second = Member::start(latest("second"));
    put(&stream, 150..200);
    journal.wait_for(150, LIMIT).await;
    let expected: BTreeSet<String> = (50..200).map(|number| number.to_string()).collect();
    assert_eq!(
        journal.times().into_keys().collect::<BTreeSet<_>>(),
        expected,
        "no record since the first start is missed"
    );
    assert!(second.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn start_time_in_the_table_overrides_that_of_a_later_worker() {
    let (stream, store, journal) = setup(1);
    let described = stream.describe().await.unwrap().now.unwrap();
    put(&stream, 0..10);
    tokio::time::advance(Duration::from_secs(100)).await;
    put(&stream, 10..20);
    let at = |seconds| InitialPosition::AtTimestamp(described + Duration::from_secs(seconds));
    stream.fail_reads(SourceErrorKind::Unavailable, 1000);
    let first = Member::start(member("first", &stream, &store, &journal).initial_position(at(50)));
    first.wait_until_holding(1).await;
    first.crash().await;
    stream.fail_reads(SourceErrorKind::Unavailable, 0);
    let _second = Member::start(member("second", &stream, &store, &journal).initial_position(at(0)));
    journal.wait_for(10, LIMIT).await;
    assert_eq!(journal.times(), (10..20).map(|number| (number.to_string(), 1)).collect());
}

#[tokio::test(start_paused = true)]
async fn cold_start_of_eight_workers_delivers_within_three_seconds() {
    let (stream, store, journal) = setup(16);
    put(&stream, 0..1000);
    let members: Vec<Member> =
        (0..8).map(|index| Member::start(member(&format!("w{index}"), &stream, &store, &journal))).collect();
    journal.wait_for(1000, Duration::from_secs(3)).await;
    wait_until("all hold two", || members.iter().all(|member| member.held().len() == 2)).await;
    let moves: u64 = members.iter().map(|member| member.handle.status().handed_over_leases).sum();
    assert_eq!(moves, 0, "workers that start together share at once");
}

#[tokio::test(start_paused = true)]
async fn every_row_of_the_first_start_has_the_instant_and_the_stream() {
    let (stream, store, journal) = setup(3);
    let latest = member("a", &stream, &store, &journal).initial_position(InitialPosition::Latest);
    let first = Member::start(latest.max_leases(1));
    wait_until("one lease is taken", || first.held().len() == 1).await;
    let rows = rows(&store).await;
    assert_eq!(rows.len(), 3);
    let instants: BTreeSet<_> = rows.iter().map(|row| row.initial_time_millis).collect();
    assert_eq!(instants.len(), 1, "{rows:?}");
    assert!(rows.iter().all(|row| row.initial_time_millis.is_some() && row.stream.is_some()), "{rows:?}");
}
