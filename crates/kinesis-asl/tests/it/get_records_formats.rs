//! Reading from a server that answers in another encoding, in none, or fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use kinesis_asl::{GetRecordsFormat, KinesisStream};
use lease_store::ShardId;
use shard_worker::{ReadFrom, RecordSource, SourceErrorKind, StreamSource};
use tokio::time::Instant;

use crate::support::{REGION, Server, client_config, every_format};

const CBOR: &str = "application/x-amz-cbor-1.1";
const JSON: &str = "application/x-amz-json-1.1";

const JSON_ANSWER: &[u8] =
    br#"{"Records":[{"SequenceNumber":"1","Data":"aGVsbG8="}],"NextShardIterator":"next"}"#;
const CBOR_ANSWER: &[u8] =
    b"\xa2\x67Records\x81\xa2\x6eSequenceNumber\x611\x64Data\x45hello\x71NextShardIterator\x64next";

/// One `GetRecords` call that the server received.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReceivedCall {
    is_cbor: bool,
    /// Whether the SDK sent the request, rather than this crate directly.
    is_via_sdk: bool,
    body: Bytes,
    at: Instant,
}

/// A server that answers `GetRecords` with raw bytes: a closure maps the index of the call and the call to an answer.
struct RawKinesis {
    server: Server,
    calls: Arc<Mutex<Vec<ReceivedCall>>>,
}

impl RawKinesis {
    async fn start(
        answer: impl Fn(usize, &ReceivedCall) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let recorded = calls.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (recorded, answer) = (recorded.clone(), answer.clone());
            async move {
                let headers = request.headers().clone();
                let body = to_bytes(request.into_body(), 10_000).await.unwrap();
                if headers["x-amz-target"] == "Kinesis_20131202.GetShardIterator" {
                    return response(200, JSON, br#"{"ShardIterator":"first"}"#);
                }
                let is_cbor = headers["content-type"] == CBOR;
                let is_via_sdk = headers.contains_key("amz-sdk-invocation-id");
                let call = ReceivedCall { is_cbor, is_via_sdk, body, at: Instant::now() };
                let number = {
                    let mut recorded = recorded.lock().unwrap();
                    recorded.push(call.clone());
                    recorded.len() - 1
                };
                answer(number, &call)
            }
        });
        Self { server: Server::start(app).await, calls }
    }

    /// A reader of one shard, whose client is configured to this many attempts.
    async fn reader(&self, format: GetRecordsFormat, attempts: u32) -> Box<dyn RecordSource> {
        let retry = RetryConfig::standard()
            .with_max_attempts(attempts)
            .with_initial_backoff(Duration::from_millis(1));
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(5)).build();
        let config = client_config(self.server.url(), REGION).retry_config(retry).timeout_config(timeouts);
        let stream = KinesisStream::from_client(Client::from_conf(config.build()), "words")
            .with_idle_time_between_reads(Duration::ZERO)
            .with_get_records_format(format);
        stream.open(&ShardId::numbered(3), &ReadFrom::TrimHorizon).await.unwrap()
    }

    fn calls(&self) -> Vec<ReceivedCall> {
        self.calls.lock().unwrap().clone()
    }

    fn encodings(&self) -> Vec<&'static str> {
        self.calls().iter().map(|call| if call.is_cbor { "CBOR" } else { "JSON" }).collect()
    }
}

fn response(status: u16, content_type: &str, body: &[u8]) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Body::from(body.to_vec()))
        .unwrap()
}

fn valid(call: &ReceivedCall) -> Response {
    if call.is_cbor { response(200, CBOR, CBOR_ANSWER) } else { response(200, JSON, JSON_ANSWER) }
}

async fn read(reader: &mut Box<dyn RecordSource>) {
    let batch = reader.next_batch().await.unwrap();
    assert_eq!(batch.records.len(), 1);
    assert_eq!(&batch.records[0].data[..], b"hello");
}

