//! Where subscriptions keep failing the shard is polled from the same place, and subscribed to again later; and whatever
//! happens on the way, each record is delivered once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod support;

use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use serde_json::{Value, json};
use shard_worker::{ReadFrom, SourceErrorKind, StreamSource as _};
use support::fan_out::{
    LONGEST_READ, MAX_READS, after, heartbeat, numbers_of, read, read_error, read_records, records, refused,
    session, settings, shard_id, start, stream, usual,
};
use support::scripted::{Answer, Part, ScriptedKinesis, event, record};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// How many sessions fail in a row before the shard is polled.
const FAILED_SESSIONS_BEFORE_POLLING: usize = 5;

/// One shard that holds the records 10, 20, ... up to a last one and then ends.
#[derive(Debug, Clone, Copy)]
struct ShardOf {
    count: u64,
}

impl ShardOf {
    fn numbers(self) -> Vec<u64> {
        (1..=self.count).map(|index| index * 10).collect()
    }

    /// The numbers from a place on, as the API gives it.
    fn from(self, kind: &str, number: &Value) -> Vec<u64> {
        let number: u64 = number.as_str().map_or(0, |number| number.parse().unwrap());
        let is_in = |candidate: &u64| match kind {
            "TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP" => true,
            "AT_SEQUENCE_NUMBER" => *candidate >= number,
            "AFTER_SEQUENCE_NUMBER" => *candidate > number,
            other => panic!("an unknown start {other}"),
        };
        self.numbers().into_iter().filter(is_in).collect()
    }

    fn subscription_start(self, body: &Value) -> Vec<u64> {
        let position = &body["StartingPosition"];
        self.from(position["Type"].as_str().unwrap(), &position["SequenceNumber"])
    }

