//! Answers over slow links, in virtual time: what counts is the time since the last bytes, not since the request.

use std::time::Duration;

use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use kinesis_asl::{GetRecordsFormat, KinesisStream};
use serde_json::{Value, json};
use shard_worker::{ReadFrom, RecordSource, SourceErrorKind, StreamSource as _};
use tokio::time::Instant;

use super::support::fan_out::shard_id;
use super::support::scripted::{Answer, EPOCH_SECONDS, Part, ScriptedKinesis};
use super::support::{STREAM, every_format};

/// A link of 2 Mbit/s, in bytes per second.
const BYTES_PER_SECOND: usize = 2_000_000 / 8;

/// The bytes of a frame.
const FRAME_BYTES: usize = 16 * 1024;

/// The attempt time-out of the tests, the default of the settings.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes of a JSON answer as they arrive over the link; after `carried` bytes nothing arrives any more.
fn over_the_link(body: &Value, carried: usize) -> Answer {
    let bytes = body.to_string().into_bytes();
    let millis = (FRAME_BYTES * 1000 / BYTES_PER_SECOND) as u64;
    let is_cut = bytes.len() > carried;
    let frames = bytes[..bytes.len().min(carried)].chunks(FRAME_BYTES);
    let mut parts: Vec<Part> = frames
        .flat_map(|frame| [Part::Wait(Duration::from_millis(millis)), Part::Frame(frame.to_vec())])
        .collect();
    if is_cut {
        parts.push(Part::Hang);
    }
    Answer::InParts(parts)
}

/// An answer with these records, each with this many characters of Base64.
fn answer(numbers: impl Iterator<Item = u64>, payload: usize, next: u64) -> Value {
    let data = "A".repeat(payload);
    let records: Vec<_> = numbers
        .map(|number| {
            json!({
                "SequenceNumber": number.to_string(), "PartitionKey": "key", "Data": data,
                "ApproximateArrivalTimestamp": EPOCH_SECONDS,
            })
        })
        .collect();
    json!({ "Records": records, "NextShardIterator": next.to_string(), "MillisBehindLatest": 1000 })
}

async fn open(server: &ScriptedKinesis, format: GetRecordsFormat) -> (KinesisStream, Box<dyn RecordSource>) {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
    let config = server.client().config().to_builder().timeout_config(timeouts).build();
    let stream = KinesisStream::from_client(aws_sdk_kinesis::Client::from_conf(config), STREAM);
    let stream = stream.with_get_records_format(format);
    let source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    (stream, source)
}

#[tokio::test(start_paused = true)]
async fn ten_megabytes_arrive_over_two_megabits() {
    for format in every_format() {
        let server = ScriptedKinesis::new(|operation, body| match operation {
            "GetShardIterator" => Answer::Json(200, json!({ "ShardIterator": "0" })),
            _ => {
                let first: u64 = body["ShardIterator"].as_str().unwrap().parse().unwrap();
                over_the_link(&answer(first..first + 10, 1024 * 1024 * 4 / 3 / 4 * 4, first + 10), usize::MAX)
            }
        });
        let (stream, mut source) = open(&server, format).await;
        // The first read goes through the SDK, the second one does not.
        for _ in 0..2 {
            let asked_at = Instant::now();
            let batch = source.next_batch().await.unwrap();
            assert_eq!(batch.records.len(), 10);
            assert!(asked_at.elapsed() > 4 * ATTEMPT_TIMEOUT, "the link is slow: {:?}", asked_at.elapsed());
        }
        assert_eq!(server.bodies("GetRecords").len(), 2, "no answer is fetched twice");
        let counts = stream.read_counts();
        assert_eq!((counts.reads, counts.timed_out, counts.failed), (2, 0, 0), "slow answers are whole");
    }
}

/// The link carries a third of an answer and then nothing.
#[tokio::test(start_paused = true)]
async fn cut_off_answer_makes_the_next_one_smaller() {
    const AVAILABLE: u64 = 300;
    const PAYLOAD: usize = 40 * 1024;
    const CARRIED: usize = 30 * (PAYLOAD + 200);
    for format in every_format() {
        let server = ScriptedKinesis::new(|operation, body| match operation {
            "GetShardIterator" => {
                let after =
                    body["StartingSequenceNumber"].as_str().map_or(0, |number| number.parse().unwrap());
                Answer::Json(200, json!({ "ShardIterator": (after + 1).to_string() }))
            }
            _ => {
                let first: u64 = body["ShardIterator"].as_str().unwrap().parse().unwrap();
                let limit = body["Limit"].as_u64().unwrap_or(10_000).min(100);
                let numbers = first..(first + limit).min(AVAILABLE + 1);
                let next = numbers.end;
                over_the_link(&answer(numbers, PAYLOAD, next), CARRIED)
            }
        });
        let (stream, mut source) = open(&server, format).await;
        let mut expected = 1;
        let mut failures = 0;
        while expected <= AVAILABLE {
            match source.next_batch().await {
                Ok(batch) => {
                    for record in batch.records {
                        assert_eq!(record.sequence_number.as_str(), expected.to_string());
                        expected += 1;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
                    assert!(error.to_string().contains("no byte of the answer arrived for 10s"), "{error}");
                    failures += 1;
                    assert!(failures <= 4, "the reads get smaller");
                }
            }
        }
        let limits: Vec<_> = server.bodies("GetRecords").iter().map(|body| body["Limit"].as_u64()).collect();
        assert_eq!(limits[..2], [None, Some(15)], "half of the 30 records that had begun to arrive");
        assert!(limits.contains(&Some(30)), "the limit recovers: {limits:?}");
        let counts = stream.read_counts();
        assert_eq!((counts.reads, counts.timed_out, counts.failed), (limits.len() as u64, failures, 0));
    }
}
