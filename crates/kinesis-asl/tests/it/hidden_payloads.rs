//! No error and no log event shows a payload, and every error of an answer names the ids of its request.

use std::error::Error;

use kinesis_asl::{FanOutSettings, KinesisDeadLetters, KinesisStream, RetrievalMode};
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{
    DeadLetter, DeadLetterSink as _, ReadFrom, Record, ShardFilter, SourceError, StreamSource as _,
};
use test_support::log_capture::LogCapture;
use tracing::Level;

use crate::support::fan_out::{default_answer, read_error, session, shard_id};
use crate::support::scripted::{Answer, Part, REQUEST_IDS, ScriptedKinesis};
use crate::support::{STREAM, every_format};

/// The payload. It is no Base64, so an error of the decoder is about it.
const MARKER: &str = "PAYLOAD-MARKER";

/// Answers with the payload, none of which is a valid answer to any call.
fn invalid_answers() -> [Answer; 6] {
    let record = json!({ "Data": MARKER, "SequenceNumber": MARKER, "PartitionKey": MARKER });
    [
        Answer::Json(400, json!({ "__type": "ValidationException", "message": "no", "Data": MARKER })),
        Answer::Json(403, json!({ "Data": MARKER })),
        Answer::Json(500, json!({ "Records": [record] })),
        Answer::Json(400, json!([MARKER])),
        Answer::Json(200, json!(MARKER)),
        Answer::Bytes(format!("<html>{MARKER}</html>").into_bytes()),
    ]
}

fn assert_hidden(error: &(dyn Error + 'static), case: &str) {
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let shown = format!("{cause} {cause:?}");
        assert!(!shown.contains(MARKER), "{case}: {shown}");
    }
}

fn assert_names_ids(error: &SourceError, case: &str) {
    let (request_id, extended) = REQUEST_IDS;
    let shown = error.to_string();
    assert!(
        shown.contains(&format!("request id {request_id}")) && shown.contains(extended),
        "{case}: {shown}"
    );
    let cause = error.service_cause().unwrap_or_else(|| panic!("{case}: no cause of {error:?}"));
    assert_eq!(
        (cause.request_id(), cause.extended_request_id()),
        (Some(request_id), Some(extended)),
        "{case}"
    );
}

fn assert_logs_hidden(log: &LogCapture) {
    // At TRACE the SDK itself logs whole answers.
    for event in log.take().into_iter().filter(|event| event.level <= Level::DEBUG) {
        assert!(!event.text.contains(MARKER), "{}: {}", event.level, event.text);
    }
}

/// A server that answers one operation with this, and all others as usual.
fn server(operation: &'static str, answer: Answer) -> ScriptedKinesis {
    ScriptedKinesis::new(move |called, body| match called {
        _ if called == operation => answer.clone(),
        "GetShardIterator" => Answer::Json(200, json!({ "ShardIterator": "first" })),
        "DescribeStreamConsumer"
            if operation == "RegisterStreamConsumer" && body["ConsumerARN"].is_null() =>
        {
            Answer::Json(400, json!({ "__type": "ResourceNotFoundException" }))
        }
        _ => default_answer(called),
    })
}

#[tokio::test(start_paused = true)]
async fn errors_of_calls_hide_payloads_and_name_ids() {
    let log = LogCapture::install();
    for operation in [
        "DescribeStreamSummary",
        "ListShards",
        "ListStreamConsumers",
        "DescribeStreamConsumer",
        "RegisterStreamConsumer",
    ] {
        for answer in invalid_answers() {
            let case = format!("{operation}: {answer:?}");
            let server = server(operation, answer);
            let stream = KinesisStream::from_client(server.client(), STREAM);
            let error = match operation {
                "DescribeStreamSummary" => stream.describe().await.unwrap_err(),
                "ListShards" => stream.list_shards(&ShardFilter::All).await.unwrap_err(),
                "ListStreamConsumers" => stream.list_consumers().await.unwrap_err(),
                _ => {
                    let fan_out = RetrievalMode::FanOut(FanOutSettings::with_consumer("count"));
                    stream.with_retrieval(fan_out).ensure_consumer().await.unwrap_err()
                }
            };
            assert_hidden(&error, &case);
            assert_names_ids(&error, &case);
        }
    }
    assert_logs_hidden(&log);
}

#[tokio::test(start_paused = true)]
async fn errors_of_reads_hide_payloads_and_name_ids() {
    let log = LogCapture::install();
    for format in every_format() {
        for operation in ["GetShardIterator", "GetRecords"] {
            for answer in invalid_answers() {
                let case = format!("{format}: {operation}: {answer:?}");
                let server = server(operation, answer);
                let stream =
                    KinesisStream::from_client(server.client(), STREAM).with_get_records_format(format);
                let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
                // The second read may go another way than the first one.
                for _ in 0..2 {
                    let error = reader.next_batch().await.unwrap_err();
                    assert_hidden(&error, &case);
                    assert_names_ids(&error, &case);
                }
            }
        }
    }
    assert_logs_hidden(&log);
}

#[tokio::test(start_paused = true)]
async fn errors_of_subscriptions_hide_payloads_and_name_ids() {
    let log = LogCapture::install();
    let record = json!({ "Data": MARKER, "SequenceNumber": "1", "PartitionKey": "key" });
    let event = json!({ "Records": [record], "ContinuationSequenceNumber": "1", "MillisBehindLatest": 0 });
    let broken = [
        Part::Event(event),
        Part::Event(Value::from(MARKER)),
        Part::Frame(format!("{MARKER}, which is no message").into_bytes()),
        Part::Exception("KMSAccessDeniedException"),
        Part::Exception("InternalFailureException"),
    ];
    let sessions = broken.into_iter().map(|part| session([part, Part::Tear]));
    // A 200 that is no event stream fails at its first event, as the sessions do.
    for answer in sessions.chain(invalid_answers()) {
        let case = format!("{answer:?}");
        let server = server("SubscribeToShard", answer);
        let mut settings = FanOutSettings::with_consumer("count");
        settings.fall_back_to_polling = false;
        let stream = KinesisStream::from_client(server.client(), STREAM)
            .with_retrieval(RetrievalMode::FanOut(settings));
        let mut source = stream.open(&shard_id(), &ReadFrom::TrimHorizon).await.unwrap();
        let error = read_error(&mut *source).await;
        assert_hidden(&error, &case);
        assert_names_ids(&error, &case);
    }
    assert_logs_hidden(&log);
}

#[tokio::test(start_paused = true)]
async fn errors_of_dead_letters_hide_payloads() {
    let log = LogCapture::install();
    for answer in invalid_answers() {
        let case = format!("{answer:?}");
        let server = server("PutRecord", answer);
        let record = Record::new(17.into(), MARKER.into());
        let letter = DeadLetter::new("order-desk", "orders", ShardId::numbered(3), record, "no order");
        let error =
            KinesisDeadLetters::from_client(server.client(), "rejected").put(&letter).await.unwrap_err();
        assert_hidden(&*error, &case);
        assert!(error.to_string().contains(REQUEST_IDS.0), "{case}: {error}");
    }
    assert_logs_hidden(&log);
}
