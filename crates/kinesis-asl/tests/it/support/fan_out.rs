//! A scripted stream with one active consumer and one shard, whose answers to subscriptions the test chooses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kinesis_asl::{FanOutSettings, KinesisStream, RetrievalMode};
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{FetchedBatch, ReadFrom, RecordSource, SourceError, StreamSource as _};

use super::STREAM;
use super::scripted::{Answer, EPOCH_SECONDS, Part, ScriptedKinesis, event};

pub(crate) const SHARD: &str = "shardId-000000000000";
pub(crate) const STREAM_ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/words";
pub(crate) const CONSUMER_ARN: &str =
    "arn:aws:kinesis:us-east-1:000000000000:stream/words/consumer/count:1700000000";

/// More reads than any test needs: a reader without progress fails the test instead of hanging it.
pub(crate) const MAX_READS: usize = 3000;

/// The longest time of a read: five seconds, plus a margin for its calls.
pub(crate) const LONGEST_READ: Duration = Duration::from_secs(6);

/// The default answers of the stream; its shard is open.
pub(crate) fn default_answer(operation: &str) -> Answer {
    match operation {
        "DescribeStreamSummary" => Answer::Json(
            200,
            json!({ "StreamDescriptionSummary": {
                "StreamName": STREAM, "StreamARN": STREAM_ARN, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
                "StreamCreationTimestamp": EPOCH_SECONDS, "EnhancedMonitoring": [], "OpenShardCount": 1,
            } }),
        ),
        "DescribeStreamConsumer" => described("ACTIVE"),
        "ListShards" => shards(false),
        _ => refused("UnknownOperationException"),
    }
}

pub(crate) fn consumer(status: &str) -> Value {
    json!({
        "ConsumerName": "count", "ConsumerARN": CONSUMER_ARN, "ConsumerStatus": status,
        "ConsumerCreationTimestamp": EPOCH_SECONDS, "StreamARN": STREAM_ARN,
    })
}

pub(crate) fn described(status: &str) -> Answer {
    Answer::Json(200, json!({ "ConsumerDescription": consumer(status) }))
}

pub(crate) fn shards(is_closed: bool) -> Answer {
    let mut range = json!({ "StartingSequenceNumber": "1" });
    if is_closed {
        range["EndingSequenceNumber"] = json!("999");
    }
    let keys = json!({ "StartingHashKey": "0", "EndingHashKey": "7" });
    let shard = json!({ "ShardId": SHARD, "HashKeyRange": keys, "SequenceNumberRange": range });
    Answer::Json(200, json!({ "Shards": [shard] }))
}

pub(crate) fn refused(code: &str) -> Answer {
    Answer::Json(400, json!({ "__type": code, "message": "scripted by the test" }))
}

/// A session that is accepted and then sends these parts.
pub(crate) fn session(parts: impl IntoIterator<Item = Part>) -> Answer {
    Answer::Events(std::iter::once(Part::Accepted).chain(parts).collect())
}

/// An event with these records; the last number is the continuation.
pub(crate) fn records(numbers: &[u64]) -> Part {
    Part::Event(event(numbers, numbers.last().copied(), &[]))
}

/// An event without records.
pub(crate) fn heartbeat(continuation: u64) -> Part {
    Part::Event(event(&[], Some(continuation), &[]))
}

/// A server that answers the nth subscription, from 0, with the result of the closure.
pub(crate) fn server(subscribe: impl Fn(usize) -> Answer + Send + Sync + 'static) -> ScriptedKinesis {
    let count = AtomicUsize::new(0);
    ScriptedKinesis::new(move |operation, _| match operation {
        "SubscribeToShard" => subscribe(count.fetch_add(1, Ordering::Relaxed)),
        _ => default_answer(operation),
    })
}

/// The scripted sessions are silent for up to 25 s.
pub(crate) fn settings() -> FanOutSettings {
    let mut settings = FanOutSettings::with_consumer_name("count");
    settings.inactivity_timeout = Duration::from_secs(30);
    settings
}

pub(crate) fn stream(server: &ScriptedKinesis, settings: FanOutSettings) -> KinesisStream {
    KinesisStream::from_client(server.client(), STREAM)
        .with_rng(fastrand::Rng::with_seed(7))
        .with_retrieval(RetrievalMode::FanOut(settings))
}

pub(crate) fn shard_id() -> ShardId {
    ShardId::new(SHARD.to_owned()).unwrap()
}

pub(crate) async fn open(server: &ScriptedKinesis, from: ReadFrom) -> Box<dyn RecordSource> {
    stream(server, settings()).open(&shard_id(), &from).await.unwrap()
}

/// One read, which must return within seconds.
pub(crate) async fn read(source: &mut dyn RecordSource) -> Result<FetchedBatch, SourceError> {
    tokio::time::timeout(LONGEST_READ, source.next_batch()).await.expect("a read returns within seconds")
}

pub(crate) fn numbers_of(batch: &FetchedBatch) -> Vec<u64> {
    batch.records.iter().map(|record| record.sequence_number.as_str().parse().unwrap()).collect()
}

/// Reads until at least this many records have arrived.
pub(crate) async fn read_records(source: &mut dyn RecordSource, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..MAX_READS {
        numbers.extend(numbers_of(&read(source).await.unwrap()));
        if numbers.len() >= count {
            return numbers;
        }
    }
    panic!("only {numbers:?} after {MAX_READS} reads");
}

/// Reads until a read fails.
pub(crate) async fn read_error(source: &mut dyn RecordSource) -> SourceError {
    for _ in 0..MAX_READS {
        if let Err(error) = read(source).await {
            return error;
        }
    }
    panic!("no error after {MAX_READS} reads");
}

/// The type and the sequence number of the starting position of the nth subscription, from 0.
pub(crate) fn starting_position(server: &ScriptedKinesis, index: usize) -> (String, String) {
    let position = &server.bodies("SubscribeToShard")[index]["StartingPosition"];
    let text = |name: &str| position[name].as_str().unwrap_or_default().to_owned();
    (text("Type"), text("SequenceNumber"))
}

pub(crate) fn after(number: u64) -> (String, String) {
    ("AFTER_SEQUENCE_NUMBER".to_owned(), number.to_string())
}
