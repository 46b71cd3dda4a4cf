//! Several streams in one worker: one lease table, one scan of it, and one balance over all streams.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, SEED, put, shards};
use kinesis_streaming::lease_store::{
    Consistency, Lease, LeaseWrite, MultiStreamListing, SharedLeaseStore, StreamIdentity, StreamLeases,
    WriteOutcome,
};
use kinesis_streaming::prelude::*;
use kinesis_streaming::receiver::MAX_STREAMS;
use kinesis_streaming::shard_worker::StreamDescription;
use test_support::{HookedLeaseStore, HookedStream, Journal, LIMIT, Switch, wait_until};
use tokio_util::task::AbortOnDropHandle;

/// How many times per fail-over time a worker scans the table.
const ROUNDS_PER_FAILOVER_TIME: u32 = 4;

/// A table that counts its scans.
#[derive(Debug, Clone, Default)]
pub(crate) struct CountedTable {
    table: InMemoryMultiStreamLeaseStore,
    scans: Arc<AtomicU64>,
    prepared: Arc<AtomicU64>,
    /// Conditional writes whose condition did not hold.
    pub(crate) lost: Arc<AtomicU64>,
}

impl CountedTable {
    fn scans(&self) -> u64 {
        self.scans.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl MultiStreamLeaseStore for CountedTable {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.table.list(consistency).await
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        let StreamLeases { key, store, .. } = self.table.of_stream(stream)?;
        let lost = self.lost.clone();
        let counted = HookedLeaseStore::new(SharedLeaseStore(store)).after_write(move |_, outcome| {
            lost.fetch_add(u64::from(matches!(outcome, WriteOutcome::Lost { .. })), Ordering::Relaxed);
            async { outcome }
        });
        Ok(StreamLeases::new(key, Arc::new(counted)))
    }
}

/// Streams with their shards and the deliveries of each.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) streams: Vec<InMemoryStream>,
    pub(crate) table: CountedTable,
    journals: BTreeMap<String, Journal>,
}

impl Scene {
    /// A stream for each of these numbers of shards: `stream-0`, `stream-1` and so on.
    pub(crate) fn new(shard_counts: &[usize]) -> Self {
        let name = |index: usize| format!("stream-{index}");
        let each = shard_counts.iter().enumerate();
        let streams: Vec<_> =
            each.map(|(index, count)| InMemoryStream::new(name(index), shards(*count))).collect();
        let journals = (0..streams.len()).map(|index| (name(index), Journal::default())).collect();
        Self { streams, table: CountedTable::default(), journals }
    }

    pub(crate) fn journal(&self, index: usize) -> &Journal {
        &self.journals[&format!("stream-{index}")]
    }

    pub(crate) fn worker(&self, name: &str) -> ConsumerBuilder {
        let journals = self.journals.clone();
        Consumer::builder()
            .application("embedded-test")
            .worker_id(name)
            .seed(SEED ^ name.bytes().map(u64::from).sum::<u64>())
            .processors(batch_handler(move |shard: ShardContext, batch| {
                journals[&*shard.stream].record(&shard, &batch);
                async { Ok(()) }
            }))
    }

    pub(crate) fn config(&self, index: usize) -> StreamConfig {
        StreamConfig::new(self.streams[index].clone())
    }

    pub(crate) fn configs(&self) -> Vec<StreamConfig> {
        self.streams.iter().cloned().map(StreamConfig::new).collect()
    }

    pub(crate) fn start(&self, name: &str) -> Member {
        Member::start(self.worker(name), self.configs(), &self.table)
    }

    /// A worker that reads some of the streams.
    pub(crate) fn start_with(&self, name: &str, streams: &[usize]) -> Member {
        let configs = streams.iter().map(|index| self.config(*index)).collect();
        Member::start(self.worker(name), configs, &self.table)
    }

    pub(crate) async fn rows(&self, index: usize) -> Vec<Lease> {
        let identity = self.streams[index].describe().await.unwrap().identity;
        let leases = self.table.of_stream(&identity).unwrap();
        leases.store.list(Consistency::Strong).await.unwrap().leases
    }
}

pub(crate) struct Member {
    pub(crate) handle: MultiStreamHandle,
    pub(crate) task: AbortOnDropHandle<Result<MultiStreamReport, ConsumerError>>,
}

