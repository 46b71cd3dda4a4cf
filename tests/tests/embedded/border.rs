//! The table stops belonging to this stream while a fleet runs: rows and tables vanish, other streams use the same table, and
//! the stream is deleted and created again.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, SEED, member, parents, put, setup, shards};
use kinesis_streaming::lease_store::{Consistency, HashKey, Lease, LeaseWrite, StoreError, StoreErrorKind};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::{ConsumerError, ConsumerErrorKind, LeaseTableState};
use kinesis_streaming::shard_worker::{
    FetchedBatch, ReadFrom, RecordSource, Shard, SourceError, SourceErrorKind, StreamDescription,
};
use test_support::{HookedLeaseStore, Journal, LIMIT, StoreCall, Switch, run_with_paused_clock, wait_until};
use tokio::task::JoinHandle;

async fn rows(store: &InMemoryLeaseStore) -> Vec<Lease> {
    store.list(Consistency::Strong).await.unwrap().leases
}

/// Deletes a row, as an operator may.
async fn delete(store: &InMemoryLeaseStore, row: &Lease) {
    let delete = LeaseWrite::Delete { shard_id: row.shard_id.clone(), expected: row.version() };
    store.write(&delete).await.unwrap();
}

/// Deletes all rows at one moment, as if an empty table took the place of this one.
async fn delete_all(store: &InMemoryLeaseStore) {
    for row in rows(store).await {
        delete(store, &row).await;
    }
}

/// How many of the first `count` texts were delivered more than once.
fn repeats(journal: &Journal, count: usize) -> usize {
    let times = journal.times();
    times.iter().filter(|(text, times)| text.parse::<usize>().unwrap() < count && **times > 1).count()
}

/// Runs a member so that the test can check how it ends.
fn run(builder: ConsumerBuilder) -> JoinHandle<Result<StopReport, ConsumerError>> {
    tokio::spawn(builder.build().unwrap().run())
}

#[test]
fn row_deleted_under_a_holder_keeps_its_position() {
    let mut repeated = Vec::new();
    for run in 0..40u64 {
        let repeats = run_with_paused_clock(async move {
            let (stream, store, journal) = setup(4);
            let members = ["a", "b"]
                .map(|name| Member::start(member(name, &stream, &store, &journal).seed(SEED + run)));
            put(&stream, 0..200);
            journal.wait_for(200, LIMIT).await;
            wait_until("each holds two", || members.iter().all(|member| member.held().len() == 2)).await;
            tokio::time::sleep(FAILOVER_TIME + Duration::from_millis(run * 83)).await;
            let victim = rows(&store).await.swap_remove(usize::try_from(run % 4).unwrap());
            assert!(matches!(victim.checkpoint, Position::After(_)));
            delete(&store, &victim).await;
            // Every other run, a worker without any knowledge starts before the holder notices.
            let _third = (run % 2 == 0).then(|| Member::start(member("c", &stream, &store, &journal)));
            tokio::time::sleep(FAILOVER_TIME * 3).await;
            put(&stream, 200..300);
            journal.wait_for(300, LIMIT).await;
            repeats(&journal, 200)
        });
        if repeats > 0 {
            repeated.push((run, repeats));
        }
    }
    assert!(repeated.is_empty(), "runs whose checkpointed records are read again: {repeated:?}");
}

#[tokio::test(start_paused = true)]
async fn merged_shard_waits_for_a_parent_whose_row_vanished() {
    let (stream, store, journal) = setup(2);
    let [one, other] = [0, 1].map(|index| stream.open_shards().swap_remove(index));
    put(&stream, 0..200);
    let merged = stream.merge(&one, &other).unwrap();
    put(&stream, 200..250);
    for shard in stream.list_shards(&ShardFilter::All).await.unwrap() {
        if shard.shard_id == other {
            continue;
        }
        let mut row = Lease::unowned(shard.shard_id.clone(), Position::TrimHorizon);
        row.parents = shard.parents;
        row.hash_key_range = shard.hash_key_range;
        if shard.shard_id == one {
            row.checkpoint = Position::ShardEnd;
            row.children.insert(merged.clone());
        }
        store.write(&LeaseWrite::Create(row)).await.unwrap();
    }
    let read_before = stream_texts(&stream, &one).await;
    let _members = ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal)));
    journal.wait_for(250 - read_before, LIMIT).await;
    let delivered = journal.all();
    let first_of_child = delivered.iter().position(|entry| entry.shard_id == merged).unwrap();
    let last_of_parent = delivered.iter().rposition(|entry| entry.shard_id == other).unwrap();
    assert!(last_of_parent < first_of_child, "the child starts after its parent");
    assert!(delivered.iter().all(|entry| entry.shard_id != one), "the finished parent stays finished");
}

