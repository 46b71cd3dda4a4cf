//! Applications that acknowledge late and out of order, through crashes, stops, splits and merges.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end_tests::fleet::{Member, SEED, setup, shards};
use fastrand::Rng;
use futures::StreamExt as _;
use kinesis_streaming::prelude::*;
use test_support::{LIMIT, run_with_paused_clock, wait_until};
use tokio::time::{sleep, timeout};

/// The number of seeds in a quick run. `cargo xtask ci` runs the others too.
const QUICK_SEEDS: u64 = 4;

/// The records that the applications of a fleet have finished, in order.
#[derive(Debug, Clone, Default)]
struct Finished(Arc<Mutex<Vec<Done>>>);

#[derive(Debug, Clone)]
struct Done {
    key: String,
    text: String,
    shard_id: ShardId,
    position: Position,
    /// The lease counter, which is larger for each new holder.
    token: u64,
}

impl Finished {
    fn record(&self, shard: &ShardContext, record: &Record) {
        self.0.lock().unwrap().push(Done {
            key: record.partition_key.as_deref().unwrap_or_default().to_owned(),
            text: String::from_utf8_lossy(&record.data).into_owned(),
            shard_id: shard.shard_id.clone(),
            position: record.position(),
            token: shard.fencing_token.counter,
        });
    }

    fn times(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for done in self.0.lock().unwrap().iter() {
            *times.entry(done.text.clone()).or_default() += 1;
        }
        times
    }
}

/// A member that handles eight keys at a time, takes up to 3 seconds for a record, and sometimes fails.
fn member(
    name: String,
    seed: u64,
    stream: &InMemoryStream,
    store: &InMemoryLeaseStore,
    finished: &Finished,
) -> Member {
    let rng = Arc::new(Mutex::new(Rng::with_seed(seed)));
    let finished = finished.clone();
    let handler = concurrent_handler(
        Concurrency::PerKey(NonZeroUsize::new(8).unwrap()),
        move |shard: ShardContext, record: Record| {
            let (finished, rng) = (finished.clone(), rng);
            async move {
                let (millis, fails) = {
                    let mut rng = rng.lock().unwrap();
                    (rng.u64(1..3000), rng.u8(..) < 20)
                };
                sleep(Duration::from_millis(millis)).await;
                if fails {
                    return Err("not now".into());
                }
                finished.record(&shard, &record);
                Ok(())
            }
        },
    );
    Member::start(
        Consumer::builder()
            .application("acknowledging")
            .worker_id(name)
            .source(stream.clone())
            .lease_store(store.clone())
            .seed(seed)
            // A stop waits for at most this many records, so they fit into the drain time.
            .max_unacknowledged_records(NonZeroUsize::new(40).unwrap())
            .drain_time(Duration::from_secs(100))
            .processors(handler),
    )
}

/// Puts 300 records while shards split and merge and members start and end. Returns the finished records.
async fn storm(seed: u64, crashes: bool) -> Finished {
    let (stream, store, _) = setup(2);
    let (finished, mut rng) = (Finished::default(), Rng::with_seed(seed));
    let mut members = Vec::new();
    for round in 0..10_usize {
        for number in round * 30..(round + 1) * 30 {
            stream.put(format!("key-{}", rng.u8(..12)), number.to_string()).unwrap();
        }
        if members.len() < 3 {
            members.push(member(format!("m{round}"), seed + round as u64, &stream, &store, &finished));
        } else {
            let member: Member = members.swap_remove(rng.usize(..members.len()));
            if crashes {
                member.crash().await;
            } else {
                assert!(member.stop().await.is_drained());
            }
        }
        let open = stream.open_shards();
        match rng.u8(..4) {
            0 => drop(stream.split(rng.choice(&open).unwrap()).unwrap()),
            1 if open.len() > 1 => {
                // The stream refuses to merge shards that are not adjacent; then this step does nothing.
                let at = rng.usize(..open.len() - 1);
                drop(stream.merge(&open[at], &open[at + 1]));
            }
            _ => {}
        }
        sleep(Duration::from_millis(rng.u64(10..8000))).await;
    }
    if members.is_empty() {
        members.push(member("last".to_owned(), seed, &stream, &store, &finished));
    }
    wait_until("every record is done", || finished.times().len() == 300).await;
    for member in members {
        assert!(member.stop().await.is_drained(), "seed {seed}");
    }
    finished
}

