//! Streams, consumers and dead letters by ARN: which calls name it, and which values are refused.

use kinesis_asl::{FanOutSettings, KinesisDeadLetters, KinesisStream, RetrievalMode};
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{
    DeadLetter, DeadLetterSink as _, ReadFrom, Record, ShardFilter, SourceErrorKind, StreamSource as _,
};

use crate::support::fan_out::{
    CONSUMER_ARN, STREAM_ARN, default_answer, read_records, records, session, shard_id,
};
use crate::support::scripted::{Answer, Part, ScriptedKinesis, record};
use crate::support::{CannedKinesis, LocalKinesis, STREAM, every_format, ok};

/// More calls than any test needs until the local server has created its stream.
const MAX_CALLS: usize = 1000;

/// An answer of the stream with this ARN to a polling reader; a listing has two pages.
fn answer(operation: &str, body: &Value) -> Value {
    match operation {
        "DescribeStreamSummary" => json!({ "StreamDescriptionSummary": {
            "StreamName": STREAM, "StreamARN": STREAM_ARN, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1_690_000_000, "EnhancedMonitoring": [], "OpenShardCount": 1,
        } }),
        "ListShards" => {
            let next = if body["NextToken"].is_null() { json!("page 2") } else { Value::Null };
            json!({ "Shards": [], "NextToken": next })
        }
        "GetShardIterator" => json!({ "ShardIterator": "first" }),
        "GetRecords" => {
            json!({ "Records": [record(1)], "NextShardIterator": "next", "MillisBehindLatest": 1000 })
        }
        "PutRecord" => json!({ "ShardId": "shardId-000000000000", "SequenceNumber": "1" }),
        other => panic!("unexpected call of {other}"),
    }
}

fn letter() -> DeadLetter {
    let record = Record::new(17.into(), vec![1].into());
    DeadLetter::new("order-desk", "orders", ShardId::numbered(3), record, "no order")
}

#[tokio::test]
async fn every_call_of_a_reader_has_the_arn() {
    for format in every_format() {
        let server = CannedKinesis::start(|operation, body| ok(&answer(operation, body))).await;
        let stream = KinesisStream::from_client(server.client(), STREAM_ARN).with_get_records_format(format);
        assert_eq!(stream.stream_name(), STREAM);
        assert_eq!(stream.describe().await.unwrap().identity.arn, STREAM_ARN);
        stream.list_shards(&ShardFilter::All).await.unwrap();
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        // The first read goes through the SDK, the second one directly.
        for _ in 0..2 {
            assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
        }
        KinesisDeadLetters::from_client(server.client(), STREAM_ARN).put(&letter()).await.unwrap();

        let requests = server.requests();
        let operations: Vec<&str> = requests.iter().map(|(operation, _)| operation.as_str()).collect();
        let expected = ["DescribeStreamSummary", "ListShards", "ListShards", "GetShardIterator"];
        assert_eq!(operations, [&expected[..], &["GetRecords", "GetRecords", "PutRecord"]].concat());
        for (operation, body) in requests {
            // A token stands for its stream: AWS refuses any other parameter next to it.
            let is_named = body["NextToken"].is_null();
            assert_eq!(body["StreamARN"].as_str(), is_named.then_some(STREAM_ARN), "{operation}: {body}");
        }
    }
}

