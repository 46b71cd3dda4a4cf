//! What happens when a server speaks another format than it was asked in, speaks none, or fails in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod support;

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
use support::{REGION, Server, client_config, every_format};
use tokio::time::Instant;

const CBOR: &str = "application/x-amz-cbor-1.1";
const JSON: &str = "application/x-amz-json-1.1";

const JSON_ANSWER: &[u8] =
    br#"{"Records":[{"SequenceNumber":"1","Data":"aGVsbG8="}],"NextShardIterator":"next"}"#;
const CBOR_ANSWER: &[u8] =
    b"\xa2\x67Records\x81\xa2\x6eSequenceNumber\x611\x64Data\x45hello\x71NextShardIterator\x64next";

/// One call of `GetRecords`, as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    is_cbor: bool,
    /// Whether the SDK's machinery sent it.
    is_of_the_sdk: bool,
    body: Bytes,
    at: Instant,
}

/// A server whose answers to `GetRecords` are bytes: a closure gets the number of the call and the call.
struct RawKinesis {
    server: Server,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl RawKinesis {
    async fn start(answer: impl Fn(usize, &Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let app = Router::new().fallback(move |request: Request| {
            let (noted, answer) = (noted.clone(), answer.clone());
            async move {
                let headers = request.headers().clone();
                let body = to_bytes(request.into_body(), 10_000).await.unwrap();
                if headers["x-amz-target"] == "Kinesis_20131202.GetShardIterator" {
                    return response(200, JSON, br#"{"ShardIterator":"first"}"#);
                }
                let is_cbor = headers["content-type"] == CBOR;
                let is_of_the_sdk = headers.contains_key("amz-sdk-invocation-id");
                let call = Seen { is_cbor, is_of_the_sdk, body, at: Instant::now() };
                let number = {
                    let mut noted = noted.lock().unwrap();
                    noted.push(call.clone());
                    noted.len() - 1
                };
                answer(number, &call)
            }
        });
        Self { server: Server::start(app).await, seen }
    }

    /// Reads one shard, with so many attempts of a call.
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

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn encodings(&self) -> Vec<&'static str> {
        self.seen().iter().map(|call| if call.is_cbor { "CBOR" } else { "JSON" }).collect()
    }
}

fn response(status: u16, content_type: &str, body: &[u8]) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Body::from(body.to_vec()))
        .unwrap()
}

fn sound(call: &Seen) -> Response {
    if call.is_cbor { response(200, CBOR, CBOR_ANSWER) } else { response(200, JSON, JSON_ANSWER) }
}

async fn read(reader: &mut Box<dyn RecordSource>) {
    let batch = reader.next_batch().await.unwrap();
    assert_eq!(batch.records.len(), 1);
    assert_eq!(&batch.records[0].data[..], b"hello");
}