    /// Polling, two records at a time.
    fn polled(self, operation: &str, body: &Value) -> Answer {
        let iterator = |next: Option<&u64>| next.map_or(json!("end"), |next| json!(next.to_string()));
        match operation {
            "GetShardIterator" => {
                let kind = body["ShardIteratorType"].as_str().unwrap();
                let left = self.from(kind, &body["StartingSequenceNumber"]);
                Answer::Json(200, json!({ "ShardIterator": iterator(left.first()) }))
            }
            "GetRecords" => {
                let place = &body["ShardIterator"];
                let left = if place == "end" { Vec::new() } else { self.from("AT_SEQUENCE_NUMBER", place) };
                let next = if left.is_empty() { Value::Null } else { iterator(left.get(2)) };
                let records: Vec<Value> = left.iter().take(2).copied().map(record).collect();
                Answer::Json(
                    200,
                    json!({ "Records": records, "NextShardIterator": next, "MillisBehindLatest": 0 }),
                )
            }
            _ => usual(operation),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_cannot_be_subscribed_to_is_polled_for_a_while() {
    let shard = ShardOf { count: 2000 };
    let count = Mutex::new(0);
    let server = ScriptedKinesis::new(move |operation, body| {
        let mut count = count.lock().unwrap();
        match operation {
            "SubscribeToShard" => {
                *count += 1;
                match *count {
                    1 => session([records(&[10, 20])]),
                    2..=6 => refused("LimitExceededException"),
                    7 => refused("InternalFailureException"),
                    _ => session(shard.subscription_start(body).into_iter().map(|number| records(&[number]))),
                }
            }
            _ => shard.polled(operation, body),
        }
    });
    let mut settings = settings();
    settings.retry_fan_out_after = 60 * SECOND;
    let polls_for = settings.retry_fan_out_after;
    let stream = stream(&server, settings);
    let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let begun = Instant::now();
    let mut numbers = Vec::new();
    let mut was_polled = false;
    while server.requests("SubscribeToShard").len() < 8 {
        let batch = read(&mut *source).await.unwrap();
        assert_eq!(batch.shard_end, None);
        numbers.extend(numbers_of(&batch));
        was_polled |= stream.fan_out_status().unwrap().polled_shards == 1;
        assert!(begun.elapsed() < 1200 * SECOND);
    }
    numbers.extend(read_records(&mut *source, 3).await);
    assert_eq!(numbers, shard.numbers()[..numbers.len()], "nothing lost, nothing twice");
    assert!(was_polled);
    let status = stream.fan_out_status().unwrap();
    assert_eq!((status.subscribed_shards, status.polled_shards), (1, 0));

    let first = &server.bodies("GetShardIterator")[0];
    assert_eq!(first["ShardIteratorType"], "AFTER_SEQUENCE_NUMBER");
    assert_eq!(first["StartingSequenceNumber"], "20");
    let subscribed = server.requests("SubscribeToShard");
    let retried_after = subscribed[6].at - subscribed[5].at;
    assert!(
        retried_after >= polls_for.mul_f64(0.75) && retried_after <= polls_for.mul_f64(1.25) + 10 * SECOND
    );
    // One more failure after the return sends it back at once, from where polling was.
    assert_eq!(server.requests("GetShardIterator").len(), 2);
    let (kind, number) = start(&server, 6);
    assert_eq!(kind, "AFTER_SEQUENCE_NUMBER");
    assert_eq!(server.bodies("GetShardIterator")[1]["StartingSequenceNumber"], number);
}

#[tokio::test(start_paused = true)]
async fn the_end_may_be_found_by_polling_and_is_sticky() {
    let shard = ShardOf { count: 5 };
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => Answer::Broken,
        _ => shard.polled(operation, body),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(read_records(&mut *source, 5).await, shard.numbers());
    let mut ends = 0;
    for _ in 0..10 {
        ends += usize::from(read(&mut *source).await.unwrap().shard_end.is_some());
        tokio::time::sleep(200 * SECOND).await;
    }
    assert!(ends >= 9, "{ends}");
    assert_eq!(server.requests("SubscribeToShard").len(), FAILED_SESSIONS_BEFORE_POLLING);
}

#[tokio::test(start_paused = true)]
async fn where_polling_is_not_allowed_the_caller_hears_of_it_and_it_goes_on() {
    let server = support::fan_out::server(|index| match index {
        0..=6 => refused("ResourceInUseException"),
        _ => session([records(&[10]), Part::Hang]),
    });
    let mut settings = settings();
    settings.fall_back_to_polling = false;
    let mut source = stream(&server, settings).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let error = read_error(&mut *source).await;
    assert_eq!(server.requests("SubscribeToShard").len(), FAILED_SESSIONS_BEFORE_POLLING);
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains("a consumer of its own"), "{error}");
    let (mut errors, mut numbers) = (0, Vec::new());
    for _ in 0..MAX_READS {
        match read(&mut *source).await {
            Ok(batch) => numbers.extend(numbers_of(&batch)),
            Err(_) => errors += 1,
        }
        if !numbers.is_empty() {
            break;
        }
    }
    assert_eq!(numbers, [10]);
    assert!(errors >= 2, "until then no answer looks like a quiet shard");
    assert!(server.requests("GetRecords").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_gone_is_not_polled() {
    let server = ScriptedKinesis::new(|operation, _| match operation {
        "SubscribeToShard" => refused("ResourceNotFoundException"),
        "ListShards" => Answer::Json(200, json!({ "Shards": [] })),
        _ => usual(operation),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    for _ in 0..20 {
        assert_eq!(read_error(&mut *source).await.kind(), SourceErrorKind::ShardNotFound);
    }
    assert!(server.requests("GetShardIterator").is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_that_throw_each_other_out_end_up_polling() {
    let shard = ShardOf { count: 1000 };
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => {
            let next = shard.subscription_start(body)[0];
            session([records(&[next]), Part::Wait(6 * SECOND), Part::Exception("ResourceInUseException")])
        }
        _ => shard.polled(operation, body),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let numbers = read_records(&mut *source, 50).await;
    assert_eq!(numbers, shard.numbers()[..numbers.len()]);
    assert_eq!(server.requests("SubscribeToShard").len(), FAILED_SESSIONS_BEFORE_POLLING);
}

/// Whatever a server may do to one subscription that starts at these numbers.
fn any_session(left: &[u64], rng: &mut Rng) -> Answer {
    match rng.u8(0..12) {
        0 => return refused("ResourceInUseException"),
        1 => return refused("LimitExceededException"),
        2 => return Answer::Json(500, json!({ "__type": "InternalFailure" })),
        3 => return Answer::Broken,
        _ => {}
    }
    let mut parts = Vec::new();
    let mut left = left;
    // The number that a heartbeat gives is always one behind which nothing is missing.
    let mut continuation = None;
    for _ in 0..rng.usize(0..8) {
        parts.push(Part::Wait(Duration::from_millis(rng.u64(0..40_000) * u64::from(rng.u8(0..8) == 0))));
        let (now, later) = left.split_at(left.len().min(rng.usize(0..6)));
        left = later;
        if let Some(last) = now.last() {
            continuation = Some(last + rng.u64(0..9));
        }
        match (later.is_empty(), now.is_empty(), continuation) {
            (true, _, _) if rng.bool() => {
                parts.push(Part::Event(event(now, None, &["shardId-000000000001"])));
                return session(parts);
            }
            (_, true, Some(continuation)) => parts.push(heartbeat(continuation)),
            (_, true, None) => {}
            (_, false, _) => parts.push(Part::Event(event(now, continuation, &[]))),
        }
    }
    match rng.u8(0..8) {
        0 => parts.push(Part::Hang),
        1 => parts.push(Part::Tear),
        2 => parts.push(Part::HalfAnEvent),
        3 => parts.push(Part::Exception("InternalFailureException")),
        4 => parts.push(Part::Exception("ResourceInUseException")),
        5 => parts.push(Part::Exception("KMSDisabledException")),
        _ => {}
    }
    session(parts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Through everything at once: each record once, in order, then the end; reads are cancelled at random, answer within
    /// seconds, and no two subscriptions come within five seconds.
    #[test]
    fn each_record_is_delivered_once_whatever_happens(seed: u64, count in 0..60_u64, asks: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let shard = ShardOf { count };
            let rng = Mutex::new(Rng::with_seed(seed));
            let server = ScriptedKinesis::new(move |operation, body| match operation {
                "SubscribeToShard" => any_session(&shard.subscription_start(body), &mut rng.lock().unwrap()),
                _ => shard.polled(operation, body),
            });
            let mut settings = settings();
            settings.retry_fan_out_after = 5 * SECOND;
            let mut source = stream(&server, settings).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
            let mut choices = Rng::with_seed(seed ^ 1);
            let (mut numbers, mut is_at_end) = (Vec::new(), false);
            for _ in 0..MAX_READS {
                // Some callers ask first, and some of them in vain.
                if asks && timeout(LONGEST_READ, source.ready()).await.is_err() {
                    panic!("ready within seconds");
                }
                let limit = if choices.u8(0..4) == 0 { Duration::from_millis(choices.u64(0..3000)) } else { LONGEST_READ };
                match timeout(limit, source.next_batch()).await {
                    Ok(Ok(batch)) => {
                        numbers.extend(numbers_of(&batch));
                        is_at_end = batch.shard_end.is_some();
                    }
                    Ok(Err(_)) => tokio::time::sleep(SECOND).await,
                    Err(_) => assert!(limit < LONGEST_READ, "a read must answer within seconds"),
                }
                if is_at_end {
                    break;
                }
                if choices.u8(0..8) == 0 {
                    tokio::time::sleep(Duration::from_secs(choices.u64(0..400))).await;
                }
            }
            assert!(is_at_end, "the end is not found");
            assert_eq!(numbers, shard.numbers());
            let requests = server.requests("SubscribeToShard");
            for pair in requests.windows(2) {
                assert!(pair[1].at - pair[0].at > 5 * SECOND);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn polling_goes_on_behind_a_heartbeat() {
    let shard = ShardOf { count: 3 };
    let count = Mutex::new(0);
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count == 1 { session([records(&[10]), heartbeat(15)]) } else { Answer::Broken }
        }
        _ => shard.polled(operation, body),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(read_records(&mut *source, 3).await, shard.numbers());
    assert_eq!(start(&server, 1), after(15));
    assert_eq!(server.bodies("GetShardIterator")[0]["StartingSequenceNumber"], "15");
}
