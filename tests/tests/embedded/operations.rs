//! What an operator leaves in the rows: requests to the owners, and pauses. Live workers carry them out at a batch boundary.

use std::time::{Duration, SystemTime};

use end_to_end_tests::fleet::{FAILOVER_TIME, Member, member, parents, put, setup};
use kinesis_streaming::lease_store::{
    Lease, LeaseChange, LeaseWrite, OwnerAction, OwnerRequest, Pause, WorkerId, WriteOutcome,
};
use kinesis_streaming::prelude::*;
use test_support::{Journal, LIMIT, Switch, wait_until};

/// The number of the requests in these tests.
const REQUEST_ID: u64 = 77;

/// The longest that an owner takes to stop after a note is written: a renewal interval and one round.
const REACTION_TIME: Duration = Duration::from_secs(7);

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name.to_owned()).unwrap()
}

/// Writes to a row as an operator does: on condition that it did not change since it was read.
async fn write(store: &InMemoryLeaseStore, shard_id: &ShardId, change: impl Fn(&Lease) -> LeaseChange) {
    loop {
        let row = store.get(shard_id).await.unwrap().unwrap();
        let (shard_id, expected) = (shard_id.clone(), row.version());
        let write = LeaseWrite::Update { shard_id, expected, change: change(&row) };
        if matches!(store.write(&write).await.unwrap(), WriteOutcome::Applied { .. }) {
            return;
        }
    }
}

async fn ask(store: &InMemoryLeaseStore, shard_id: &ShardId, action: &OwnerAction) {
    write(store, shard_id, |row| {
        let owner = row.owner.clone().unwrap();
        let request = OwnerRequest { id: REQUEST_ID, owner, action: action.clone() };
        LeaseChange::AskOwner { text: Some(request.to_string()), instead_of: row.owner_request_text.clone() }
    })
    .await;
}

async fn pause(store: &InMemoryLeaseStore, shard_id: &ShardId, until: Option<SystemTime>) {
    let until_millis = until.map(|until| {
        let since_1970 = until.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::try_from(since_1970.as_millis()).unwrap()
    });
    let text = Pause { until_millis, by: "an operator".to_owned() }.to_string();
    write(store, shard_id, |row| LeaseChange::Pause {
        text: Some(text.clone()),
        instead_of: row.pause_text.clone(),
    })
    .await;
}

async fn resume(store: &InMemoryLeaseStore, shard_id: &ShardId) {
    write(store, shard_id, |row| LeaseChange::Pause { text: None, instead_of: row.pause_text.clone() }).await;
}

async fn now(stream: &InMemoryStream) -> SystemTime {
    stream.describe().await.unwrap().now.unwrap()
}

fn reset_to(position: Position) -> OwnerAction {
    OwnerAction::Reset { position, initial_time_millis: None }
}

/// How many times each of these records was delivered.
fn times_of(journal: &Journal, numbers: std::ops::Range<usize>) -> Vec<usize> {
    let times = journal.times();
    numbers.map(|number| times.get(&number.to_string()).copied().unwrap_or(0)).collect()
}

