//! Connections that silently carry no more bytes: over TLS and HTTP/2, every reader is back after one time-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use kinesis_asl::{FanOutSettings, GetRecordsFormat, KinesisStream, RetrievalMode};
use lease_store::dynamodb::DynamoDbLeaseStore;
use lease_store::{Consistency, LeaseStore as _, ShardId};
use serde_json::json;
use shard_worker::{ReadFrom, RecordSource, ShardFilter, SourceErrorKind, StreamSource as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::support::fan_out::{CONSUMER_ARN, consumer};
use super::support::scripted::{EPOCH_SECONDS, Events, Part, event, record};
use super::support::tls::{ProxiedServer, http_client};
use super::support::{
    REGION, STREAM, cbor, client_config, credentials, every_format, ok, operation_of, refusal,
};

/// The time-out of an attempt. AWS clients have 10 s; all times of these tests are scaled down alike.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds each wait of a test: all shards are back within it. A busy machine may lose more than the call under way
/// to the time-out.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// The shards that share a connection.
const SHARDS: usize = 6;

/// The most reads of a shard until its next record, far more than any test needs.
const MAX_READS: usize = 200;

fn app() -> Router {
    Router::new().fallback(|request: Request| async move {
        let operation = operation_of(&request);
        let is_cbor = request.headers().get("content-type").is_some_and(|value| value == cbor::CONTENT_TYPE);
        let answer = answer(&operation);
        if is_cbor { cbor::to_cbor(answer).await } else { answer }
    })
}

fn answer(operation: &str) -> Response {
    let shard = json!({
        "ShardId": "shardId-000000000000", "HashKeyRange": { "StartingHashKey": "0", "EndingHashKey": "7" },
        "SequenceNumberRange": { "StartingSequenceNumber": "1" },
    });
    match operation {
        "GetShardIterator" => ok(&json!({ "ShardIterator": "first" })),
        "GetRecords" => ok(&json!({
            "Records": [record(1)], "NextShardIterator": "next", "MillisBehindLatest": 1000,
        })),
        "ListShards" => ok(&json!({ "Shards": [shard] })),
        "DescribeStreamSummary" => ok(&json!({ "StreamDescriptionSummary": {
            "StreamName": STREAM, "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/words",
            "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": EPOCH_SECONDS,
            "EnhancedMonitoring": [], "OpenShardCount": 1,
        } })),
        "DescribeStreamConsumer" => ok(&json!({ "ConsumerDescription": consumer("ACTIVE") })),
        "SubscribeToShard" => {
            let events = (1..u64::from(u16::MAX)).flat_map(|number| {
                [Part::Event(event(&[number], Some(number), &[])), Part::Wait(ATTEMPT_TIMEOUT / 8)]
            });
            let parts = std::iter::once(Part::Accepted).chain(events.take(2 * MAX_READS)).collect();
            let body = Body::new(Events::new(parts, Arc::default()));
            let answer = Response::builder().header("content-type", "application/vnd.amazon.eventstream");
            answer.body(body).expect("an answer")
        }
        // The only call here that goes to DynamoDB.
        "Scan" => ok(&json!({ "Items": [], "Count": 0, "ScannedCount": 0 })),
        _ => refusal(400, "UnknownOperationException"),
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(BACK_WITHIN)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(BACK_WITHIN)
        .build()
}

fn kinesis(server: &ProxiedServer) -> Client {
    let config = client_config(server.url(), REGION).http_client(http_client()).timeout_config(timeouts());
    Client::from_conf(config.build())
}

/// Opens the shards, and reads from each of them until it has a record.
async fn open(stream: &KinesisStream) -> Vec<Box<dyn RecordSource>> {
    let mut sources = Vec::new();
    for index in 0..SHARDS {
        let shard_id = ShardId::new(format!("shardId-{index:012}")).unwrap();
        let mut source = stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap();
        assert_eq!(read_next(&mut *source).await, 0, "failed reads before the fault");
        sources.push(source);
    }
    sources
}

/// Reads until the next record, and returns how many reads failed before it.
async fn read_next(source: &mut dyn RecordSource) -> usize {
    let mut failures = 0;
    for _ in 0..MAX_READS {
        match source.next_batch().await {
            Ok(batch) if batch.records.is_empty() => {}
            Ok(_) => return failures,
            Err(error) => {
                assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
                failures += 1;
            }
        }
    }
    panic!("no record after {MAX_READS} reads, {failures} of which failed");
}

/// Reads the next record of all shards at the same time, and returns the most failed reads of a shard.
async fn all_read_next(sources: Vec<Box<dyn RecordSource>>) -> usize {
    let mut readers = JoinSet::new();
    for mut source in sources {
        readers.spawn(async move { read_next(&mut *source).await });
    }
    let failures = timeout(BACK_WITHIN, readers.join_all()).await.expect("all shards are back");
    failures.into_iter().max().unwrap_or_default()
}

#[tokio::test]
async fn polled_shards_leave_a_silent_connection() {
    for format in every_format() {
        let server = ProxiedServer::start(app()).await;
        let stream = KinesisStream::from_client(kinesis(&server), STREAM).with_get_records_format(format);
        let sources = open(&stream).await;
        assert_eq!(server.connections(), 1, "HTTP/2 shares one connection");
        server.turn_connections_into_black_holes();
        let lost = all_read_next(sources).await;
        assert!(lost >= 1, "each shard loses the read that was under way");
        assert!(server.connections() <= 1 + SHARDS, "new connections may race once");
    }
}

#[tokio::test]
async fn first_reads_of_shards_leave_a_silent_connection() {
    for format in every_format() {
        let server = ProxiedServer::start(app()).await;
        let stream = KinesisStream::from_client(kinesis(&server), STREAM).with_get_records_format(format);
        stream.list_shards(&ShardFilter::All).await.unwrap();
        server.turn_connections_into_black_holes();
        let mut sources = Vec::new();
        for index in 0..SHARDS {
            let shard_id = ShardId::new(format!("shardId-{index:012}")).unwrap();
            sources.push(stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap());
        }
        let lost = all_read_next(sources).await;
        assert!(lost >= 1, "each shard loses the call that was under way");
    }
}

#[tokio::test]
async fn fan_out_leaves_a_silent_connection() {
    let server = ProxiedServer::start(app()).await;
    let mut settings = FanOutSettings::with_consumer_arn(CONSUMER_ARN);
    settings.fall_back_to_polling = false;
    settings.inactivity_timeout = ATTEMPT_TIMEOUT;
    let stream = KinesisStream::from_client(kinesis(&server), STREAM)
        .with_rng(fastrand::Rng::with_seed(7))
        .with_retrieval(RetrievalMode::FanOut(settings));
    let sources = open(&stream).await;
    server.turn_connections_into_black_holes();
    assert_eq!(all_read_next(sources).await, 0, "the sessions are replaced without an error");
}

/// A library that counts resets refused a connection after 1,024 of them (actix/actix-web#3788). Each read that is cancelled
/// resets a stream of the connection.
#[tokio::test]
async fn reads_work_after_a_thousand_cancelled_ones() {
    const CANCELLED: usize = 17 * AT_ONCE;
    /// The reads that are in flight at the same time, fewer than a server allows streams.
    const AT_ONCE: usize = 64;
    /// No call is to time out, however busy the machine is.
    const PATIENCE: Duration = Duration::from_secs(120);
    let is_hanging = Arc::new(AtomicBool::new(true));
    let hanging = is_hanging.clone();
    let arrived = Arc::new(Semaphore::new(0));
    let arrivals = arrived.clone();
    let app = Router::new().fallback(move |request: Request| {
        let (hanging, arrivals) = (hanging.clone(), arrivals.clone());
        async move {
            let operation = operation_of(&request);
            if operation == "GetRecords" && hanging.load(Ordering::Relaxed) {
                arrivals.add_permits(1);
                std::future::pending::<()>().await;
            }
            answer(&operation)
        }
    });
    let server = ProxiedServer::start(app).await;
    let patient = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).operation_timeout(PATIENCE);
    let config = client_config(server.url(), REGION).http_client(http_client());
    let client = Client::from_conf(config.timeout_config(patient.build()).build());
    let stream = KinesisStream::from_client(client, STREAM).with_get_records_format(GetRecordsFormat::Json);
    let open = async |index: usize| {
        let shard_id = ShardId::new(format!("shardId-{index:012}")).unwrap();
        stream.open(&shard_id, &ReadFrom::TrimHorizon).await.unwrap()
    };
    for first in (0..CANCELLED).step_by(AT_ONCE) {
        let mut readers = JoinSet::new();
        for index in first..first + AT_ONCE {
            let mut source = open(index).await;
            readers.spawn(async move {
                // This server closes a connection when many streams are reset at once, and a read may be on it.
                while let Err(error) = source.next_batch().await {
                    assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
                }
            });
        }
        let all = u32::try_from(AT_ONCE).unwrap();
        timeout(PATIENCE, arrived.acquire_many(all)).await.expect("all reads arrive").unwrap().forget();
        readers.shutdown().await;
    }
    is_hanging.store(false, Ordering::Relaxed);
    assert!(read_next(&mut *open(CANCELLED).await).await <= 1, "reads work again");
}

#[tokio::test]
async fn listing_leaves_a_silent_connection() {
    let server = ProxiedServer::start(app()).await;
    let stream = KinesisStream::from_client(kinesis(&server), STREAM);
    stream.list_shards(&ShardFilter::All).await.unwrap();
    server.turn_connections_into_black_holes();
    let error = stream.list_shards(&ShardFilter::All).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    stream.list_shards(&ShardFilter::All).await.unwrap();
    stream.describe().await.unwrap();
}

#[tokio::test]
async fn lease_store_leaves_a_silent_connection() {
    let server = ProxiedServer::start(app()).await;
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new(REGION))
        .credentials_provider(credentials())
        .retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled())
        .http_client(http_client())
        .timeout_config(timeouts())
        .endpoint_url(server.url());
    let store =
        DynamoDbLeaseStore::new(aws_sdk_dynamodb::Client::from_conf(config.build()), "leases").unwrap();
    store.list(Consistency::Strong).await.unwrap();
    server.turn_connections_into_black_holes();
    store.list(Consistency::Strong).await.unwrap_err();
    store.list(Consistency::Strong).await.unwrap();
    assert_eq!(server.connections(), 2);
}
