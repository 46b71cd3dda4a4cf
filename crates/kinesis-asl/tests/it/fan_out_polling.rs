//! A shard whose subscriptions keep failing is polled from the same position, and subscribed to again later. Each record is
//! returned once, whatever fails.

use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;
use serde_json::{Value, json};
use shard_worker::{ReadFrom, SourceErrorKind, StreamSource as _};
use test_support::run_with_paused_clock;
use tokio::time::{Instant, timeout};

use crate::support::fan_out::{
    LONGEST_READ, MAX_READS, after, default_answer, heartbeat, numbers_of, read, read_error, read_records,
    records, refused, session, settings, shard_id, shards, starting_position, stream,
};
use crate::support::scripted::{Answer, Part, ScriptedKinesis, event, record};

const SECOND: Duration = Duration::from_secs(1);

/// The number of failed sessions in a row after which the shard is polled.
const FAILED_SESSIONS_BEFORE_POLLING: usize = 5;

/// A closed shard with `count` records, numbered 10, 20, and so on.
#[derive(Debug, Clone, Copy)]
struct ShardOf {
    count: u64,
}

impl ShardOf {
    fn numbers(self) -> Vec<u64> {
        (1..=self.count).map(|index| index * 10).collect()
    }

    /// The numbers from a starting position of the API on.
    fn from(self, kind: &str, number: &Value) -> Vec<u64> {
        let number: u64 = number.as_str().map_or(0, |number| number.parse().unwrap());
        let is_in = |candidate: &u64| match kind {
            "TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP" => true,
            "AT_SEQUENCE_NUMBER" => *candidate >= number,
            "AFTER_SEQUENCE_NUMBER" => *candidate > number,
            other => panic!("unknown starting position {other}"),
        };
        self.numbers().into_iter().filter(is_in).collect()
    }

    fn subscription_start(self, body: &Value) -> Vec<u64> {
        let position = &body["StartingPosition"];
        self.from(position["Type"].as_str().unwrap(), &position["SequenceNumber"])
    }