#[tokio::test(start_paused = true)]
async fn owner_takes_the_new_position_and_goes_on() {
    let (stream, store, journal) = setup(2);
    let member = Member::start(member("a", &stream, &store, &journal));
    member.wait_until_holding(2).await;
    put(&stream, 0..40);
    journal.wait_for(40, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let shard_id = stream.open_shards().swap_remove(0);
    let before = store.get(&shard_id).await.unwrap().unwrap();
    ask(&store, &shard_id, &reset_to(Position::TrimHorizon)).await;
    let of_shard: Vec<usize> = journal
        .all()
        .iter()
        .filter(|entry| entry.shard_id == shard_id)
        .map(|entry| entry.text.parse().unwrap())
        .collect();
    let is_read_again = || of_shard.iter().all(|number| journal.times().get(&number.to_string()) == Some(&2));
    wait_until("the shard is read again", is_read_again).await;
    let others = times_of(&journal, 0..40).into_iter().filter(|times| *times == 1).count();
    assert_eq!(others, 40 - of_shard.len(), "no other record is read again");
    put(&stream, 40..60);
    journal.wait_for(60, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    let row = store.get(&shard_id).await.unwrap().unwrap();
    assert_eq!((row.reset_id, &row.owner_request_text), (Some(REQUEST_ID), &None));
    assert!(row.counter > before.counter && row.checkpoint >= before.checkpoint, "{row:?}");
    assert!(member.stop().await.is_drained());
}

#[tokio::test(start_paused = true)]
async fn reset_forward_skips_exactly_what_was_asked() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let _member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    pause(&store, &shard_id, None).await;
    wait_until("the lease is free", || is_free(&store, &shard_id)).await;
    put(&stream, 10..19);
    // The last of the new records, as the position of another application may name it.
    let (_, last) = stream.put("key", "19").unwrap();
    let end = Position::after(last, 0);
    write(&store, &shard_id, |_| LeaseChange::Reset {
        position: end.clone(),
        initial_time_millis: None,
        children: std::collections::BTreeSet::new(),
        reset_id: REQUEST_ID,
        owner_request: None,
    })
    .await;
    resume(&store, &shard_id).await;
    put(&stream, 20..30);
    journal.wait_for(20, LIMIT).await;
    assert_eq!(times_of(&journal, 0..10), [1; 10]);
    assert_eq!(times_of(&journal, 10..20), [0; 10]);
    assert_eq!(times_of(&journal, 20..30), [1; 10]);
}

fn is_free(store: &InMemoryLeaseStore, shard_id: &ShardId) -> bool {
    use futures::FutureExt as _;
    store.get(shard_id).now_or_never().unwrap().unwrap().unwrap().owner.is_none()
}

#[tokio::test(start_paused = true)]
async fn pause_survives_its_owner_and_ends_at_its_time() {
    let (stream, store, journal) = setup(2);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(2).await;
    put(&stream, 0..40);
    journal.wait_for(40, LIMIT).await;
    let shard_id = stream.open_shards().swap_remove(0);
    let end = now(&stream).await + Duration::from_secs(120);
    pause(&store, &shard_id, Some(end)).await;
    wait_until("the owner has stopped", || is_free(&store, &shard_id)).await;
    let _second = Member::start(member("b", &stream, &store, &journal));
    first.crash().await;
    let read = journal.count();
    put(&stream, 40..80);
    let of_shard = |journal: &Journal| {
        journal.all().iter().skip(read).filter(|entry| entry.shard_id == shard_id).count()
    };
    while now(&stream).await < end {
        assert_eq!(of_shard(&journal), 0, "the shard is paused");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    journal.wait_for(80, LIMIT).await;
    assert!(of_shard(&journal) > 0);
    let of_paused: Vec<usize> = journal
        .all()
        .iter()
        .filter(|entry| entry.shard_id == shard_id)
        .map(|entry| entry.text.parse().unwrap())
        .collect();
    let times = journal.times();
    assert!(of_paused.iter().all(|number| times[&number.to_string()] == 1), "its batches were finished");
}

#[tokio::test(start_paused = true)]
async fn children_of_a_paused_shard_wait() {
    let (stream, store, journal) = setup(1);
    let parent = stream.open_shards().swap_remove(0);
    let _member = Member::start(member("a", &stream, &store, &journal));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    pause(&store, &parent, None).await;
    wait_until("the owner has stopped", || is_free(&store, &parent)).await;
    put(&stream, 10..20);
    stream.split(&parent).unwrap();
    put(&stream, 20..40);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(journal.times().len(), 10);
    resume(&store, &parent).await;
    journal.wait_for(40, LIMIT).await;
    journal.check_parents_first(&parents(&stream).await);
    assert!(journal.times().values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn lease_released_on_request_goes_to_another_worker() {
    let (stream, store, journal) = setup(2);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(2).await;
    let second = Member::start(member("b", &stream, &store, &journal));
    second.wait_until_holding(1).await;
    put(&stream, 0..40);
    journal.wait_for(40, LIMIT).await;
    let shard_id = first.held().pop_first().unwrap();
    ask(&store, &shard_id, &OwnerAction::Release).await;
    wait_until("the other worker holds it", || second.held().contains(&shard_id)).await;
    put(&stream, 40..80);
    journal.wait_for(80, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1), "a release repeats nothing");
}

#[tokio::test(start_paused = true)]
async fn assigned_lease_is_adopted_by_its_worker() {
    let (stream, store, journal) = setup(4);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(4).await;
    let second = Member::start(member("b", &stream, &store, &journal));
    second.wait_until_holding(2).await;
    put(&stream, 0..40);
    journal.wait_for(40, LIMIT).await;
    let shard_id = first.held().pop_first().unwrap();
    // The owner is asked to hand it over.
    write(&store, &shard_id, |row| LeaseChange::Request {
        by: worker("b"),
        instead_of: row.requested_by.clone(),
    })
    .await;
    wait_until("the worker adopts it", || second.held().contains(&shard_id)).await;
    // A lease without an owner is given to it.
    pause(&store, &shard_id, None).await;
    wait_until("the lease is free", || is_free(&store, &shard_id)).await;
    write(&store, &shard_id, |_| LeaseChange::take(worker("a"))).await;
    resume(&store, &shard_id).await;
    wait_until("the worker adopts it", || first.held().contains(&shard_id)).await;
    put(&stream, 40..80);
    journal.wait_for(80, LIMIT).await;
    assert!(journal.times().values().all(|times| *times == 1), "a move repeats nothing");
}

#[tokio::test(start_paused = true)]
async fn request_to_a_dead_owner_ends_with_it() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    put(&stream, 0..20);
    journal.wait_for(20, LIMIT).await;
    tokio::time::sleep(REACTION_TIME).await;
    first.crash().await;
    ask(&store, &shard_id, &reset_to(Position::TrimHorizon)).await;
    let second = Member::start(member("b", &stream, &store, &journal));
    second.wait_until_holding(1).await;
    put(&stream, 20..30);
    journal.wait_for(30, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    assert!(journal.times().values().all(|times| *times == 1), "the request was void");
    let row = store.get(&shard_id).await.unwrap().unwrap();
    assert_eq!((row.owner_request_text, row.reset_id), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_a_paused_shard_alone() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let first = Member::start(member("a", &stream, &store, &journal));
    first.wait_until_holding(1).await;
    put(&stream, 0..20);
    journal.wait_for(20, LIMIT).await;
    pause(&store, &shard_id, None).await;
    wait_until("the owner has stopped", || is_free(&store, &shard_id)).await;
    tokio::time::sleep(REACTION_TIME).await;
    assert!(first.stop().await.is_drained());
    assert!(store.get(&shard_id).await.unwrap().unwrap().pause_text.is_some());
}

/// A handler that hangs is the usual reason for a reset by hand. IBMStreams/streamsx.kafka#117: a batch of the old position must
/// not come after the reset.
#[tokio::test(start_paused = true)]
async fn reset_of_a_hanging_shard_cuts_it_off() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let hangs = Switch::default();
    let (is_hanging, delivered) = (hangs.clone(), journal.clone());
    let consumer = member("a", &stream, &store, &journal).no_progress_time(Duration::from_secs(3600));
    let consumer = consumer.processors(batch_handler(move |shard: ShardContext, batch| {
        delivered.record(&shard, &batch);
        let is_hanging = is_hanging.is_on();
        async move {
            if is_hanging {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }));
    let _member = Member::start(consumer);
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    hangs.turn_on();
    put(&stream, 10..20);
    journal.wait_for(11, LIMIT).await;
    ask(&store, &shard_id, &reset_to(Position::TrimHorizon)).await;
    tokio::time::sleep(REACTION_TIME).await;
    hangs.turn_off();
    wait_until("all is read again", || times_of(&journal, 0..10) == [2; 10]).await;
    wait_until("the rest follows", || times_of(&journal, 10..20).iter().all(|times| *times > 0)).await;
    let texts: Vec<String> = journal.all().into_iter().map(|entry| entry.text).collect();
    let again = texts.iter().rposition(|text| text == "0").unwrap();
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(texts[again..], expected, "reading resumes from the new position: {texts:?}");
    assert_eq!(store.get(&shard_id).await.unwrap().unwrap().reset_id, Some(REQUEST_ID));
}

/// apache/pulsar#4031: acknowledgements of what was delivered before a seek must not count after it.
#[tokio::test(start_paused = true)]
async fn acknowledgement_from_before_a_reset_is_void() {
    let (stream, store, journal) = setup(1);
    let shard_id = stream.open_shards().swap_remove(0);
    let (kept, mut batches) = tokio::sync::mpsc::channel(64);
    let delivered = journal.clone();
    let consumer = member("a", &stream, &store, &journal).processors(batch_handler(
        move |shard: ShardContext, batch: RecordBatch| {
            delivered.record(&shard, &batch);
            let is_kept = kept.try_send((batch.len(), batch.defer())).is_ok();
            async move { if is_kept { Ok(()) } else { Err("too many batches".into()) } }
        },
    ));
    let _member = Member::start(consumer.drain_time(Duration::from_secs(5)));
    put(&stream, 0..10);
    journal.wait_for(10, LIMIT).await;
    tokio::time::sleep(FAILOVER_TIME).await;
    ask(&store, &shard_id, &reset_to(Position::TrimHorizon)).await;
    wait_until("all is delivered again", || times_of(&journal, 0..10) == [2; 10]).await;
    let mut old = Vec::new();
    let mut records = 0;
    while records < 10 {
        let (count, acknowledgement) = batches.recv().await.unwrap();
        records += count;
        old.push(acknowledgement);
    }
    // The second delivery is not acknowledged yet.
    old.into_iter().for_each(Acknowledgement::acknowledge);
    tokio::time::sleep(FAILOVER_TIME * 6).await;
    let row = store.get(&shard_id).await.unwrap().unwrap();
    assert_eq!((row.reset_id, row.checkpoint), (Some(REQUEST_ID), Position::TrimHorizon));
}

/// twmb/franz-go#1272, spring-projects/spring-kafka#2525: a pause that meets a move of its shard ends with it, or never.
#[tokio::test(start_paused = true)]
async fn pause_amid_a_hand_over_lasts_until_it_is_resumed() {
    for pause_first in [true, false] {
        let (stream, store, journal) = setup(2);
        let first = Member::start(member("a", &stream, &store, &journal));
        first.wait_until_holding(2).await;
        put(&stream, 0..40);
        journal.wait_for(40, LIMIT).await;
        let shard_id = stream.open_shards().swap_remove(0);
        let request = async || {
            write(&store, &shard_id, |row| LeaseChange::Request {
                by: worker("b"),
                instead_of: row.requested_by.clone(),
            })
            .await;
        };
        if pause_first {
            pause(&store, &shard_id, None).await;
            request().await;
        } else {
            request().await;
            pause(&store, &shard_id, None).await;
        }
        let second = Member::start(member("b", &stream, &store, &journal));
        wait_until("the owner has left it", || !first.held().contains(&shard_id)).await;
        put(&stream, 40..80);
        tokio::time::sleep(FAILOVER_TIME * 30).await;
        let is_held = |member: &Member| member.held().contains(&shard_id);
        assert!(!is_held(&first) && !is_held(&second), "the shard is paused");
        let read = journal.times().len();
        assert!(read < 80, "nothing of the shard was read");
        resume(&store, &shard_id).await;
        journal.wait_for(80, LIMIT).await;
        assert!(journal.times().values().all(|times| *times == 1), "nothing is repeated");
    }
}
