//! Changes of the list of streams raced with crashes, reshards, operators, stops, outdated listings and re-created streams.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{FAILOVER_TIME, put, shards};
use fastrand::Rng;
use kinesis_streaming::lease_store::{
    Consistency, FaultRates, FaultyLeaseStore, Lease, LeaseChange, LeaseWrite, MultiStreamListing,
    OwnerAction, OwnerRequest, SharedLeaseStore, StreamIdentity, StreamLeases,
};
use kinesis_streaming::prelude::*;
use test_support::{HookedLeaseStore, HookedStream, LIMIT, Switch, run_with_paused_clock, wait_until};
use tokio::time::sleep;

use crate::streams::{CountedTable, Member, Scene};

const MINUTE: Duration = Duration::from_secs(60);

/// The runs of the race with faults, and those that take long.
const SEEDS: std::ops::Range<u64> = 0..1;
const MORE_SEEDS: std::ops::Range<u64> = 1..12;

/// The changes and faults of each run.
const STEPS: usize = 60;

/// A table whose eventually consistent listings stand still while the switch is on, and which counts deletions.
#[derive(Debug, Clone)]
struct OutdatedTable {
    table: CountedTable,
    is_outdated: Switch,
    listed: Arc<Mutex<MultiStreamListing>>,
    deletions: Arc<AtomicUsize>,
}

impl OutdatedTable {
    fn new(table: &CountedTable) -> Self {
        let table = table.clone();
        Self { table, is_outdated: Switch::default(), listed: Arc::default(), deletions: Arc::default() }
    }
}

#[async_trait]
impl MultiStreamLeaseStore for OutdatedTable {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        let listing = self.table.list(consistency).await?;
        let mut listed = self.listed.lock().unwrap();
        if consistency == Consistency::Strong || !self.is_outdated.is_on() {
            listed.clone_from(&listing);
            return Ok(listing);
        }
        Ok(listed.clone())
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        let StreamLeases { key, store, .. } = self.table.of_stream(stream)?;
        let deletions = self.deletions.clone();
        let counted = HookedLeaseStore::new(SharedLeaseStore(store)).before_write(move |write| {
            let is_deletion = matches!(write, LeaseWrite::Delete { .. });
            deletions.fetch_add(usize::from(is_deletion), Ordering::Relaxed);
        });
        Ok(StreamLeases::new(key, Arc::new(counted)))
    }
}

/// A table of which a twentieth of the calls fails in each way, as one worker sees it.
#[derive(Debug, Clone)]
struct FaultyTable {
    table: CountedTable,
    rng: Arc<Mutex<Rng>>,
}

#[async_trait]
impl MultiStreamLeaseStore for FaultyTable {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.table.prepare().await
    }

    async fn list(&self, consistency: Consistency) -> Result<MultiStreamListing, StoreError> {
        if self.rng.lock().unwrap().u32(..20) == 0 {
            return Err(StoreError::new(StoreErrorKind::Throttled, "throttled"));
        }
        self.table.list(consistency).await
    }

    fn of_stream(&self, stream: &StreamIdentity) -> Result<StreamLeases, StoreError> {
        let StreamLeases { key, store, .. } = self.table.of_stream(stream)?;
        let seed = self.rng.lock().unwrap().u64(..);
        let faulty = FaultyLeaseStore::new(SharedLeaseStore(store), FaultRates::each(0.05), seed);
        Ok(StreamLeases::new(key, Arc::new(faulty)))
    }
}

/// The leases of one stream, as an operator writes them.
async fn leases_of(scene: &Scene, index: usize) -> Arc<dyn LeaseStore> {
    let identity = scene.streams[index].describe().await.unwrap().identity;
    scene.table.of_stream(&identity).unwrap().store
}

/// Changes a row if it still is as it was read.
async fn change(scene: &Scene, index: usize, row: &Lease, change: LeaseChange) {
    let (shard_id, expected) = (row.shard_id.clone(), row.version());
    let write = LeaseWrite::Update { shard_id, expected, change };
    leases_of(scene, index).await.write(&write).await.unwrap();
}

async fn pause(scene: &Scene, index: usize, row: &Lease, text: Option<String>) {
    change(scene, index, row, LeaseChange::Pause { text, instead_of: row.pause_text.clone() }).await;
}

/// One worker of a run, and the streams that it is to have.
struct Racer {
    member: Member,
    number: usize,
}

impl Racer {
    fn start(scene: &Scene, number: usize, lives: usize) -> Self {
        // A new process has a new name.
        let name = format!("w{number}-{lives}");
        let rng = Arc::new(Mutex::new(Rng::with_seed(number as u64 * 1_000 + lives as u64)));
        let table = FaultyTable { table: scene.table.clone(), rng };
        let consumer = scene.worker(&name).with_streams(scene.configs()).lease_store(table).build().unwrap();
        Self { member: Member::run(consumer), number }
    }