impl Member {
    pub(crate) fn start(worker: ConsumerBuilder, streams: Vec<StreamConfig>, table: &CountedTable) -> Self {
        Self::run(worker.with_streams(streams).lease_store(table.clone()).build().unwrap())
    }

    pub(crate) fn run(consumer: MultiStreamConsumer) -> Self {
        let handle = consumer.handle();
        Self { handle, task: AbortOnDropHandle::new(tokio::spawn(consumer.run())) }
    }

    pub(crate) fn held(&self) -> usize {
        self.handle.statuses().iter().map(|stream| stream.status.shards.len()).sum()
    }

    pub(crate) fn held_of(&self, stream: &str) -> usize {
        let statuses = self.handle.statuses();
        let found = statuses.iter().find(|status| status.stream == stream);
        found.map_or(0, |found| found.status.shards.len())
    }

    pub(crate) async fn stop(self) -> MultiStreamReport {
        self.handle.stop();
        self.task.await.unwrap().unwrap()
    }
}

pub(crate) async fn wait_until_loads(members: &[Member], loads: &[usize]) {
    wait_until(&format!("the workers hold {loads:?}"), || {
        let mut held: Vec<usize> = members.iter().map(Member::held).collect();
        held.sort_unstable();
        held == loads
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_record_of_all_streams_arrives_in_order() {
    let scene = Scene::new(&[4, 1, 2]);
    let members = ["a", "b"].map(|name| scene.start(name));
    for stream in &scene.streams {
        put(stream, 0..200);
    }
    let parent = scene.streams[1].open_shards().swap_remove(0);
    scene.streams[1].split(&parent).unwrap();
    put(&scene.streams[1], 200..300);
    for (index, count) in [200, 300, 200].into_iter().enumerate() {
        scene.journal(index).wait_for(count, LIMIT).await;
    }
    wait_until_loads(&members, &[4, 4]).await;
    for member in members {
        let report = member.stop().await;
        assert!(report.is_drained(), "{report:?}");
        assert_eq!(report.streams.len(), 3);
    }
    for (index, stream) in scene.streams.iter().enumerate() {
        scene.journal(index).check_order();
        assert_eq!(scene.journal(index).times().len(), stream.record_count());
    }
}

/// With a balance over each stream alone, one worker would get all of them.
#[tokio::test(start_paused = true)]
async fn streams_of_one_shard_spread_over_the_workers() {
    let scene = Scene::new(&[1; 6]);
    let mut members: Vec<Member> = ["a", "b", "c"].into_iter().map(|name| scene.start(name)).collect();
    wait_until_loads(&members, &[2, 2, 2]).await;
    members.extend(["d", "e", "f"].into_iter().map(|name| scene.start(name)));
    wait_until_loads(&members, &[1; 6]).await;
    for stream in &scene.streams {
        put(stream, 0..20);
    }
    let left = members.split_off(2);
    for member in left {
        member.stop().await;
    }
    wait_until_loads(&members, &[3, 3]).await;
    for index in 0..6 {
        scene.journal(index).wait_for(20, LIMIT).await;
        assert!(scene.journal(index).times().values().all(|times| *times == 1), "no move repeats a record");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_that_joins_gets_its_share_of_all_streams() {
    let scene = Scene::new(&[3, 5]);
    let mut members = vec![scene.start("a")];
    wait_until_loads(&members, &[8]).await;
    members.push(scene.start("b"));
    wait_until_loads(&members, &[4, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn crashed_worker_is_replaced_in_all_streams() {
    let scene = Scene::new(&[2, 1, 1]);
    let members = ["a", "b"].map(|name| scene.start(name));
    wait_until_loads(&members, &[2, 2]).await;
    let [survivor, victim] = members;
    drop(victim);
    let crashed_at = tokio::time::Instant::now();
    wait_until_loads(std::slice::from_ref(&survivor), &[4]).await;
    assert!(crashed_at.elapsed() <= FAILOVER_TIME + Duration::from_secs(3), "{:?}", crashed_at.elapsed());
    for (index, stream) in scene.streams.iter().enumerate() {
        put(stream, 0..50);
        scene.journal(index).wait_for(50, LIMIT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_ends_alone() {
    let scene = Scene::new(&[1, 1]);
    let recreated = Switch::default();
    let is_recreated = recreated.clone();
    let hooked = HookedStream::new(scene.streams[0].clone()).after_describe(move |mut description| {
        let is_recreated = is_recreated.is_on();
        async move {
            description.identity.creation_epoch_seconds += u64::from(is_recreated);
            Ok::<StreamDescription, SourceError>(description)
        }
    });
    let streams = vec![StreamConfig::new(hooked), StreamConfig::new(scene.streams[1].clone())];
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    wait_until_loads(std::slice::from_ref(&member), &[2]).await;
    recreated.turn_on();
    wait_until("the stream has ended", || member.handle.statuses()[0].failure.is_some()).await;
    assert_eq!((member.held_of("stream-0"), member.held_of("stream-1")), (0, 1));
    put(&scene.streams[1], 0..50);
    scene.journal(1).wait_for(50, LIMIT).await;
    // Its leases count for no worker: those of the other stream are balanced without them.
    tokio::time::sleep(FAILOVER_TIME * 3).await;
    assert_eq!(member.held_of("stream-1"), 1);
    let report = member.stop().await;
    assert!(!report.is_drained());
    let kinds: Vec<_> =
        report.streams.iter().map(|end| end.result.as_ref().err().map(ConsumerError::kind)).collect();
    assert_eq!(kinds, [Some(ConsumerErrorKind::WrongStream), None]);
}

#[tokio::test(start_paused = true)]
async fn deleted_stream_leaves_the_others_alone() {
    let scene = Scene::new(&[1, 1]);
    let deleted = Switch::default();
    let is_deleted = deleted.clone();
    let hooked = HookedStream::new(scene.streams[0].clone()).before(move |_| {
        let is_deleted = is_deleted.is_on();
        async move {
            match is_deleted {
                true => Err(SourceError::new(SourceErrorKind::StreamNotFound, "deleted")),
                false => Ok(()),
            }
        }
    });
    let streams = vec![StreamConfig::new(hooked), StreamConfig::new(scene.streams[1].clone())];
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    wait_until_loads(std::slice::from_ref(&member), &[2]).await;
    deleted.turn_on();
    tokio::time::sleep(FAILOVER_TIME * 20).await;
    put(&scene.streams[1], 0..50);
    scene.journal(1).wait_for(50, LIMIT).await;
    let statuses = member.handle.statuses();
    assert!(!statuses[0].status.health().is_healthy(), "the deleted stream is reported");
    assert!(statuses[1].status.health().is_healthy(), "{}", statuses[1].status.health());
    member.stop().await;
}

#[tokio::test(start_paused = true)]
async fn missing_stream_ends_alone_and_all_missing_fail() {
    let scene = Scene::new(&[1, 1]);
    let missing = || {
        HookedStream::new(InMemoryStream::new("gone", NonZeroUsize::MIN))
            .before(|_| async { Err(SourceError::new(SourceErrorKind::StreamNotFound, "no such stream")) })
    };
    let streams = vec![StreamConfig::new(missing()), StreamConfig::new(scene.streams[1].clone())];
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    put(&scene.streams[1], 0..50);
    scene.journal(1).wait_for(50, LIMIT).await;
    let failure = member.handle.statuses()[0].failure.clone();
    assert!(failure.is_some_and(|failure| failure.contains("no such stream")));
    member.stop().await;

    let member = Member::start(scene.worker("b"), vec![StreamConfig::new(missing())], &scene.table);
    let error = member.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::StreamNotFound);
}

#[tokio::test(start_paused = true)]
async fn same_stream_twice_is_refused() {
    let scene = Scene::new(&[1, 1]);
    let streams = [scene.configs(), scene.configs()].concat();
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    wait_until("two streams have ended", || {
        member.handle.statuses().iter().filter(|stream| stream.failure.is_some()).count() == 2
    })
    .await;
    wait_until_loads(std::slice::from_ref(&member), &[2]).await;
    let report = member.stop().await;
    let twice = report.streams.iter().filter_map(|end| end.result.as_ref().err());
    assert!(twice.clone().all(|error| error.kind() == ConsumerErrorKind::InvalidSettings));
    assert_eq!(twice.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn maximum_of_leases_is_over_all_streams() {
    let scene = Scene::new(&[2, 2, 2]);
    let start = |name: &str, max_leases| {
        Member::start(scene.worker(name).max_leases(max_leases), scene.configs(), &scene.table)
    };
    let member = start("a", 4);
    wait_until_loads(std::slice::from_ref(&member), &[4]).await;
    tokio::time::sleep(FAILOVER_TIME * 6).await;
    assert_eq!(member.held(), 4);
    let unread: usize =
        member.handle.statuses().iter().map(|stream| stream.status.shards_without_worker.len()).sum();
    assert_eq!(unread, 2, "the shards that no worker reads are named in their streams");
    let members = [member, start("b", 4)];
    wait_until_loads(&members, &[3, 3]).await;
}

/// The KCL scans the table once for each stream.
#[tokio::test(start_paused = true)]
async fn one_scan_a_round_serves_all_streams() {
    let mut scans = Vec::new();
    for streams in [1, 20] {
        let scene = Scene::new(&vec![1; streams]);
        let member = scene.start("a");
        wait_until_loads(std::slice::from_ref(&member), &[streams]).await;
        assert_eq!(scene.table.prepared.load(Ordering::Relaxed), 1, "the table is prepared once");
        assert!(scene.table.scans() <= 20, "{} scans at the start of {streams} streams", scene.table.scans());
        tokio::time::sleep(FAILOVER_TIME).await;
        let before = scene.table.scans();
        tokio::time::sleep(FAILOVER_TIME * 60).await;
        scans.push(scene.table.scans() - before);
        member.stop().await;
    }
    let rounds = u64::from(ROUNDS_PER_FAILOVER_TIME) * 60;
    // Up to a tenth more often by the jitter, and one strongly consistent scan for each of the ten audits.
    for scans in &scans {
        assert!(
            (rounds * 9 / 10..=rounds * 12 / 10 + 12).contains(scans),
            "{scans} scans in {rounds} rounds"
        );
    }
    assert!(scans[1] <= scans[0] * 12 / 10, "scans of one stream and of twenty: {scans:?}");
}

#[tokio::test(start_paused = true)]
async fn each_stream_has_its_own_start_and_processors() {
    let scene = Scene::new(&[1, 1, 1]);
    for stream in &scene.streams {
        put(stream, 0..10);
    }
    // `LATEST` may include the second before the start.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let own = Journal::default();
    let of_own = own.clone();
    let [first, second, third] = [0, 1, 2].map(|index| StreamConfig::new(scene.streams[index].clone()));
    let streams = vec![
        first,
        second.initial_position(InitialPosition::Latest),
        third.processors(batch_handler(move |shard: ShardContext, batch| {
            of_own.record(&shard, &batch);
            async { Ok(()) }
        })),
    ];
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    wait_until_loads(std::slice::from_ref(&member), &[3]).await;
    for stream in &scene.streams {
        put(stream, 10..20);
    }
    scene.journal(0).wait_for(20, LIMIT).await;
    scene.journal(1).wait_for(10, LIMIT).await;
    own.wait_for(20, LIMIT).await;
    assert!(!scene.journal(1).times().contains_key("9"), "it started at the tip");
    assert_eq!(scene.journal(2).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_stream_can_be_stopped_alone() {
    let scene = Scene::new(&[1, 1]);
    let members = ["a", "b"].map(|name| scene.start(name));
    wait_until_loads(&members, &[1, 1]).await;
    let [a, b] = members;
    for member in [&a, &b] {
        assert!(member.handle.of_stream("stream-9").is_none());
        let report = member.handle.of_stream("stream-0").unwrap().stop_and_wait().await;
        assert!(report.unwrap().is_drained());
    }
    wait_until("stream-1 is read", || a.held_of("stream-1") + b.held_of("stream-1") == 1).await;
    put(&scene.streams[1], 0..20);
    scene.journal(1).wait_for(20, LIMIT).await;
    assert!(scene.rows(0).await.iter().all(|lease| lease.owner.is_none()));
    for member in [a, b] {
        assert!(member.stop().await.is_drained());
    }
}

/// awslabs/amazon-kinesis-client#1112: streams were consumed because the table had rows of them.
#[tokio::test(start_paused = true)]
async fn rows_of_other_streams_are_left_as_they_are() {
    let scene = Scene::new(&[1, 2]);
    let other = scene.streams[1].describe().await.unwrap().identity;
    let store = scene.table.of_stream(&other).unwrap().store;
    for shard_id in scene.streams[1].open_shards() {
        let row = Lease::unowned(shard_id, Position::TrimHorizon);
        store.write(&LeaseWrite::Create(row)).await.unwrap();
    }
    let before = scene.rows(1).await;
    let streams = vec![StreamConfig::new(scene.streams[0].clone())];
    let member = Member::start(scene.worker("a"), streams, &scene.table);
    wait_until_loads(std::slice::from_ref(&member), &[1]).await;
    tokio::time::sleep(FAILOVER_TIME * 6).await;
    assert_eq!(member.held(), 1);
    assert_eq!(scene.rows(1).await, before);
}

/// awslabs/amazon-kinesis-client#1467: four workers on streams of four and one shard lost more than half of their conditional
/// writes.
#[tokio::test(start_paused = true)]
async fn balanced_fleet_loses_no_conditional_write() {
    let scene = Scene::new(&[4, 1]);
    let members = ["a", "b", "c", "d"].map(|name| scene.start(name));
    wait_until_loads(&members, &[1, 1, 1, 2]).await;
    tokio::time::sleep(FAILOVER_TIME * 2).await;
    let lost = || scene.table.lost.load(Ordering::Relaxed);
    let before = lost();
    for round in 0..20 {
        for stream in &scene.streams {
            put(stream, round * 10..round * 10 + 10);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(lost() - before, 0, "lost writes in 20 minutes");
    for index in [0, 1] {
        scene.journal(index).wait_for(200, LIMIT).await;
    }
}

/// awslabs/dynamodb-streams-kinesis-adapter#75: the clean-up took the key of a row for the id of its shard.
#[tokio::test(start_paused = true)]
async fn ended_shard_of_one_stream_is_cleaned_up_alone() {
    let scene = Scene::new(&[1, 1]);
    let member = scene.start("a");
    wait_until_loads(std::slice::from_ref(&member), &[2]).await;
    let parent = scene.streams[0].open_shards().swap_remove(0);
    put(&scene.streams[0], 0..20);
    scene.streams[0].split(&parent).unwrap();
    for stream in &scene.streams {
        put(stream, 20..60);
    }
    scene.journal(0).wait_for(60, LIMIT).await;
    scene.streams[0].trim_older_than(Duration::ZERO);
    tokio::time::sleep(FAILOVER_TIME * 30).await;
    let ids = async |index: usize| -> Vec<ShardId> {
        scene.rows(index).await.into_iter().map(|lease| lease.shard_id).collect()
    };
    assert!(!ids(0).await.contains(&parent), "the row of the ended shard is deleted");
    assert_eq!(ids(1).await, [parent], "the other stream's shard of the same id is read on");
    wait_until_loads(std::slice::from_ref(&member), &[3]).await;
}

#[tokio::test(start_paused = true)]
async fn rate_limit_is_over_all_streams() {
    let scene = Scene::new(&[1, 1, 1]);
    for stream in &scene.streams {
        put(stream, 0..100);
    }
    let limit = NonZeroU64::new(20).unwrap();
    let worker = scene.worker("a").max_records_per_second(limit);
    let member = Member::start(worker, scene.configs(), &scene.table);
    wait_until_loads(std::slice::from_ref(&member), &[3]).await;
    let delivered = || (0..3).map(|index| scene.journal(index).count()).sum::<usize>();
    let before = delivered();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let in_five_seconds = delivered() - before;
    assert!((80..=110).contains(&in_five_seconds), "{in_five_seconds} records in 5 s at 20 a second");
    member.stop().await;
}

#[test]
fn faults_of_several_streams_are_listed_together() {
    let scene = Scene::new(&[1]);
    let faults = Consumer::builder().application("x").with_streams([]).faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    let early = std::time::UNIX_EPOCH - Duration::from_secs(1);
    let early = scene.configs().remove(0).initial_position(InitialPosition::AtTimestamp(early));
    let builder = scene.worker("a").source(scene.streams[0].clone());
    let faults = builder.with_streams([early]).lease_store(scene.table.clone()).faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[1].contains("stream-0"), "{faults:#?}");
    let many = std::iter::repeat_n(scene.configs().remove(0), MAX_STREAMS + 1);
    let error = scene.worker("a").with_streams(many).lease_store(scene.table).build().unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::InvalidSettings);
}
