//! Polling and listing with canned answers that no local server gives: pages, missing members, invalid values, children.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use axum::http::HeaderValue;
use axum::response::Response;
use kinesis_asl::{GetRecordsFormat, KinesisStream};
use lease_store::ShardId;
use serde_json::{Value, json};
use shard_worker::{ReadFrom, RecordSource, ShardFilter, SourceErrorKind, StreamSource};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::{CannedKinesis, STREAM, every_format, ok, refusal};

/// 1,700,000,000 seconds after 1970.
const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

fn stream(server: &CannedKinesis) -> KinesisStream {
    KinesisStream::from_client(server.client(), STREAM).with_idle_time_between_reads(Duration::ZERO)
}

async fn reader(server: &CannedKinesis, format: GetRecordsFormat, from: ReadFrom) -> Box<dyn RecordSource> {
    let stream = stream(server).with_get_records_format(format);
    stream.open(&ShardId::numbered(0), &from).await.unwrap()
}

fn listed_shard(number: u64) -> Value {
    json!({
        "ShardId": ShardId::numbered(number).as_str(),
        "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "340282366920938463463374607431768211455" },
        "SequenceNumberRange": { "StartingSequenceNumber": "1" },
    })
}

fn record(sequence_number: &str) -> Value {
    json!({
        "SequenceNumber": sequence_number,
        "ApproximateArrivalTimestamp": 1_700_000_000.123,
        "Data": "aGVsbG8=",
        "PartitionKey": "some key",
    })
}

/// An iterator whose text is its starting position.
fn iterator_for(request: &Value) -> Response {
    let start = [&request["ShardIteratorType"], &request["StartingSequenceNumber"]];
    let start: Vec<_> = start.into_iter().filter_map(Value::as_str).collect();
    ok(&json!({ "ShardIterator": start.join(" ") }))
}

#[tokio::test]
async fn further_pages_are_requested_with_the_token_alone() {
    let server =
        CannedKinesis::start(|operation, request| match (operation, request["NextToken"].as_str()) {
            ("ListShards", None) => {
                ok(&json!({ "Shards": [listed_shard(0), listed_shard(1)], "NextToken": "page 2" }))
            }
            ("ListShards", Some("page 2")) => ok(&json!({ "Shards": [listed_shard(2)] })),
            _ => refusal(400, "InvalidArgumentException"),
        })
        .await;
    let shards = stream(&server).list_shards(&ShardFilter::All).await.unwrap();
    assert_eq!(
        shards.iter().map(|shard| shard.shard_id.clone()).collect::<Vec<_>>(),
        [0, 1, 2].map(ShardId::numbered)
    );
    let expected = [json!({ "StreamName": STREAM, "MaxResults": 1000 }), json!({ "NextToken": "page 2" })];
    assert_eq!(server.requests(), expected.map(|request| ("ListShards".to_owned(), request)));
}

#[tokio::test]
async fn filter_is_sent_with_the_first_page_only() {
    let server = CannedKinesis::start(|_, request| match request["NextToken"].as_str() {
        None => ok(&json!({ "Shards": [listed_shard(8)], "NextToken": "page 2" })),
        Some(_) => ok(&json!({ "Shards": [listed_shard(9)] })),
    })
    .await;
    let stream = stream(&server);
    let instant = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let filters =
        [ShardFilter::Open, ShardFilter::OpenSince(instant), ShardFilter::After(ShardId::numbered(7))];
    for filter in filters {
        assert_eq!(stream.list_shards(&filter).await.unwrap().len(), 2);
    }
    let sent: Vec<Value> =
        server.requests().into_iter().map(|(_, request)| request["ShardFilter"].clone()).collect();
    let after = json!({ "Type": "AFTER_SHARD_ID", "ShardId": "shardId-000000000007" });
    let since = json!({ "Type": "FROM_TIMESTAMP", "Timestamp": 1_700_000_000 });
    let open = json!({ "Type": "AT_LATEST" });
    assert_eq!(sent, [open, Value::Null, since, Value::Null, after, Value::Null]);
}