    /// Adds what is missing.
    fn add_all(&self, scene: &Scene) {
        for index in 0..scene.streams.len() {
            // It may have the stream.
            drop(self.member.handle.add_stream(scene.config(index)));
        }
    }
}

/// Whatever changes the list, and whatever fails beside it: each record is delivered, though some come again.
#[tokio::test]
async fn list_changes_raced_with_faults_skip_no_record() {
    for seed in SEEDS {
        tokio::task::spawn_blocking(move || run_with_paused_clock(race(seed))).await.unwrap();
    }
}

#[tokio::test]
async fn list_changes_of_more_seeds_skip_no_record() {
    for seed in MORE_SEEDS {
        tokio::task::spawn_blocking(move || run_with_paused_clock(race(seed))).await.unwrap();
    }
}

async fn race(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let scene = Scene::new(&[2, 1, 2]);
    let mut racers: Vec<Racer> = (0..3).map(|number| Racer::start(&scene, number, 0)).collect();
    let mut written = [0; 3];
    for step in 0..STEPS {
        let index = rng.usize(..scene.streams.len());
        let racer = rng.usize(..racers.len());
        let name = format!("stream-{index}");
        let handle = racers[racer].member.handle.clone();
        let rows = scene.rows(index).await;
        let row = (!rows.is_empty()).then(|| rows[rng.usize(..rows.len())].clone());
        match rng.u32(..12) {
            0 | 1 => drop(handle.remove_stream(&name, FormerLeases::Keep)),
            2 => {
                // At once, as by a program that reads its configuration again.
                drop(handle.remove_stream(&name, FormerLeases::DeleteAfter(MINUTE * 60)));
                drop(handle.add_stream(scene.config(index)));
            }
            3 | 4 => drop(handle.add_stream(scene.config(index))),
            5 => {
                let number = racers[racer].number;
                racers[racer] = Racer::start(&scene, number, step + 1);
            }
            6 => {
                let open = scene.streams[index].open_shards();
                if open.len() < 5 {
                    drop(scene.streams[index].split(&open[rng.usize(..open.len())]));
                }
            }
            7 => {
                let open = scene.streams[index].open_shards();
                drop(scene.streams[index].merge(&open[0], &open[open.len() - 1]));
            }
            8 => {
                if let Some(row) = row.filter(|row| !row.is_finished()) {
                    pause(&scene, index, &row, Some("by an operator".to_owned())).await;
                }
            }
            9 => {
                if let Some(row) = row {
                    pause(&scene, index, &row, None).await;
                }
            }
            10 => {
                let owned = row.filter(|row| !row.is_finished());
                if let Some((owner, row)) = owned.and_then(|row| Some((row.owner.clone()?, row))) {
                    let position = Position::TrimHorizon;
                    let action = match rng.bool() {
                        true => OwnerAction::Reset { position, initial_time_millis: None },
                        false => OwnerAction::Release,
                    };
                    let text = OwnerRequest { id: step as u64 + 1, owner, action }.to_string();
                    let instead_of = row.owner_request_text.clone();
                    change(&scene, index, &row, LeaseChange::AskOwner { text: Some(text), instead_of }).await;
                }
            }
            _ => {}
        }
        put(&scene.streams[index], written[index]..written[index] + 5);
        written[index] += 5;
        sleep(Duration::from_millis(rng.u64(..15_000))).await;
    }
    for racer in &racers {
        racer.add_all(&scene);
    }
    // Until the streams that are being removed have ended.
    sleep(MINUTE).await;
    for racer in &racers {
        racer.add_all(&scene);
    }
    for (index, count) in written.into_iter().enumerate() {
        for row in scene.rows(index).await {
            pause(&scene, index, &row, None).await;
        }
        sleep(FAILOVER_TIME).await;
        for row in scene.rows(index).await {
            pause(&scene, index, &row, None).await;
        }
        scene.journal(index).wait_for(count, LIMIT * 5).await;
    }
    for racer in racers {
        racer.member.stop().await;
    }
}

/// The row of an ended shard changes no more, and an outdated listing shows no renewal of the others.
#[tokio::test(start_paused = true)]
async fn outdated_listing_deletes_no_former_lease() {
    let scene = Scene::new(&[1, 1]);
    let table = OutdatedTable::new(&scene.table);
    let consumer =
        scene.worker("a").with_streams(scene.configs()).lease_store(table.clone()).build().unwrap();
    let a = Member::run(consumer);
    let b = scene.start("b");
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    // The children have no record, so the row of the ended parent stays.
    let parent = scene.streams[0].open_shards().swap_remove(0);
    scene.streams[0].split(&parent).unwrap();
    a.handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE)).unwrap().stopped().await.unwrap();
    wait_until("b reads the children", || b.held_of("stream-0") == 2).await;
    let count = scene.rows(0).await.len();
    assert_eq!(count, 3);
    let before = table.deletions.load(Ordering::Relaxed);
    table.is_outdated.turn_on();
    sleep(MINUTE * 10).await;
    assert_eq!(table.deletions.load(Ordering::Relaxed), before, "no deletion was tried");
    assert_eq!(scene.rows(0).await.len(), count);
    assert!(b.stop().await.is_drained());
}