async fn stream_texts(stream: &InMemoryStream, shard_id: &ShardId) -> usize {
    let mut reader = stream.open(shard_id, &ReadFrom::TrimHorizon).await.unwrap();
    reader.next_batch().await.unwrap().records.len()
}

#[tokio::test(start_paused = true)]
async fn emptied_table_gets_the_known_positions() {
    let (stream, store, journal) = setup(4);
    let members = ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal)));
    put(&stream, 0..400);
    journal.wait_for(400, LIMIT).await;
    wait_until("each holds two", || members.iter().all(|member| member.held().len() == 2)).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    delete_all(&store).await;
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    put(&stream, 400..500);
    journal.wait_for(500, LIMIT).await;
    assert_eq!(repeats(&journal, 400), 0, "checkpointed records are read again");
    assert_eq!(rows(&store).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn fresh_worker_on_an_emptied_table_gets_known_positions() {
    let (stream, store, journal) = setup(4);
    let member_of = |name| member(name, &stream, &store, &journal);
    let members = ["a", "b"].map(|name| Member::start(member_of(name)));
    put(&stream, 0..400);
    journal.wait_for(400, LIMIT).await;
    wait_until("each holds two", || members.iter().all(|member| member.held().len() == 2)).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let before = rows(&store).await;
    delete_all(&store).await;
    // It finds an empty table, and reads all shards from the beginning, slowly.
    let per_second = NonZeroU64::new(2).unwrap();
    let fresh = Member::start(member_of("c").max_records_per_second(per_second));
    wait_until("it reads", || journal.times().values().any(|times| *times > 1)).await;
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    for (row, before) in rows(&store).await.iter().zip(&before) {
        assert_eq!(row.shard_id, before.shard_id);
        assert!(row.checkpoint >= before.checkpoint, "{} went back to {}", row.shard_id, row.checkpoint);
    }
    let repeats = repeats(&journal, 400);
    assert!(repeats < 100, "{repeats}");
    put(&stream, 400..500);
    journal.wait_for(500, LIMIT).await;
    drop(fresh);
}

#[tokio::test(start_paused = true)]
async fn table_missing_for_an_hour_costs_no_position() {
    let (stream, store, journal) = setup(4);
    let is_missing = Arc::new(AtomicBool::new(false));
    let hooked = HookedLeaseStore::new(store.clone()).before({
        let is_missing = is_missing.clone();
        move |_| {
            let is_missing = is_missing.load(Ordering::Relaxed);
            async move {
                let error = || StoreError::new(StoreErrorKind::NotFound, "there is no such table");
                if is_missing { Err(error()) } else { Ok(()) }
            }
        }
    });
    let members = ["a", "b"].map(|name| Member::start(member(name, &stream, &hooked, &journal)));
    put(&stream, 0..400);
    journal.wait_for(400, LIMIT).await;
    wait_until("each holds two", || members.iter().all(|member| member.held().len() == 2)).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    is_missing.store(true, Ordering::Relaxed);
    delete_all(&store).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for member in &members {
        let status = member.handle.status();
        assert_eq!(status.lease_table, LeaseTableState::Missing);
        assert!(!status.is_standby && status.shards.is_empty());
    }
    is_missing.store(false, Ordering::Relaxed);
    put(&stream, 400..500);
    journal.wait_for(500, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    assert_eq!(repeats(&journal, 400), 0, "checkpointed records are read again");
    wait_until("the table is complete", || {
        members.iter().all(|member| member.handle.status().lease_table == LeaseTableState::Available)
    })
    .await;
}

/// The key of the table is disabled while the fleet runs.
#[tokio::test(start_paused = true)]
async fn table_that_denies_access_is_reported_and_costs_nothing() {
    let (stream, store, journal) = setup(2);
    let is_denied = Switch::default();
    let hooked = HookedLeaseStore::new(store.clone()).before({
        let is_denied = is_denied.clone();
        move |_| {
            let denied = || StoreError::new(StoreErrorKind::Denied, "the key of the table is disabled");
            let answer = if is_denied.is_on() { Err(denied()) } else { Ok(()) };
            async move { answer }
        }
    });
    let member = Member::start(member("a", &stream, &hooked, &journal));
    member.wait_until_holding(2).await;
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    is_denied.turn_on();
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    let status = member.handle.status();
    assert_eq!((status.lease_table, status.is_standby), (LeaseTableState::Unavailable, false));
    let reason = status.lease_table_error.unwrap_or_default();
    assert!(reason.contains("the key of the table is disabled"), "{reason}");
    assert!(status.shards.is_empty(), "their leases have expired");
    is_denied.turn_off();
    put(&stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    let status = member.handle.status();
    assert_eq!((status.lease_table, status.lease_table_error), (LeaseTableState::Available, None));
    assert!(journal.times().values().all(|times| *times == 1));
}

/// The write that creates the row of a parent arrives after the parent was read and its row deleted.
#[tokio::test(start_paused = true)]
async fn row_of_a_read_parent_that_appears_late_is_ended() {
    let (stream, store, journal) = setup(1);
    let parent = stream.open_shards().swap_remove(0);
    let members = ["a", "b"].map(|name| Member::start(member(name, &stream, &store, &journal)));
    put(&stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    stream.split(&parent).unwrap();
    put(&stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    let before = rows(&store).await;
    assert!(before.iter().all(|row| row.shard_id != parent), "the leader has deleted the row");
    let mut late = Lease::unowned(parent.clone(), Position::TrimHorizon);
    late.stream.clone_from(&before[0].stream);
    store.write(&LeaseWrite::Create(late)).await.unwrap();
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    assert!(journal.times().values().all(|times| *times == 1), "the parent is read again");
    assert!(
        rows(&store).await.iter().all(|row| row.shard_id != parent),
        "the row is ended and deleted again"
    );
    put(&stream, 200..300);
    journal.wait_for(300, LIMIT).await;
    drop(members);
}

/// Another worker has created the rows of the children, and the row of their parent vanishes before the parent is read.
#[tokio::test(start_paused = true)]
async fn split_children_wait_for_a_parent_whose_row_vanished() {
    let (stream, store, journal) = setup(1);
    let parent = stream.open_shards().swap_remove(0);
    put(&stream, 0..100);
    let per_second = NonZeroU64::new(10).unwrap();
    let reader = Member::start(member("a", &stream, &store, &journal).max_records_per_second(per_second));
    reader.wait_until_holding(1).await;
    journal.wait_for(20, LIMIT).await;
    stream.split(&parent).unwrap();
    put(&stream, 100..200);
    let identity = stream.describe().await.unwrap().identity;
    for shard in stream.list_shards(&ShardFilter::All).await.unwrap() {
        if shard.shard_id != parent {
            let mut row = Lease::unowned(shard.shard_id, Position::TrimHorizon);
            row.parents = shard.parents;
            row.hash_key_range = shard.hash_key_range;
            row.stream = Some(identity.clone());
            store.write(&LeaseWrite::Create(row)).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let row = store.get(&parent).await.unwrap().unwrap();
    delete(&store, &row).await;
    journal.wait_for(200, LIMIT).await;
    journal.check_parents_first(&parents(&stream).await);
    reader.stop().await;
}

/// Renewals are throttled for longer than the fail-over time.
#[tokio::test(start_paused = true)]
async fn throttled_renewals_leave_no_shard_without_a_reader() {
    let (stream, store, journal) = setup(3);
    let is_throttled = Switch::default();
    let hooked = HookedLeaseStore::new(store.clone()).before({
        let is_throttled = is_throttled.clone();
        move |call| {
            let is_throttled = is_throttled.is_on() && matches!(call, StoreCall::Write(_));
            let throttled = || StoreError::new(StoreErrorKind::Throttled, "rate exceeded");
            async move { if is_throttled { Err(throttled()) } else { Ok(()) } }
        }
    });
    let member = Member::start(member("a", &stream, &hooked, &journal));
    member.wait_until_holding(3).await;
    put(&stream, 0..90);
    journal.wait_for(90, LIMIT).await;
    for throttled_for in [FAILOVER_TIME / 2, FAILOVER_TIME * 2] {
        tokio::time::sleep(FAILOVER_TIME).await;
        is_throttled.turn_on();
        tokio::time::sleep(throttled_for).await;
        is_throttled.turn_off();
        member.wait_until_holding(3).await;
        let count = journal.times().len();
        put(&stream, count..count + 90);
        journal.wait_for(count + 90, LIMIT).await;
    }
    assert!(journal.times().values().all(|times| *times == 1));
}

/// Two applications read one stream in one process, each with its own table and under one worker id.
#[tokio::test(start_paused = true)]
async fn two_tables_in_one_process_are_independent() {
    let stream = InMemoryStream::new("s", shards(2));
    let parts = [0, 1].map(|_| (stream.clone(), InMemoryLeaseStore::new(), Journal::default()));
    let members = [("orders", &parts[0]), ("invoices", &parts[1])];
    let members = members.map(|(application, parts)| Member::start(of(application, "same", parts)));
    put(&stream, 0..100);
    for part in &parts {
        part.2.wait_for(100, LIMIT).await;
    }
    let parent = stream.open_shards().swap_remove(0);
    stream.split(&parent).unwrap();
    put(&stream, 100..200);
    for ((_, store, journal), application) in parts.iter().zip(["orders", "invoices"]) {
        journal.wait_for(200, LIMIT).await;
        tokio::time::sleep(FAILOVER_TIME * 3).await;
        let rows = rows(store).await;
        let open: BTreeSet<ShardId> = stream.open_shards().into_iter().collect();
        assert_eq!(rows.iter().map(|row| row.shard_id.clone()).collect::<BTreeSet<_>>(), open);
        assert!(rows.iter().all(|row| row.application.as_deref() == Some(application)));
        assert!(journal.times().values().all(|times| *times == 1));
    }
    for member in members {
        assert_eq!(member.handle.status().namesake, None);
        assert!(member.stop().await.is_drained());
    }
}

#[test]
fn two_streams_never_share_a_table() {
    for run_number in 0..10u64 {
        run_with_paused_clock(async move {
            let store = InMemoryLeaseStore::new();
            let streams = ["one", "two"].map(|name| InMemoryStream::new(name, shards(4)));
            let journals = [Journal::default(), Journal::default()];
            let mut ends = Vec::new();
            for (index, stream) in streams.iter().enumerate() {
                put(stream, 0..100);
                for member_number in 0..2u64 {
                    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(
                        SEED + run_number * 10 + index as u64 * 3 + member_number,
                    )));
                    let slow = HookedLeaseStore::new(store.clone()).before(move |_| {
                        let delay = rng.lock().unwrap().u64(1..30);
                        async move {
                            tokio::time::sleep(Duration::from_millis(delay)).await;
                            Ok(())
                        }
                    });
                    let name = format!("{index}-{member_number}");
                    ends.push(run(member(&name, stream, &slow, &journals[index])));
                }
            }
            tokio::time::sleep(FAILOVER_TIME * 6).await;
            let mut identities: Vec<_> = rows(&store).await.into_iter().map(|row| row.stream).collect();
            identities.dedup();
            assert!(identities.len() <= 1, "run {run_number}: {identities:?}");
            let mut survivors = [0, 0];
            for (number, end) in ends.into_iter().enumerate() {
                if end.is_finished() {
                    let error = end.await.unwrap().unwrap_err();
                    assert_eq!(error.kind(), ConsumerErrorKind::WrongStream, "{error}");
                } else {
                    survivors[number / 2] += 1;
                    end.abort();
                }
            }
            for (index, survivors) in survivors.into_iter().enumerate() {
                let read = journals[index].times().len();
                assert_eq!(read, if survivors > 0 { 100 } else { 0 }, "run {run_number}: all or nothing");
            }
            assert!(survivors[0] == 0 || survivors[1] == 0, "run {run_number}: {survivors:?}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn forgotten_worker_leaves_the_table_of_a_new_stream() {
    let (stream, store, old_journal) = setup(4);
    let old = run(member("old", &stream, &store, &old_journal));
    put(&stream, 0..100);
    old_journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    // The operator follows the remedy of the error message, but forgets to stop one worker.
    delete_all(&store).await;
    let (new_stream, journal) = (InMemoryStream::new("new", shards(4)), Journal::default());
    put(&new_stream, 0..800);
    let _new = Member::start(member("new", &new_stream, &store, &journal));
    journal.wait_for(800, LIMIT).await;
    wait_until("the forgotten worker has ended", || old.is_finished()).await;
    let error = old.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::WrongStream, "{error}");
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    let identity = new_stream.describe().await.unwrap().identity;
    assert!(rows(&store).await.iter().all(|row| row.stream.as_ref() == Some(&identity)));
    assert_eq!(old_journal.times().len(), 100);
}

/// A stream that is replaced by another one of the same name under its readers, as AWS does it: an iterator of the old stream
/// is not found, and a sequence number of the old stream is refused.
#[derive(Debug, Clone)]
struct ReplacedStream {
    current: Arc<Mutex<(u64, Option<InMemoryStream>)>>,
    /// The in-memory streams count the same sequence numbers, so after a replacement every position is refused.
    refuses_positions: Arc<AtomicBool>,
}

impl ReplacedStream {
    fn new(stream: &InMemoryStream) -> Self {
        Self { current: Arc::new(Mutex::new((0, Some(stream.clone())))), refuses_positions: Arc::default() }
    }

    fn replace(&self, stream: Option<&InMemoryStream>) {
        let mut current = self.current.lock().unwrap();
        *current = (current.0 + 1, stream.cloned());
        self.refuses_positions.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> Result<(u64, InMemoryStream), SourceError> {
        let (life, stream) = self.current.lock().unwrap().clone();
        stream.map(|stream| (life, stream)).ok_or_else(not_found)
    }
}

fn not_found() -> SourceError {
    SourceError::new(SourceErrorKind::StreamNotFound, "there is no such stream")
}

#[async_trait]
impl StreamSource for ReplacedStream {
    fn stream_name(&self) -> &str {
        "s"
    }

    async fn describe(&self) -> Result<StreamDescription, SourceError> {
        self.now()?.1.describe().await
    }

    async fn list_shards(&self, filter: &ShardFilter) -> Result<Vec<Shard>, SourceError> {
        self.now()?.1.list_shards(filter).await
    }

    async fn open(&self, shard_id: &ShardId, from: &ReadFrom) -> Result<Box<dyn RecordSource>, SourceError> {
        let (life, stream) = self.now()?;
        if matches!(from, ReadFrom::At(_)) && self.refuses_positions.load(Ordering::Relaxed) {
            return Err(SourceError::new(SourceErrorKind::Invalid, "the position is not of this stream"));
        }
        let reader = stream.open(shard_id, from).await?;
        Ok(Box::new(ReplacedReader { stream: self.clone(), life, reader }))
    }
}

#[derive(Debug)]
struct ReplacedReader {
    stream: ReplacedStream,
    life: u64,
    reader: Box<dyn RecordSource>,
}

#[async_trait]
impl RecordSource for ReplacedReader {
    async fn next_batch(&mut self) -> Result<FetchedBatch, SourceError> {
        let batch = self.reader.next_batch().await?;
        if self.stream.now()?.0 == self.life { Ok(batch) } else { Err(not_found()) }
    }
}

/// One shard has records and a checkpoint, the other has neither, so the fleet would read it from its beginning.
#[tokio::test(start_paused = true)]
async fn recreated_stream_stops_its_old_workers() {
    for gap in [Duration::ZERO, Duration::from_secs(30)] {
        let (stream, store, journal) = setup(2);
        let source = ReplacedStream::new(&stream);
        let start = |name: &str| run(member(name, &stream, &store, &journal).source(source.clone()));
        let workers = [start("a"), start("b")];
        for number in 0..100 {
            // Put all records into the first shard.
            stream.put_with_hash_key(HashKey(0), Some("k"), number.to_string()).unwrap();
        }
        journal.wait_for(100, LIMIT).await;
        tokio::time::sleep(FAILOVER_TIME * 2).await;
        let recreated = stream.recreated(shards(2));
        put(&recreated, 1000..1100);
        let checkpoints = |rows: Vec<Lease>| -> Vec<(ShardId, Position)> {
            rows.into_iter().map(|row| (row.shard_id, row.checkpoint)).collect()
        };
        let before = checkpoints(rows(&store).await);
        if !gap.is_zero() {
            source.replace(None);
            tokio::time::sleep(gap).await;
        }
        source.replace(Some(&recreated));
        wait_until("both have ended", || workers.iter().all(JoinHandle::is_finished)).await;
        for worker in workers {
            let error = worker.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ConsumerErrorKind::WrongStream, "{error}");
            assert!(error.to_string().contains("has been deleted"), "{error}");
        }
        assert_eq!(checkpoints(rows(&store).await), before, "no position is written");
        assert_eq!(journal.times().len(), 100, "no record of the new stream is delivered");
    }
}

/// A worker of another application on the same stream and table.
fn of(
    application: &str,
    name: &str,
    parts: &(InMemoryStream, InMemoryLeaseStore, Journal),
) -> ConsumerBuilder {
    let (stream, store, journal) = parts;
    member(name, stream, store, journal).application(application)
}

#[tokio::test(start_paused = true)]
async fn a_table_of_another_application_is_refused() {
    let parts = setup(4);
    let (stream, store, journal) = &parts;
    let first = Member::start(of("orders", "a", &parts));
    first.wait_until_holding(4).await;
    put(stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    let second = of("invoices", "b", &parts).build().unwrap().run();
    let error = tokio::time::timeout(LIMIT, second).await.expect("the start is refused").unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::WrongApplication);
    for part in ["\"orders\"", "\"invoices\"", "a lease table of its own", "former_application"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    // The application was renamed: workers under both names share the shards.
    let renamed = Member::start(of("invoices", "c", &parts).former_application("orders"));
    renamed.wait_until_holding(2).await;
    put(stream, 100..200);
    journal.wait_for(200, LIMIT).await;
    assert!(rows(store).await.iter().all(|row| row.application.as_deref() == Some("orders")));
    assert!(journal.times().values().all(|times| *times == 1));
    first.stop().await;
    renamed.wait_until_holding(4).await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_name_no_application_are_accepted() {
    let parts = setup(4);
    let (stream, store, journal) = &parts;
    for shard in stream.list_shards(&ShardFilter::All).await.unwrap() {
        let mut row = Lease::unowned(shard.shard_id, Position::TrimHorizon);
        row.hash_key_range = shard.hash_key_range;
        store.write(&LeaseWrite::Create(row)).await.unwrap();
    }
    let running = run(of("orders", "a", &parts));
    put(stream, 0..100);
    journal.wait_for(100, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let row = rows(store).await.swap_remove(0);
    assert_eq!(row.application.as_deref(), Some("orders"));
    // Another application that does not check takes a row.
    delete(store, &row).await;
    let foreign = Lease { application: Some("invoices".to_owned()), ..row };
    store.write(&LeaseWrite::Create(foreign)).await.unwrap();
    wait_until("the worker has ended", || running.is_finished()).await;
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::WrongApplication, "{error}");
}

#[test]
fn two_applications_never_share_a_table() {
    for run_number in 0..10u64 {
        run_with_paused_clock(async move {
            let parts = setup(4);
            put(&parts.0, 0..100);
            let mut ends = Vec::new();
            for member_number in 0..4u64 {
                let rng = fastrand::Rng::with_seed(SEED + run_number * 10 + member_number);
                let rng = Arc::new(Mutex::new(rng));
                let slow = HookedLeaseStore::new(parts.1.clone()).before(move |_| {
                    let delay = rng.lock().unwrap().u64(1..30);
                    async move {
                        tokio::time::sleep(Duration::from_millis(delay)).await;
                        Ok(())
                    }
                });
                let application = ["orders", "invoices"][usize::try_from(member_number % 2).unwrap()];
                let builder = member(&format!("m{member_number}"), &parts.0, &slow, &parts.2);
                ends.push(run(builder.application(application)));
            }
            tokio::time::sleep(FAILOVER_TIME * 6).await;
            let names: BTreeSet<_> = rows(&parts.1).await.into_iter().map(|row| row.application).collect();
            assert!(names.len() <= 1, "run {run_number}: {names:?}");
            let mut survivors = [0, 0];
            for (number, end) in ends.into_iter().enumerate() {
                if end.is_finished() {
                    let error = end.await.unwrap().unwrap_err();
                    assert_eq!(error.kind(), ConsumerErrorKind::WrongApplication, "{error}");
                } else {
                    survivors[number % 2] += 1;
                    end.abort();
                }
            }
            assert!(survivors[0] == 0 || survivors[1] == 0, "run {run_number}: {survivors:?}");
            let read = parts.2.times().len();
            assert_eq!(read, if survivors == [0, 0] { 0 } else { 100 }, "run {run_number}: all or nothing");
        });
    }
}