fn summary(arn: &str) -> Value {
    json!({ "StreamDescriptionSummary": {
        "StreamName": STREAM,
        "StreamARN": arn,
        "StreamStatus": "ACTIVE",
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_690_000_000.789,
        "EnhancedMonitoring": [],
        "OpenShardCount": 1,
    }})
}

#[tokio::test]
async fn describe_returns_identity_retention_and_time() {
    const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/words";
    let server = CannedKinesis::start(|_, _| {
        let mut response = ok(&summary(ARN));
        response.headers_mut().insert("date", HeaderValue::from_static(DATE));
        response
    })
    .await;
    let description = stream(&server).describe().await.unwrap();
    assert_eq!(
        (description.identity.arn.as_str(), description.identity.creation_epoch_seconds),
        (ARN, 1_690_000_000)
    );
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    assert_eq!(description.retention, Some(Duration::from_secs(24 * 3600)));
    let early = date.duration_since(description.now.unwrap()).unwrap();
    assert!(early < Duration::from_secs(5), "at the date or slightly earlier, never later: {early:?}");
    assert_eq!(server.requests(), [("DescribeStreamSummary".to_owned(), json!({ "StreamName": STREAM }))]);
}

#[tokio::test]
async fn answer_without_content_is_no_stream_and_no_listing() {
    for body in [json!({}), json!({ "message": "of another service" })] {
        let server = CannedKinesis::start(move |_, _| ok(&body)).await;
        let stream = stream(&server);
        let described = stream.describe().await.unwrap_err();
        assert_eq!(described.kind(), SourceErrorKind::Unavailable, "{described}");
        let listed = stream.list_shards(&ShardFilter::All).await.unwrap_err();
        assert_eq!(listed.kind(), SourceErrorKind::Unavailable, "{listed}");
    }
    let server = CannedKinesis::start(|_, _| ok(&json!({ "Shards": [] }))).await;
    assert_eq!(stream(&server).list_shards(&ShardFilter::After(ShardId::numbered(0))).await.unwrap(), []);
}

#[tokio::test]
async fn repeated_listing_token_is_an_error() {
    let server = CannedKinesis::start(|_, request| {
        let next = if request["NextToken"] == "a" { "b" } else { "a" };
        ok(&json!({ "Shards": [listed_shard(0)], "NextToken": next }))
    })
    .await;
    let error = stream(&server).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn invalid_shard_of_a_listing_is_named() {
    let server = CannedKinesis::start(|_, _| {
        let mut shard = listed_shard(0);
        shard["HashKeyRange"]["EndingHashKey"] = json!("-1");
        ok(&json!({ "Shards": [shard] }))
    })
    .await;
    let error = stream(&server).list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        error.to_string().contains("shardId-000000000000") && error.to_string().contains("\"-1\""),
        "{error}"
    );
}

#[tokio::test]
async fn record_may_have_no_partition_key() {
    for format in every_format() {
        let server = CannedKinesis::start(|operation, request| match operation {
            "GetRecords" => {
                let mut records = [record("1"), record("2"), record("3")];
                records[0].as_object_mut().unwrap().remove("PartitionKey");
                records[1]["PartitionKey"] = json!("");
                ok(&json!({ "Records": records, "NextShardIterator": "next", "MillisBehindLatest": 1500 }))
            }
            _ => iterator_for(request),
        })
        .await;
        let batch = reader(&server, format, ReadFrom::TrimHorizon).await.next_batch().await.unwrap();
        let keys: Vec<_> = batch.records.iter().map(|record| record.partition_key.as_deref()).collect();
        assert_eq!(keys, [None, None, Some("some key")]);
        assert_eq!(&batch.records[0].data[..], b"hello");
        assert_eq!(batch.millis_behind_latest, Some(1500));
        let arrival = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(batch.records[0].approximate_arrival, Some(arrival));
    }
}