#[tokio::test]
async fn server_without_cbor_is_read_in_json() {
    for (status, content_type, body) in [
        (415, "text/plain", &b"unsupported"[..]),
        (400, JSON, br#"{"__type":"SerializationException"}"#),
        (400, JSON, br#"{"__type":"com.amazon.coral.service#UnknownOperationException"}"#),
        (400, "text/html", b"<html>Unknown format</html>"),
        (404, "text/plain", b""),
    ] {
        let body = body.to_vec();
        let server =
            RawKinesis::start(
                move |_, call| {
                    if call.is_cbor { response(status, content_type, &body) } else { valid(call) }
                },
            )
            .await;
        let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
        for _ in 0..3 {
            read(&mut reader).await;
        }
        assert_eq!(server.encodings(), ["CBOR", "JSON", "JSON", "JSON"], "{status} {content_type}");
    }
}

#[tokio::test]
async fn direct_request_notices_a_refusal_of_cbor() {
    let server = RawKinesis::start(|number, call| {
        if call.is_cbor && number >= 2 { response(415, "text/plain", b"") } else { valid(call) }
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 3).await;
    for _ in 0..4 {
        read(&mut reader).await;
    }
    assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR", "JSON", "JSON"]);
}

#[tokio::test]
async fn answer_is_decoded_in_the_encoding_it_arrives_in() {
    // The content type is wrong.
    let server = RawKinesis::start(|_, _| response(200, CBOR, JSON_ANSWER)).await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    for _ in 0..3 {
        read(&mut reader).await;
    }
    assert_eq!(server.encodings(), ["CBOR", "JSON", "JSON"]);
    let server = RawKinesis::start(|_, _| response(200, JSON, CBOR_ANSWER)).await;
    let mut reader = server.reader(GetRecordsFormat::Json, 1).await;
    read(&mut reader).await;
    read(&mut reader).await;
}

#[tokio::test]
async fn other_refusals_do_not_change_the_encoding() {
    for (status, body) in [
        (400, &br#"{"__type":"ProvisionedThroughputExceededException"}"#[..]),
        (400, br#"{"__type":"KMSDisabledException"}"#),
        (400, br#"{"__type":"ValidationException"}"#),
        (403, b"<html>forbidden</html>"),
        (503, b"<html>busy</html>"),
    ] {
        let server = RawKinesis::start(
            move |number, call| {
                if number == 1 { response(status, JSON, body) } else { valid(call) }
            },
        )
        .await;
        let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
        read(&mut reader).await;
        reader.next_batch().await.unwrap_err();
        read(&mut reader).await;
        assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR"], "{status}");
    }
    // A server that refuses JSON as well may still accept CBOR later.
    let server = RawKinesis::start(
        |number, call| {
            if number < 2 { response(404, "text/plain", b"") } else { valid(call) }
        },
    )
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    reader.next_batch().await.unwrap_err();
    read(&mut reader).await;
    assert_eq!(server.encodings(), ["CBOR", "JSON", "CBOR"]);
}

#[tokio::test]
async fn malformed_answer_is_reported_and_retried() {
    for format in every_format() {
        let server = RawKinesis::start(|number, call| match (number, call.is_cbor) {
            (1 | 2, true) => response(200, CBOR, &CBOR_ANSWER[..30]),
            (1 | 2, false) => response(200, JSON, &JSON_ANSWER[..30]),
            _ => valid(call),
        })
        .await;
        let mut reader = server.reader(format, 1).await;
        read(&mut reader).await;
        for _ in 0..2 {
            let error = reader.next_batch().await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Unavailable);
            assert!(error.is_retryable());
            let message = error.to_string();
            assert!(message.contains("\"words\"") && message.contains("shardId-000000000003"), "{message}");
            if format != GetRecordsFormat::Sdk {
                let encoding = format.to_string();
                for part in ["GetRecords", &encoding, "at byte "] {
                    assert!(message.contains(part), "{part} is not in {message}");
                }
            }
        }
        read(&mut reader).await;
        let iterators: Vec<_> = server.calls().into_iter().map(|call| call.body).collect();
        assert!(iterators[1..].iter().all(|body| *body == iterators[1]), "the iterator is kept");
    }
}

#[tokio::test]
async fn permanently_malformed_cbor_falls_back_to_json() {
    let server = RawKinesis::start(|_, call| {
        if call.is_cbor { response(200, CBOR, b"\xa1\x67Records\x05") } else { valid(call) }
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    for _ in 0..3 {
        reader.next_batch().await.unwrap_err();
    }
    read(&mut reader).await;
    assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR", "JSON"]);
}

#[tokio::test]
async fn server_errors_on_cbor_fall_back_to_json() {
    let server = RawKinesis::start(|_, call| {
        if call.is_cbor {
            response(500, "text/html", b"<html>Internal Server Error</html>")
        } else {
            valid(call)
        }
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    for _ in 0..3 {
        reader.next_batch().await.unwrap_err();
    }
    read(&mut reader).await;
    assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR", "JSON"]);
}

#[tokio::test]
async fn base64_payload_in_cbor_is_decoded() {
    let server = RawKinesis::start(|_, _| {
        let answer = b"\xa2\x67Records\x81\xa2\x6eSequenceNumber\x611\x64Data\x68aGVsbG8=\x71NextShardIterator\x64next";
        response(200, CBOR, answer)
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    read(&mut reader).await;
    read(&mut reader).await;
    assert_eq!(server.encodings(), ["CBOR", "CBOR"]);
}

#[tokio::test]
async fn after_a_failed_direct_request_the_sdk_is_used() {
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        for (status, body, expected) in [
            (500, &br#"{"__type":"InternalFailure"}"#[..], [true, false, true, true, false]),
            (503, b"busy", [true, false, true, true, false]),
            (200, b"neither", [true, false, true, false, false]),
            // The SDK cannot do better for a throttled shard.
            (
                400,
                br#"{"__type":"ProvisionedThroughputExceededException"}"#,
                [true, false, false, false, false],
            ),
        ] {
            let server = RawKinesis::start(move |number, call| match number {
                1 | 2 => response(status, JSON, body),
                _ => valid(call),
            })
            .await;
            let mut reader = server.reader(format, 3).await;
            read(&mut reader).await;
            reader.next_batch().await.unwrap_err();
            reader.next_batch().await.unwrap_err();
            read(&mut reader).await;
            read(&mut reader).await;
            let via_sdk: Vec<_> = server.calls().iter().map(|call| call.is_via_sdk).collect();
            assert_eq!(via_sdk, expected, "{format} {status}");
        }
    }
}

#[tokio::test]
async fn read_is_attempted_once_whatever_the_retry_config() {
    for format in every_format() {
        for attempts in [1, 3] {
            let server = RawKinesis::start(|number, call| {
                if number == 0 {
                    valid(call)
                } else {
                    response(500, JSON, br#"{"__type":"InternalFailure"}"#)
                }
            })
            .await;
            let mut reader = server.reader(format, attempts).await;
            read(&mut reader).await;
            for read in 1..=2 {
                let error = reader.next_batch().await.unwrap_err();
                assert_eq!(error.kind(), SourceErrorKind::Unavailable);
                assert_eq!(server.calls().len(), 1 + read, "{format}, {attempts} attempts, read {read}");
            }
        }
    }
}

/// With the default settings, a caller that retries at once makes at most five requests a second, whatever fails.
#[tokio::test]
async fn failing_reads_never_exceed_five_a_second() {
    const READS_PER_SECOND: usize = 5;
    let refuses_cbor = |_: usize, call: &ReceivedCall| {
        if call.is_cbor { response(415, "text/plain", b"") } else { response(503, "text/plain", b"busy") }
    };
    let fails = |number: usize, call: &ReceivedCall| {
        if number.is_multiple_of(3) { valid(call) } else { response(500, JSON, b"{}") }
    };
    let throttles = |_: usize, _: &ReceivedCall| {
        response(400, JSON, br#"{"__type":"ProvisionedThroughputExceededException"}"#)
    };
    let servers = [
        RawKinesis::start(refuses_cbor).await,
        RawKinesis::start(fails).await,
        RawKinesis::start(throttles).await,
    ];
    let read_all = async |server: &RawKinesis| {
        let config = client_config(server.server.url(), REGION).retry_config(RetryConfig::standard());
        let stream = KinesisStream::from_client(Client::from_conf(config.build()), "words");
        let mut reader = stream.open(&ShardId::numbered(3), &ReadFrom::TrimHorizon).await.unwrap();
        while server.calls().len() < 2 * READS_PER_SECOND {
            // Only the number of requests matters.
            let _ = reader.next_batch().await;
        }
        let times: Vec<_> = server.calls().iter().map(|call| call.at).collect();
        for window in times.windows(READS_PER_SECOND + 1) {
            let took = window[READS_PER_SECOND] - window[0];
            // Allow for the jitter of the network.
            assert!(took > Duration::from_millis(950), "more than {READS_PER_SECOND} reads in {took:?}");
        }
    };
    tokio::join!(read_all(&servers[0]), read_all(&servers[1]), read_all(&servers[2]));
    assert!(servers[0].calls()[0].is_cbor, "the default requests CBOR");
}

#[tokio::test]
async fn route_is_learnt_again_after_a_denial() {
    let server = RawKinesis::start(|number, call| match number {
        1 => response(403, JSON, br#"{"__type":"InvalidSignatureException"}"#),
        _ => valid(call),
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    read(&mut reader).await;
    assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Denied);
    read(&mut reader).await;
    read(&mut reader).await;
    let via_sdk: Vec<_> = server.calls().iter().map(|call| call.is_via_sdk).collect();
    assert_eq!(via_sdk, [true, false, true, false]);
}