#[tokio::test]
async fn a_stream_by_name_sends_no_arn() {
    for format in every_format() {
        let server = CannedKinesis::start(|operation, body| ok(&answer(operation, body))).await;
        let stream = KinesisStream::from_client(server.client(), STREAM).with_get_records_format(format);
        let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
        for _ in 0..2 {
            assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
        }
        assert!(
            server.requests().iter().all(|(_, body)| body["StreamARN"].is_null()),
            "{:?}",
            server.requests()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_are_registered_for_the_arn() {
    let server = ScriptedKinesis::new(|operation, body| match operation {
        "DescribeStreamConsumer" if body["ConsumerARN"].is_null() => {
            Answer::Json(400, json!({ "__type": "ResourceNotFoundException" }))
        }
        "RegisterStreamConsumer" => Answer::Json(400, json!({ "__type": "ResourceInUseException" })),
        "ListStreamConsumers" => Answer::Json(200, json!({ "Consumers": [] })),
        "SubscribeToShard" => session([records(&[1]), Part::Hang]),
        _ => default_answer(operation),
    });
    let stream = |settings| {
        KinesisStream::from_client(server.client(), STREAM_ARN)
            .with_retrieval(RetrievalMode::FanOut(settings))
    };
    let mut tagged = FanOutSettings::with_consumer_name("count");
    tagged.consumer_tags.insert("team".to_owned(), "orders".to_owned());
    stream(tagged).ensure_consumer().await.unwrap_err();
    for body in server.bodies("RegisterStreamConsumer") {
        assert_eq!(body["Tags"], json!({ "team": "orders" }));
    }
    stream(FanOutSettings::with_consumer_name("count")).list_consumers().await.unwrap();
    for operation in ["DescribeStreamConsumer", "RegisterStreamConsumer", "ListStreamConsumers"] {
        let bodies = server.bodies(operation);
        assert!(
            !bodies.is_empty() && bodies.iter().all(|body| body["StreamARN"] == STREAM_ARN),
            "{operation}"
        );
    }
    // The ARN is known, so it is not looked up.
    assert!(server.bodies("DescribeStreamSummary").is_empty());

    let by_arn = stream(FanOutSettings::with_consumer_arn(CONSUMER_ARN));
    let mut source = by_arn.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(read_records(&mut *source, 1).await, [1]);
    assert_eq!(server.bodies("SubscribeToShard")[0]["ConsumerARN"], CONSUMER_ARN);
}

#[tokio::test]
async fn name_and_arn_give_one_identity() {
    let server = LocalKinesis::start().await;
    server.client().create_stream().stream_name(STREAM).shard_count(1).send().await.unwrap();
    let by_name = KinesisStream::from_client(server.client(), STREAM);
    let mut described = by_name.describe().await;
    // The server creates the stream asynchronously.
    for _ in 0..MAX_CALLS {
        if described.is_ok() {
            break;
        }
        described = by_name.describe().await;
    }
    let identity = described.unwrap().identity;
    let by_arn = KinesisStream::from_client(server.client(), &identity.arn);
    assert_eq!(by_arn.describe().await.unwrap().identity, identity);
    assert_eq!(by_arn.stream_name(), by_name.stream_name());
}

#[tokio::test]
async fn a_server_that_ignores_the_arn_is_noticed() {
    let server = CannedKinesis::start(|operation, body| ok(&answer(operation, body))).await;
    let other = "arn:aws:kinesis:us-east-1:111122223333:stream/words";
    let error = KinesisStream::from_client(server.client(), other).describe().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(error.to_string().contains(other) && error.to_string().contains(STREAM_ARN), "{error}");
}

#[tokio::test]
async fn an_arn_that_is_no_stream_is_refused_unsent() {
    for (arn, reason) in [
        ("arn:aws:sqs:us-east-1:000000000000:words", "\"sqs\""),
        ("arn:aws:kinesis:us-east-1::stream/words", "account"),
        ("arn:aws:kinesis:eu-west-1:000000000000:stream/words", "eu-west-1"),
        (CONSUMER_ARN, "consumer"),
    ] {
        let server = CannedKinesis::start(|operation, body| ok(&answer(operation, body))).await;
        let stream = KinesisStream::from_client(server.client(), arn);
        let opened = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await;
        let sink = KinesisDeadLetters::from_client(server.client(), arn);
        for message in [
            stream.describe().await.unwrap_err().to_string(),
            stream.list_shards(&ShardFilter::All).await.unwrap_err().to_string(),
            opened.err().unwrap().to_string(),
            sink.put(&letter()).await.unwrap_err().to_string(),
        ] {
            assert!(message.contains(arn) && message.contains(reason), "{arn}: {message}");
        }
        assert_eq!(server.requests(), [], "{arn}");
    }
}