/// Servers that always report no lag would end a run to the tip after its first answer.
#[tokio::test]
async fn full_answer_without_lag_is_not_the_tip() {
    for format in every_format() {
        let reads = Arc::new(AtomicUsize::new(0));
        let server = CannedKinesis::start(move |operation, request| match operation {
            "GetRecords" => {
                let numbers =
                    if reads.fetch_add(1, Ordering::Relaxed) == 0 { 1..10_001 } else { 10_001..20_000 };
                let records: Vec<_> = numbers.map(|number| record(&number.to_string())).collect();
                ok(&json!({ "Records": records, "NextShardIterator": "next", "MillisBehindLatest": 0 }))
            }
            _ => iterator_for(request),
        })
        .await;
        let mut reader = reader(&server, format, ReadFrom::TrimHorizon).await;
        let mut lags = Vec::new();
        for _ in 0..2 {
            let batch = reader.next_batch().await.unwrap();
            lags.push((batch.records.len(), batch.millis_behind_latest));
        }
        assert_eq!(lags, [(10_000, None), (9_999, Some(0))], "{format:?}");
    }
}

#[tokio::test]
async fn invalid_sequence_number_is_named_without_loss() {
    for format in every_format() {
        let reads = Arc::new(AtomicUsize::new(0));
        let server = CannedKinesis::start(move |operation, request| match operation {
            "GetRecords" => {
                let second = if reads.fetch_add(1, Ordering::Relaxed) == 0 { "0x2" } else { "2" };
                ok(&json!({ "Records": [record("1"), record(second)], "NextShardIterator": "next" }))
            }
            _ => iterator_for(request),
        })
        .await;
        let mut reader = reader(&server, format, ReadFrom::TrimHorizon).await;
        let error = reader.next_batch().await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid);
        assert!(error.to_string().contains("\"0x2\"") && error.to_string().contains("shardId-"), "{error}");
        let batch = reader.next_batch().await.unwrap();
        let read: Vec<_> = batch.records.iter().map(|record| record.sequence_number.to_string()).collect();
        assert_eq!(read, ["1", "2"]);
    }
}

#[tokio::test]
async fn shard_end_has_children_and_is_repeated() {
    for format in every_format() {
        let server = CannedKinesis::start(|operation, request| match operation {
        "GetRecords" => {
            let child = |number: u64| {
                json!({
                    "ShardId": ShardId::numbered(number).as_str(),
                    "ParentShards": ["shardId-000000000000"],
                    "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "9" },
                })
            };
            ok(&json!({ "Records": [record("1")], "MillisBehindLatest": 0, "ChildShards": [child(1), child(2)] }))
        }
        _ => iterator_for(request),
    })
    .await;
        let mut reader = reader(&server, format, ReadFrom::TrimHorizon).await;
        let batch = reader.next_batch().await.unwrap();
        assert_eq!(batch.records.len(), 1);
        let children = batch.shard_end.unwrap().children;
        assert_eq!(
            children.iter().map(|child| child.shard_id.clone()).collect::<Vec<_>>(),
            [1, 2].map(ShardId::numbered)
        );
        assert!(
            children.iter().all(|child| child.parents.contains(&ShardId::numbered(0)) && !child.is_closed)
        );

        let again = reader.next_batch().await.unwrap();
        assert!(again.records.is_empty());
        assert_eq!(again.shard_end.unwrap().children, children);
        assert_eq!(server.requests().len(), 2);
    }
}

/// A reader of `LATEST` whose answers are: no records, then an error, then records.
async fn latest(
    format: GetRecordsFormat,
    date: Option<&'static str>,
    code: &'static str,
) -> (CannedKinesis, Box<dyn RecordSource>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let server = CannedKinesis::start(move |operation, request| match operation {
        "GetRecords" => match reads.fetch_add(1, Ordering::Relaxed) {
            0 => ok(&json!({ "Records": [], "NextShardIterator": "next", "MillisBehindLatest": 0 })),
            1 => refusal(400, code),
            _ => ok(&json!({ "Records": [record("7")], "NextShardIterator": "next" })),
        },
        _ => {
            let mut response = iterator_for(request);
            // Without this header the server adds its own date; an empty one counts as missing.
            response.headers_mut().insert("date", HeaderValue::from_static(date.unwrap_or("")));
            response
        }
    })
    .await;
    let reader = reader(&server, format, ReadFrom::Latest).await;
    (server, reader)
}

fn iterator_requests(server: &CannedKinesis) -> Vec<Value> {
    let requests = server.requests().into_iter();
    requests.filter(|(operation, _)| operation == "GetShardIterator").map(|(_, request)| request).collect()
}