/// No worker writes the row of a paused shard, and the stream is to be read on after the pause.
#[tokio::test(start_paused = true)]
async fn paused_stream_keeps_its_former_leases() {
    let scene = Scene::new(&[1, 1]);
    let [a, b] = ["a", "b"].map(|name| scene.start(name));
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    sleep(FAILOVER_TIME).await;
    let row = scene.rows(0).await.remove(0);
    pause(&scene, 0, &row, Some("by an operator".to_owned())).await;
    wait_until("the shard is left", || a.held_of("stream-0") + b.held_of("stream-0") == 0).await;
    let removed = a.handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE * 2));
    removed.unwrap().stopped().await.unwrap();
    sleep(MINUTE * 10).await;
    // A deployment: no worker knows the row while it is gone.
    assert!(b.stop().await.is_drained());
    sleep(MINUTE * 10).await;
    let rows = scene.rows(0).await;
    assert_eq!(rows.len(), 1, "the paused row stays");
    let b = scene.start("b2");
    pause(&scene, 0, &rows[0], None).await;
    put(&scene.streams[0], 20..40);
    scene.journal(0).wait_for(40, LIMIT).await;
    assert!(scene.journal(0).times().values().all(|times| *times == 1), "it continues at its checkpoint");
    // The wait begins when the last worker has released it.
    b.handle.remove_stream("stream-0", FormerLeases::Keep).unwrap().stopped().await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(scene.rows(0).await.len(), 1);
    sleep(MINUTE * 5).await;
    assert_eq!(scene.rows(0).await, []);
}

/// The records of a stream that was being removed are not forgotten by the report of the stop.
#[tokio::test(start_paused = true)]
async fn stop_reports_a_stream_that_is_being_removed() {
    let scene = Scene::new(&[1, 1]);
    let hanging = scene.config(0).processors(batch_handler(async |_, _| pending().await));
    let member = Member::start(scene.worker("a"), vec![hanging, scene.config(1)], &scene.table);
    put(&scene.streams[0], 0..5);
    wait_until("both are read", || member.held() == 2).await;
    sleep(FAILOVER_TIME).await;
    member.handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE)).unwrap();
    let handle = member.handle.clone();
    let report = member.stop().await;
    let names: Vec<&str> = report.streams.iter().map(|stream| stream.stream.as_str()).collect();
    assert_eq!(names, ["stream-0", "stream-1"]);
    assert!(!report.is_drained(), "its batch was cut off: {report:?}");
    assert_eq!(handle.stopped().await.len(), 2);
}

/// A stream that was deleted and created again has leases of its own.
#[tokio::test(start_paused = true)]
async fn former_leases_of_a_recreated_stream_go() {
    let scene = Scene::new(&[1, 1]);
    let member = scene.start("a");
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    let again = InMemoryStream::new("stream-0", shards(1));
    let recreated = HookedStream::new(again.clone()).after_describe(|mut description| async move {
        description.identity.creation_epoch_seconds += 1_000;
        Ok::<_, SourceError>(description)
    });
    let identity = recreated.describe().await.unwrap().identity;
    member.handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE)).unwrap();
    member.handle.add_stream(StreamConfig::new(recreated)).unwrap();
    put(&again, 20..40);
    scene.journal(0).wait_for(40, LIMIT).await;
    sleep(MINUTE * 5).await;
    assert_eq!(scene.rows(0).await, [], "the leases of the deleted stream");
    let new = scene.table.of_stream(&identity).unwrap().store;
    assert_eq!(new.list(Consistency::Strong).await.unwrap().leases.len(), 1);
    assert!(member.stop().await.is_drained());
    assert!(scene.journal(0).times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn removed_stream_is_added_at_once_under_another_name() {
    let scene = Scene::new(&[2, 1]);
    let member = scene.start("a");
    put(&scene.streams[0], 0..20);
    scene.journal(0).wait_for(20, LIMIT).await;
    member.handle.remove_stream("stream-0", FormerLeases::DeleteAfter(MINUTE)).unwrap();
    member.handle.add_stream(scene.config(0).named("renamed")).unwrap();
    put(&scene.streams[0], 20..40);
    scene.journal(0).wait_for(40, LIMIT).await;
    sleep(MINUTE * 5).await;
    assert_eq!((member.held_of("renamed"), scene.rows(0).await.len()), (2, 2));
    assert!(scene.journal(0).times().values().all(|times| *times == 1));
    assert!(member.stop().await.is_drained());
}