#[tokio::test]
async fn a_server_that_does_not_speak_cbor_is_asked_in_json_from_then_on() {
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
                    if call.is_cbor { response(status, content_type, &body) } else { sound(call) }
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
async fn a_server_that_starts_to_refuse_cbor_is_noticed_on_the_direct_way() {
    let server = RawKinesis::start(|number, call| {
        if call.is_cbor && number >= 2 { response(415, "text/plain", b"") } else { sound(call) }
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 3).await;
    for _ in 0..4 {
        read(&mut reader).await;
    }
    assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR", "JSON", "JSON"]);
}

#[tokio::test]
async fn an_answer_is_read_in_the_encoding_in_which_it_comes() {
    // Whatever it is labelled.
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
async fn refusals_that_are_not_about_the_encoding_keep_it() {
    for (status, body) in [
        (400, &br#"{"__type":"ProvisionedThroughputExceededException"}"#[..]),
        (400, br#"{"__type":"KMSDisabledException"}"#),
        (400, br#"{"__type":"ValidationException"}"#),
        (403, b"<html>forbidden</html>"),
        (503, b"<html>busy</html>"),
    ] {
        let server = RawKinesis::start(
            move |number, call| {
                if number == 1 { response(status, JSON, body) } else { sound(call) }
            },
        )
        .await;
        let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
        read(&mut reader).await;
        reader.next_batch().await.unwrap_err();
        read(&mut reader).await;
        assert_eq!(server.encodings(), ["CBOR", "CBOR", "CBOR"], "{status}");
    }
    // And a server that refuses everything has said nothing about it.
    let server = RawKinesis::start(
        |number, call| {
            if number < 2 { response(404, "text/plain", b"") } else { sound(call) }
        },
    )
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    reader.next_batch().await.unwrap_err();
    read(&mut reader).await;
    assert_eq!(server.encodings(), ["CBOR", "JSON", "CBOR"]);
}

#[tokio::test]
async fn a_malformed_answer_is_named_and_changes_nothing() {
    for format in every_format() {
        let server = RawKinesis::start(|number, call| match (number, call.is_cbor) {
            (1 | 2, true) => response(200, CBOR, &CBOR_ANSWER[..30]),
            (1 | 2, false) => response(200, JSON, &JSON_ANSWER[..30]),
            _ => sound(call),
        })
        .await;
        let mut reader = server.reader(format, 1).await;
        read(&mut reader).await;
        for _ in 0..2 {
            let error = reader.next_batch().await.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Unavailable);
            assert!(error.is_retryable());
            let said = error.to_string();
            assert!(said.contains("\"words\"") && said.contains("shardId-000000000003"), "{said}");
            if format != GetRecordsFormat::Sdk {
                let encoding = format.to_string();
                for part in ["GetRecords", &encoding, "at byte "] {
                    assert!(said.contains(part), "{part} is not in {said}");
                }
            }
        }
        read(&mut reader).await;
        let iterators: Vec<_> = server.seen().into_iter().map(|call| call.body).collect();
        assert!(iterators[1..].iter().all(|body| *body == iterators[1]), "the iterator was kept");
    }
}

#[tokio::test]
async fn answers_that_can_never_be_read_end_in_json() {
    let server = RawKinesis::start(|_, call| {
        if call.is_cbor { response(200, CBOR, b"\xa1\x67Records\x05") } else { sound(call) }
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
async fn a_server_that_fails_on_cbor_is_asked_in_json() {
    let server = RawKinesis::start(|_, call| {
        if call.is_cbor {
            response(500, "text/html", b"<html>Internal Server Error</html>")
        } else {
            sound(call)
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
async fn a_payload_as_base64_in_cbor_is_decoded() {
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
async fn after_a_direct_call_that_fails_the_sdk_makes_the_next_one() {
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        for (status, body, expected) in [
            (500, &br#"{"__type":"InternalFailure"}"#[..], [true, false, true, true, false]),
            (503, b"busy", [true, false, true, true, false]),
            (200, b"neither", [true, false, true, false, false]),
            // The SDK knows no more about a shard that is read too often.
            (
                400,
                br#"{"__type":"ProvisionedThroughputExceededException"}"#,
                [true, false, false, false, false],
            ),
        ] {
            let server = RawKinesis::start(move |number, call| match number {
                1 | 2 => response(status, JSON, body),
                _ => sound(call),
            })
            .await;
            let mut reader = server.reader(format, 3).await;
            read(&mut reader).await;
            reader.next_batch().await.unwrap_err();
            reader.next_batch().await.unwrap_err();
            read(&mut reader).await;
            read(&mut reader).await;
            let by_the_sdk: Vec<_> = server.seen().iter().map(|call| call.is_of_the_sdk).collect();
            assert_eq!(by_the_sdk, expected, "{format} {status}");
        }
    }
}

#[tokio::test]
async fn a_read_is_tried_once_in_every_format_whatever_the_client_says() {
    for format in every_format() {
        for attempts in [1, 3] {
            let server = RawKinesis::start(|number, call| {
                if number == 0 {
                    sound(call)
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
                assert_eq!(server.seen().len(), 1 + read, "{format}, {attempts} attempts, read {read}");
            }
        }
    }
}

/// Whatever fails, and with the default settings: a caller that asks again at once makes five requests in a second.
#[tokio::test]
async fn no_second_has_more_reads_than_aws_allows_whatever_fails() {
    const READS_PER_SECOND: usize = 5;
    let refuses_cbor = |_: usize, call: &Seen| {
        if call.is_cbor { response(415, "text/plain", b"") } else { response(503, "text/plain", b"busy") }
    };
    let fails = |number: usize, call: &Seen| {
        if number.is_multiple_of(3) { sound(call) } else { response(500, JSON, b"{}") }
    };
    let throttles =
        |_: usize, _: &Seen| response(400, JSON, br#"{"__type":"ProvisionedThroughputExceededException"}"#);
    let servers = [
        RawKinesis::start(refuses_cbor).await,
        RawKinesis::start(fails).await,
        RawKinesis::start(throttles).await,
    ];
    let read_all = async |server: &RawKinesis| {
        let config = client_config(server.server.url(), REGION).retry_config(RetryConfig::standard());
        let stream = KinesisStream::from_client(Client::from_conf(config.build()), "words");
        let mut reader = stream.open(&ShardId::numbered(3), &ReadFrom::TrimHorizon).await.unwrap();
        while server.seen().len() < 2 * READS_PER_SECOND {
            // What comes of it is not the question.
            let _ = reader.next_batch().await;
        }
        let times: Vec<_> = server.seen().iter().map(|call| call.at).collect();
        for window in times.windows(READS_PER_SECOND + 1) {
            let took = window[READS_PER_SECOND] - window[0];
            // What a request takes on its way differs.
            assert!(took > Duration::from_millis(950), "{READS_PER_SECOND} reads and one more in {took:?}");
        }
    };
    tokio::join!(read_all(&servers[0]), read_all(&servers[1]), read_all(&servers[2]));
    assert!(servers[0].seen()[0].is_cbor, "the default asks in CBOR");
}

#[tokio::test]
async fn after_a_denial_the_sdk_finds_its_way_anew() {
    let server = RawKinesis::start(|number, call| match number {
        1 => response(403, JSON, br#"{"__type":"InvalidSignatureException"}"#),
        _ => sound(call),
    })
    .await;
    let mut reader = server.reader(GetRecordsFormat::Cbor, 1).await;
    read(&mut reader).await;
    assert_eq!(reader.next_batch().await.unwrap_err().kind(), SourceErrorKind::Denied);
    read(&mut reader).await;
    read(&mut reader).await;
    let by_the_sdk: Vec<_> = server.seen().iter().map(|call| call.is_of_the_sdk).collect();
    assert_eq!(by_the_sdk, [true, false, true, false]);
}