#[tokio::test]
async fn expired_latest_iterator_resumes_from_its_time() {
    for format in every_format() {
        let (server, mut reader) = latest(format, Some(DATE), "ExpiredIteratorException").await;
        assert_eq!(reader.next_batch().await.unwrap().records, []);
        assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
        let requests = iterator_requests(&server);
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0]["ShardIteratorType"], "LATEST");
        assert_eq!(requests[1]["ShardIteratorType"], "AT_TIMESTAMP");
        // Earlier by the duration of the call and a second, because the header has whole seconds.
        let timestamp = requests[1]["Timestamp"].as_f64().unwrap();
        assert!((1_699_999_989.0..=1_699_999_999.0).contains(&timestamp), "{timestamp}");
        // An accepted iterator is followed by the next one of its answer.
        let read: Vec<_> =
            server.requests().into_iter().filter(|(operation, _)| operation == "GetRecords").collect();
        assert_eq!(read[1].1["ShardIterator"], "next");
    }
}

#[tokio::test]
async fn refused_position_is_invalid_and_is_kept() {
    for format in every_format() {
        let server = CannedKinesis::start(|operation, request| match operation {
            "GetShardIterator" if request["ShardIteratorType"] == "AT_SEQUENCE_NUMBER" => {
                refusal(400, "InvalidArgumentException")
            }
            "GetRecords" => ok(&json!({ "Records": [record("7")], "NextShardIterator": "next" })),
            _ => iterator_for(request),
        })
        .await;
        // The reader reports the refusal and does not move to another position; the caller may start at the oldest record.
        let mut refused = reader(&server, format, ReadFrom::At("5".parse().unwrap())).await;
        for _ in 0..2 {
            let error = refused.next_batch().await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Invalid, "{error}");
        }
        let mut oldest = reader(&server, format, ReadFrom::TrimHorizon).await;
        assert_eq!(oldest.next_batch().await.unwrap().records.len(), 1);
    }
}

#[tokio::test]
async fn latest_keeps_its_position_over_any_failure() {
    for format in every_format() {
        // The iterator is kept unless the failure may be about it; then reading resumes from its time.
        for (code, iterators) in [
            ("ProvisionedThroughputExceededException", vec!["LATEST"]),
            ("InternalFailure", vec!["LATEST"]),
            ("ExpiredTokenException", vec!["LATEST"]),
            ("ValidationException", vec!["LATEST", "AT_TIMESTAMP"]),
        ] {
            let (server, mut reader) = latest(format, Some(DATE), code).await;
            assert_eq!(reader.next_batch().await.unwrap().records, []);
            reader.next_batch().await.unwrap_err();
            assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
            let types: Vec<_> = iterator_requests(&server)
                .into_iter()
                .map(|request| request["ShardIteratorType"].clone())
                .collect();
            assert_eq!(types, iterators, "{code}");
        }
    }
}

#[tokio::test]
async fn latest_without_a_date_restarts_at_the_tip() {
    for format in every_format() {
        let (server, mut reader) = latest(format, None, "ExpiredIteratorException").await;
        assert_eq!(reader.next_batch().await.unwrap().records, []);
        assert_eq!(reader.next_batch().await.unwrap().records.len(), 1);
        let types: Vec<_> = iterator_requests(&server)
            .into_iter()
            .map(|request| request["ShardIteratorType"].clone())
            .collect();
        assert_eq!(types, ["LATEST", "LATEST"]);
    }
}