    /// The answers for polling, two records at a time.
    fn polled(self, operation: &str, body: &Value) -> Answer {
        let iterator = |next: Option<&u64>| next.map_or(json!("end"), |next| json!(next.to_string()));
        match operation {
            "GetShardIterator" => {
                let kind = body["ShardIteratorType"].as_str().unwrap();
                let left = self.from(kind, &body["StartingSequenceNumber"]);
                Answer::Json(200, json!({ "ShardIterator": iterator(left.first()) }))
            }
            "GetRecords" => {
                let iterator_at = &body["ShardIterator"];
                let left = if iterator_at == "end" {
                    Vec::new()
                } else {
                    self.from("AT_SEQUENCE_NUMBER", iterator_at)
                };
                let next = if left.is_empty() { Value::Null } else { iterator(left.get(2)) };
                let records: Vec<Value> = left.iter().take(2).copied().map(record).collect();
                Answer::Json(
                    200,
                    json!({ "Records": records, "NextShardIterator": next, "MillisBehindLatest": 0 }),
                )
            }
            _ => default_answer(operation),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn shard_is_polled_while_subscriptions_fail() {
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
    let started = Instant::now();
    let mut numbers = Vec::new();
    let mut was_polled = false;
    while server.requests("SubscribeToShard").len() < 8 {
        let batch = read(&mut *source).await.unwrap();
        assert_eq!(batch.shard_end, None);
        numbers.extend(numbers_of(&batch));
        was_polled |= stream.fan_out_status().unwrap().polled_shards == 1;
        assert!(started.elapsed() < 1200 * SECOND);
    }
    numbers.extend(read_records(&mut *source, 3).await);
    assert_eq!(numbers, shard.numbers()[..numbers.len()], "each record is returned once");
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
    // One more failure after the return to fan-out leads back to polling, from the position of the first polling.
    assert_eq!(server.requests("GetShardIterator").len(), 2);
    let (kind, number) = starting_position(&server, 6);
    assert_eq!(kind, "AFTER_SEQUENCE_NUMBER");
    assert_eq!(server.bodies("GetShardIterator")[1]["StartingSequenceNumber"], number);
}

#[tokio::test(start_paused = true)]
async fn end_found_by_polling_is_repeated() {
    let shard = ShardOf { count: 5 };
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => Answer::Broken,
        "ListShards" => shards(true),
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
async fn without_fall_back_errors_are_reported_and_retried() {
    let server = crate::support::fan_out::server(|index| match index {
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
    assert!(errors >= 2, "before the first record, reads must not look like a quiet shard");
    assert!(server.requests("GetRecords").is_empty());
}

#[tokio::test(start_paused = true)]
async fn missing_shard_is_not_polled() {
    let server = ScriptedKinesis::new(|operation, _| match operation {
        "SubscribeToShard" => refused("ResourceNotFoundException"),
        "ListShards" => Answer::Json(200, json!({ "Shards": [] })),
        _ => default_answer(operation),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    for _ in 0..20 {
        assert_eq!(read_error(&mut *source).await.kind(), SourceErrorKind::ShardNotFound);
    }
    assert!(server.requests("GetShardIterator").is_empty());
}

#[tokio::test(start_paused = true)]
async fn competing_subscribers_end_up_polling() {
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

/// As seen in floci-io/floci#562: a subscription is answered with an empty JSON object, and not with a stream of events.
#[tokio::test(start_paused = true)]
async fn json_answers_to_subscriptions_end_up_in_polling() {
    let shard = ShardOf { count: 200 };
    let server = ScriptedKinesis::new(move |operation, body| match operation {
        "SubscribeToShard" => Answer::Json(200, json!({})),
        _ => shard.polled(operation, body),
    });
    let mut source = stream(&server, settings()).open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    let started_at = Instant::now();
    let mut numbers = Vec::new();
    // Enough for the back-off and the pace of polling.
    while numbers.len() < 200 && started_at.elapsed() < 600 * SECOND {
        match read(&mut *source).await {
            Ok(batch) => numbers.extend(numbers_of(&batch)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    assert_eq!(numbers, shard.numbers());
    let requests = server.requests("SubscribeToShard");
    assert!(requests.windows(2).all(|pair| pair[1].at - pair[0].at > 5 * SECOND), "{requests:?}");
    assert!(requests.len() <= FAILED_SESSIONS_BEFORE_POLLING + 2, "{} subscriptions", requests.len());
}

/// A random answer to one subscription that starts at these records.
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
    // No record up to the continuation number of a heartbeat may be missing.
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

    /// With all faults at once and random cancellation: each record is returned once and in order, then the end. Reads return
    /// within seconds, and subscriptions are more than five seconds apart.
    #[test]
    fn each_record_is_returned_once_whatever_fails(seed: u64, count in 0..60_u64, asks: bool) {
        run_with_paused_clock(async {
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
                // Half of the callers call `ready` first.
                if asks && timeout(LONGEST_READ, source.ready()).await.is_err() {
                    panic!("ready did not return within seconds");
                }
                let limit = if choices.u8(0..4) == 0 { Duration::from_millis(choices.u64(0..3000)) } else { LONGEST_READ };
                match timeout(limit, source.next_batch()).await {
                    Ok(Ok(batch)) => {
                        numbers.extend(numbers_of(&batch));
                        is_at_end = batch.shard_end.is_some();
                    }
                    Ok(Err(_)) => tokio::time::sleep(SECOND).await,
                    Err(_) => assert!(limit < LONGEST_READ, "a read must return within seconds"),
                }
                if is_at_end {
                    break;
                }
                if choices.u8(0..8) == 0 {
                    tokio::time::sleep(Duration::from_secs(choices.u64(0..400))).await;
                }
            }
            assert!(is_at_end, "the end was not found");
            assert_eq!(numbers, shard.numbers());
            let requests = server.requests("SubscribeToShard");
            for pair in requests.windows(2) {
                assert!(pair[1].at - pair[0].at > 5 * SECOND);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn polling_resumes_after_a_heartbeat() {
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
    assert_eq!(starting_position(&server, 1), after(15));
    assert_eq!(server.bodies("GetShardIterator")[0]["StartingSequenceNumber"], "15");
}