/// Checks that the positions of a key ascend while one holder has the shard.
fn check_order(seed: u64, finished: &Finished) {
    let mut newest: BTreeMap<(ShardId, u64, String), Position> = BTreeMap::new();
    for done in finished.0.lock().unwrap().iter() {
        let key = (done.shard_id.clone(), done.token, done.key.clone());
        if let Some(before) = newest.insert(key, done.position.clone()) {
            assert!(before < done.position, "seed {seed}: {done:?} came after {before}");
        }
    }
}

/// Kills members in a storm.
fn check_kills(seed: u64) {
    let finished = run_with_paused_clock(storm(seed, true));
    check_order(seed, &finished);
}

/// Stops members in a storm.
fn check_stops(seed: u64) {
    let finished = run_with_paused_clock(storm(seed, false));
    check_order(seed, &finished);
    let repeated: Vec<_> = finished.times().into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(repeated.is_empty(), "seed {seed}: {repeated:?}");
}

#[test]
fn kills_skip_nothing_and_keep_each_key_in_order() {
    (SEED..SEED + QUICK_SEEDS).for_each(check_kills);
}

#[test]
fn planned_moves_repeat_nothing_with_out_of_order_completion() {
    (SEED..SEED + QUICK_SEEDS).for_each(check_stops);
}

#[test]
fn storms_of_more_seeds_skip_and_repeat_nothing() {
    for seed in SEED + QUICK_SEEDS..SEED + 20 {
        check_kills(seed);
        check_stops(seed);
    }
}

#[tokio::test(start_paused = true)]
async fn united_stream_accepts_acknowledgements_in_any_order() {
    let (stream, store, _) = setup(2);
    let (processors, mut deliveries) = united_stream(shards(4));
    let builder = Consumer::builder()
        .application("united")
        .source(stream.clone())
        .lease_store(store.clone())
        .seed(SEED)
        .failure_policy(FailurePolicy::skip().attempts(NonZeroU32::MIN.saturating_add(1)))
        .processors(processors.batches_per_shard(shards(8)));
    let member = Member::start(builder);
    member.wait_until_holding(2).await;
    let (mut handles, mut seen) = (Vec::new(), BTreeSet::new());
    for round in 0..5 {
        for number in round * 10..(round + 1) * 10 {
            stream.put(format!("key-{number}"), number.to_string()).unwrap();
        }
        while seen.len() < (round + 1) * 10 {
            let delivery = timeout(LIMIT, deliveries.next()).await.expect("a delivery in time").unwrap();
            for (record, acknowledgement) in delivery.into_records() {
                assert!(seen.insert(String::from_utf8_lossy(&record.data).into_owned()));
                handles.push((record, acknowledgement));
            }
        }
    }
    // Several batches of a shard are in flight. One record is dropped twice; then its policy skips it.
    handles.reverse();
    drop(handles.swap_remove(7));
    for (_, acknowledgement) in handles {
        acknowledgement.acknowledge();
    }
    let again = timeout(LIMIT, deliveries.next()).await.expect("a redelivery in time").unwrap();
    assert_eq!((again.batch().len(), again.batch().attempt()), (1, 2));
    drop(again);
    wait_until("all records are acknowledged or skipped", || {
        member.handle.status().acknowledged_records == 50
    })
    .await;
    let skipped: u64 = member.handle.status().shards.iter().map(|shard| shard.progress.skipped_records).sum();
    assert_eq!(skipped, 1);
    drop(deliveries);
    assert!(member.stop().await.is_drained());
}