#[tokio::test]
async fn positions_are_sent_in_the_form_of_the_api() {
    for format in every_format() {
        let reads = Arc::new(AtomicUsize::new(0));
        let server = CannedKinesis::start(move |operation, request| match operation {
            "GetRecords" => match reads.fetch_add(1, Ordering::Relaxed) {
                1 | 3 => refusal(400, "ExpiredIteratorException"),
                read => ok(&json!({ "Records": [record(&read.to_string())], "NextShardIterator": "next" })),
            },
            _ => iterator_for(request),
        })
        .await;
        let mut from_number = reader(&server, format, ReadFrom::At("5".parse().unwrap())).await;
        from_number.next_batch().await.unwrap();
        from_number.next_batch().await.unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_900);
        let mut from_time = reader(&server, format, ReadFrom::AtTimestamp(time)).await;
        from_time.next_batch().await.unwrap();

        let requests = iterator_requests(&server);
        let starts: Vec<_> = requests
            .iter()
            .map(|request| {
                (request["ShardIteratorType"].as_str().unwrap(), request["StartingSequenceNumber"].as_str())
            })
            .collect();
        let expected = [
            ("AT_SEQUENCE_NUMBER", Some("5")),
            ("AFTER_SEQUENCE_NUMBER", Some("0")),
            ("AT_TIMESTAMP", None),
            ("AT_TIMESTAMP", None),
        ];
        assert_eq!(starts, expected);
        assert!(
            (requests[2]["Timestamp"].as_f64().unwrap() - 1_700_000_000.123).abs() < 1e-6,
            "{}",
            requests[2]
        );
    }
}

#[tokio::test]
async fn cancelled_read_loses_nothing() {
    for format in every_format() {
        let (reads, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let notifier = arrived.clone();
        let server = CannedKinesis::start(move |operation, request| match operation {
            "GetRecords" => {
                let iterator = request["ShardIterator"].as_str().unwrap();
                reads.fetch_add(1, Ordering::Relaxed);
                notifier.notify_one();
                let sequence_number = if iterator == "TRIM_HORIZON" { "1" } else { "2" };
                ok(&json!({ "Records": [record(sequence_number)], "NextShardIterator": "next" }))
            }
            _ => iterator_for(request),
        })
        .await;
        let mut reader = reader(&server, format, ReadFrom::TrimHorizon).await;
        tokio::select! {
            biased;
            () = arrived.notified() => {} // the service has answered, but the reader has not received the answer
            _ = reader.next_batch() => panic!("the read returned before it was cancelled"),
        }
        let read = async |reader: &mut Box<dyn RecordSource>| {
            reader.next_batch().await.unwrap().records[0].sequence_number.to_string()
        };
        assert_eq!(read(&mut reader).await, "1");
        assert_eq!(read(&mut reader).await, "2");
    }
}

#[tokio::test]
async fn throttled_read_is_not_retried() {
    // In the default format.
    let server = CannedKinesis::start(|operation, request| match operation {
        "GetShardIterator" => iterator_for(request),
        _ => refusal(400, "ProvisionedThroughputExceededException"),
    })
    .await;
    let retries = RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(1));
    let config = server.client().config().to_builder().retry_config(retries).build();
    let stream = KinesisStream::from_client(Client::from_conf(config), STREAM);
    let mut reader = stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap();
    assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Throttled);
    let reads = server.requests().into_iter().filter(|(operation, _)| operation == "GetRecords").count();
    assert_eq!(reads, 1, "each attempt counts towards the five reads a second");
    let counts = stream.read_counts();
    assert_eq!((counts.reads, counts.throttled, counts.timed_out, counts.failed), (1, 1, 0, 0));
}

#[tokio::test]
async fn memory_of_a_read_is_known_in_advance() {
    const MIB: u64 = 1024 * 1024;
    let server = CannedKinesis::start(|operation, request| match operation {
        "GetShardIterator" => iterator_for(request),
        _ => ok(&json!({ "Records": [record("7")], "NextShardIterator": "next", "MillisBehindLatest": 0 })),
    })
    .await;
    let mut reader = reader(&server, GetRecordsFormat::Sdk, ReadFrom::TrimHorizon).await;
    let started_at = Instant::now();
    // The SDK holds the text of the answer twice.
    assert_eq!(reader.ready().await, 10 * MIB * 4, "the largest answer");
    assert_eq!(server.requests(), [], "waiting makes no call");
    reader.next_batch().await.unwrap();
    let at_tip = reader.ready().await;
    assert!(started_at.elapsed() >= Duration::from_millis(200), "waits until the next read is due");
    assert!(at_tip <= 3 * MIB * 4, "{at_tip}");
    assert!(reader.next_batch().await.unwrap().memory_bytes() <= at_tip);
}
