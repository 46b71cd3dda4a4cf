//! Bounds the allocations of a read, counted from the socket to the batch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod rendered_server;

use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::event_stream::{Header, HeaderValue, Message};
use aws_sdk_kinesis::{Client, Config};
use aws_smithy_eventstream::frame::write_message_to;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http_body::Frame;
use kinesis_asl::{FanOutSettings, GetRecordsFormat, KinesisStream, RetrievalMode};
use lease_store::ShardId;
use rendered_server::{Shape, serve};
use serde_json::json;
use shard_worker::{ReadFrom, RecordSource, StreamSource};
use tokio::runtime::Runtime;

/// Reads before counting: the first learns the route, and the connection grows its buffers.
const WARM_UP_READS: usize = 3;

/// The number of counted reads, of which the minimum is used.
const COUNTED_READS: usize = 4;

/// Allocations allowed for the frames of an answer: on a busy machine an answer arrives in more frames.
const FRAME_ALLOCATIONS: u64 = 25;

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn stream_at(url: String) -> KinesisStream {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(url)
        .build();
    KinesisStream::from_client(Client::from_conf(config), "words")
        .with_idle_time_between_reads(Duration::ZERO)
        .without_byte_limit()
}

/// A reader of a server whose answers have this shape. Only the reading thread is counted, not the server's.
#[allow(clippy::disallowed_methods)] // the server must not run in the measured runtime
fn reader(runtime: &Runtime, shape: Shape, format: GetRecordsFormat) -> Box<dyn RecordSource> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(&listener, shape.render()));
    let stream = stream_at(url).with_get_records_format(format);
    runtime.block_on(async {
        stream.describe().await.unwrap();
        stream.open(&ShardId::numbered(0), &ReadFrom::TrimHorizon).await.unwrap()
    })
}

/// The allocations of one read of an answer of this shape.
fn allocations(shape: Shape, format: GetRecordsFormat) -> u64 {
    let runtime = new_runtime();
    let mut reader = reader(&runtime, shape, format);
    let mut read = || {
        let batch = runtime.block_on(reader.next_batch()).unwrap();
        assert_eq!(batch.records.len(), shape.records);
    };
    (0..WARM_UP_READS).for_each(|_| read());
    // The number of frames of an answer depends on the load of the machine.
    (0..COUNTED_READS).map(|_| allocation_counter::measure(&mut read).count_total).min().unwrap()
}

#[test]
fn a_record_needs_no_allocation_of_its_own() {
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        for (records, payload_bytes) in [(1000, 1000), (10_000, 100)] {
            let counted = allocations(Shape { records, payload_bytes }, format);
            println!("{format}, {records} records of {payload_bytes} bytes: {counted} allocations");
            // 0.05 for each record, plus the frames of the answer.
            let allowed = records as u64 / 20 + FRAME_ALLOCATIONS;
            assert!(counted <= allowed, "{format}: {counted} allocations for {records} records");
        }
    }
}

#[test]
fn empty_read_needs_a_third_of_the_sdks_allocations() {
    let of = |format| allocations(Shape { records: 0, payload_bytes: 0 }, format);
    let by_the_sdk = of(GetRecordsFormat::Sdk);
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json] {
        let counted = of(format);
        println!("{format}: {counted} allocations, the SDK {by_the_sdk}");
        assert!(counted * 3 <= by_the_sdk, "{format}: {counted} allocations, the SDK {by_the_sdk}");
    }
}

/// Reads at the tip count too: a record of this size is written at once, whatever a shard accepts in a second.
#[test]
fn record_of_ten_megabytes_stays_within_the_reservation() {
    let shape = Shape { records: 1, payload_bytes: 10 * 1024 * 1024 };
    for format in [GetRecordsFormat::Cbor, GetRecordsFormat::Json, GetRecordsFormat::Sdk] {
        let runtime = new_runtime();
        let mut reader = reader(&runtime, shape, format);
        for read in 0..3 {
            let reserved = runtime.block_on(reader.ready());
            let mut batch = None;
            let counted =
                allocation_counter::measure(|| batch = Some(runtime.block_on(reader.next_batch()).unwrap()));
            println!("{format}, read {read}: {} of {reserved} bytes", counted.bytes_max);
            assert_eq!(batch.map(|batch| batch.records.len()), Some(1));
            assert!(counted.bytes_max <= reserved, "{format}, read {read}: {counted:?} of {reserved}");
        }
    }
}

const CONSUMER_ARN: &str = "arn:aws:kinesis:eu-west-1:000000000000:stream/words/consumer/count:1700000000";

/// The first frame of a subscription, and then nothing.
struct Accepted(Option<Bytes>);

impl http_body::Body for Accepted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

/// Accepts each subscription.
async fn accept(request: Request) -> Response {
    let target = request.headers().get("x-amz-target").map(|target| target.to_str().unwrap().to_owned());
    if target.is_some_and(|target| target.ends_with(".DescribeStreamConsumer")) {
        let consumer = json!({
            "ConsumerName": "count", "ConsumerARN": CONSUMER_ARN, "ConsumerStatus": "ACTIVE",
            "ConsumerCreationTimestamp": 1_700_000_000,
        });
        return json!({ "ConsumerDescription": consumer }).to_string().into_response();
    }
    let header = |name, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(Bytes::from_static(b"{}"))
        .add_header(header(":message-type", "event"))
        .add_header(header(":event-type", "initial-response"));
    let mut frame = Vec::new();
    write_message_to(&message, &mut frame).unwrap();
    Body::new(Accepted(Some(frame.into()))).into_response()
}

/// The certificates of the system are the largest part of the state of a client: all shards share them.
#[test]
#[allow(clippy::disallowed_methods)] // the server must not run in the measured runtime
fn subscriptions_share_the_tls_state() {
    const SHARDS: usize = 50;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        new_runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(accept)).await
        })
    });
    let settings = FanOutSettings::with_consumer_arn(CONSUMER_ARN);
    let stream = stream_at(url).with_retrieval(RetrievalMode::FanOut(settings));
    let runtime = new_runtime();
    let subscribe = |number| {
        runtime.block_on(async {
            let mut source = stream.open(&ShardId::numbered(number), &ReadFrom::TrimHorizon).await.unwrap();
            assert_eq!(source.ready().await, 0, "subscribing needs no memory for records");
            assert_eq!(source.next_batch().await.unwrap().records.len(), 0);
            source
        })
    };
    let mut sources = vec![subscribe(0)];
    let counted = allocation_counter::measure(|| sources.extend((1..=SHARDS as u64).map(subscribe)));
    assert_eq!(stream.fan_out_status().unwrap().subscribed_shards, SHARDS + 1);
    let each = counted.bytes_current / i64::try_from(SHARDS).unwrap();
    println!("{each} bytes for each further shard");
    assert!(each < 64 * 1024, "{each} bytes for each further shard");
}
